"""Decontamination: sequences of words that a document shares with evaluation texts."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt64
from numpy.typing import NDArray

from ..core.rng import random_bits
from ..errors import DamagedError, InputError, NotTextError
from . import readers
from .duplicates import text_hash
from .readers import jsonl

log = logging.getLogger(__name__)

RUN = 13  # words of a sequence, as for GPT-3
COMMON = 10  # a sequence in more evaluation texts than this is boilerplate, such as a license
BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(BASE, -1, 1 << 64)
_WORD = np.zeros(256, dtype=bool)
_WORD[[*range(ord("0"), ord("9") + 1), *range(ord("a"), ord("z") + 1), *range(128, 256)]] = True
_SPACE = ord(" ")


def _powers(base: int, count: int) -> UInt64[np.ndarray, " n"]:
    """Return 1, b, b^2 ... modulo 2^64."""
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def runs(
    text: str, words: int = RUN
) -> tuple[UInt64[np.ndarray, " runs"], Int[np.ndarray, " runs"], Int[np.ndarray, " runs"], bytes]:
    """Return every sequence of ``words`` words: letters and digits, in lower case.

    The hash of a sequence is a polynomial in its bytes (Karp and Rabin 1987), computed for all
    sequences at once as differences of prefix sums.

    Returns 64-bit hashes, in order; start and end of each sequence in the bytes that are returned
    last, the words of the text separated by spaces.
    """
    data = np.frombuffer(text.lower().encode(), np.uint8)
    inside = _WORD[data]
    after_word = np.empty_like(inside)
    after_word[:1], after_word[1:] = False, inside[:-1]
    data = np.where(inside, data, _SPACE)[inside | after_word]
    if not len(data) or data[-1] != _SPACE:
        data = np.append(data, np.uint8(_SPACE))
    ends = np.flatnonzero(data == _SPACE)
    starts = np.append(0, ends[:-1] + 1)
    if len(ends) < words or not len(data) > 1:
        return np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64), b""
    starts, ends = starts[: len(starts) - words + 1], ends[words - 1 :]
    prefixes = np.zeros(len(data) + 1, np.uint64)
    terms = (data.astype(np.uint64) + np.uint64(1)) * _powers(BASE, len(data))
    np.cumsum(terms, out=prefixes[1:])
    sums = (prefixes[ends] - prefixes[starts]) * _powers(_INVERSE, len(data))[starts]
    return random_bits((words,), sums), starts, ends, data.tobytes()


def evaluation_runs(paths: Iterable[str | Path]) -> UInt64[np.ndarray, " n"]:
    """Return the sorted hashes of the sequences of all texts in files and directories.

    These are all strings in lines of JSON, all text files, and long strings in .json files. No text
    is an InputError, a damaged file a DamagedError.
    """
    texts = {text_hash(text): text for path in paths for text in _texts(Path(path))}
    found = [np.unique(runs(text)[0]) for text in texts.values()]
    if not found:
        raise InputError("decontaminate: no text was found", ", ".join(map(str, paths)))
    hashes, counts = np.unique(np.concatenate(found), return_counts=True)
    return hashes[counts <= COMMON]


def _texts(path: Path) -> Iterator[str]:
    for file in files_of(path):
        if readers.reader_of(file) is jsonl.read:
            for row in jsonl.rows(file):
                yield from _strings(row)
            continue
        for document in readers.read_file(file):
            if isinstance(document, NotTextError):
                log.warning("decontaminate: skipped %s", document)
            elif isinstance(document, DamagedError):
                raise document
            else:
                yield document.text


def files_of(path: Path) -> list[Path]:
    """Return the files of an evaluation set."""
    return readers.files_of(path, ["*"]) if path.is_dir() else [path]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        yield " ".join(value)  # the words of a sentence
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)


def shared_run(text: str, known: NDArray[np.uint64]) -> str | None:
    """Return the words of the first sequence of a text whose hash is in ``known``, or None."""
    hashes, starts, ends, data = runs(text)
    if not len(hashes) or not len(known):
        return None
    positions = np.searchsorted(known, hashes)
    hits = np.flatnonzero(known[np.minimum(positions, len(known) - 1)] == hashes)
    if not len(hits):
        return None
    return data[starts[hits[0]] : ends[hits[0]]].decode(errors="replace")
