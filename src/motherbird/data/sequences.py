"""Hashes of sequences of words, for near-duplicates and decontamination.

A word is a sequence of letters and digits, in lower case; other ASCII characters and the general
and East Asian punctuation separate words. Scripts without spaces between words have no such words:
there, each character is a part of a word. Two characters of Chinese or Japanese count as a word,
and four of Thai, Lao, Khmer or Burmese, which is about the average length of their words.
"""

import numpy as np

from ..arrays import Int, UInt64

BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(BASE, -1, 1 << 64)
_SPACE = ord(" ")
_WORD = 4  # quarter words of a word; of a character of the other scripts: 2 or 1
_SEPARATORS = (
    (0x00, 0x2F), (0x3A, 0x60), (0x7B, 0x7F), (0x2000, 0x206F), (0x3000, 0x3003),
    (0x3008, 0x3020), (0x3030, 0x3030), (0x303D, 0x303F), (0xFF00, 0xFF0F), (0xFF1A, 0xFF20),
    (0xFF3B, 0xFF40), (0xFF5B, 0xFF65),
)  # fmt: skip
_HALF_WORDS = (  # kana, Bopomofo and Han
    (0x3005, 0x3007), (0x3021, 0x3029), (0x3031, 0x3035), (0x3041, 0x30FF), (0x3105, 0x312F),
    (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F),
    (0x1B000, 0x1B16F), (0x20000, 0x3FFFF),
)  # fmt: skip
_QUARTER_WORDS = (  # Thai and Lao, Burmese, Khmer
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0xA9E0, 0xA9FF), (0xAA60, 0xAA7F),
)  # fmt: skip


def _quarters() -> Int[np.ndarray, " characters"]:
    """Return the quarter words of every character: 4 if it is a letter of a word, 0 if none."""
    table = np.full(0x110000, _WORD, np.int8)
    for quarters, ranges in ((0, _SEPARATORS), (2, _HALF_WORDS), (1, _QUARTER_WORDS)):
        for first, last in ranges:
            table[first : last + 1] = quarters
    return table


_QUARTERS = _quarters()


def _powers(base: int, count: int) -> UInt64[np.ndarray, " n"]:
    """Return 1, b, b^2 ... modulo 2^64."""
    powers = np.full(count, base, np.uint64)
    powers[:1] = 1
    return np.multiply.accumulate(powers)


def sequences(
    text: str, words: int
) -> tuple[UInt64[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"], str]:
    """Return every sequence of ``words`` words, or of as many characters as count as these.

    The hash of a sequence is a polynomial in its characters (Karp and Rabin 1987), computed for all
    sequences at once as differences of prefix sums.

    Returns 64-bit hashes, in order; start and end of each sequence in the text that is returned
    last, the words separated by spaces.
    """
    codes = np.frombuffer(text.lower().encode("utf-32-le"), "<u4")
    quarters = _QUARTERS[codes]
    kept = quarters > 0
    kept[1:] |= quarters[:-1] == _WORD  # one separator after each word
    codes, quarters = codes[kept], quarters[kept]
    codes[quarters == 0] = _SPACE
    # A word starts and ends where its neighbors are not of a word; other characters do everywhere.
    same_word = (quarters[1:] == _WORD) & (quarters[:-1] == _WORD)
    is_start, is_end = quarters > 0, quarters > 0
    is_start[1:] &= ~same_word
    is_end[:-1] &= ~same_word
    starts, ends = is_start.nonzero()[0], is_end.nonzero()[0] + 1
    counts = quarters[starts].astype(np.int64)
    totals = counts.cumsum()
    last = np.searchsorted(totals, totals - counts + _WORD * words)
    starts, ends = starts[last < len(ends)], ends[last[last < len(ends)]]
    prefixes = np.zeros(len(codes) + 1, np.uint64)
    terms = (codes.astype(np.uint64) + np.uint64(1)) * _powers(BASE, len(codes))
    np.cumsum(terms, out=prefixes[1:])
    sums = (prefixes[ends] - prefixes[starts]) * _powers(_INVERSE, len(codes))[starts]
    hashes = sums ^ (sums >> np.uint64(32))  # the lower bits depend on the lower bits only
    hashes *= np.uint64(BASE)
    hashes ^= hashes >> np.uint64(32)
    return hashes, starts, ends, codes.tobytes().decode("utf-32-le")
