"""The words of a text, and which token is the first of each."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from tokenizers import Regex, pre_tokenizers

from ..errors import InputError
from .arguments import check_list, check_texts

# For each word or token, the index of its first character and of the one after its last.
Offsets = list[tuple[int, int]]

# Letters and digits, with their marks and joiners, and what connects them inside a word.
_LETTERS = r"[\p{L}\p{N}][\p{L}\p{N}\p{M}\x{200c}\x{200d}]*"
_INSIDE = r"(?:[-'’._@:/&+%=~#]|://|(?<=\p{N}),(?=\p{N}))"
_WORD = rf"{_LETTERS}(?:{_INSIDE}{_LETTERS})*|[^\s\p{{L}}\p{{N}}]+"


class Encoding(NamedTuple):
    """Token ids of a text, and the part of the text that each stands for."""

    ids: list[int]  # the token ids
    # (0, 0) for special tokens; a byte-level token may include the space before its word
    offsets: Offsets


def split_words(text: str) -> Offsets:
    """Return the words of a text.

    A word is a run of letters and digits, or a run of other visible characters. Apostrophes,
    hyphens, full stops and the like between two letters belong to their word, as in "don't",
    "U.S" and "a.b@example.com", and so do commas between two digits. Languages without spaces are
    not divided.
    """
    return [offsets for _, offsets in _splitter().pre_tokenize_str(text)]


@cache
def _splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(_WORD), "removed", invert=True)


def join_words(words: Sequence[str], where: str = "") -> tuple[str, Offsets]:
    """Return words as a text with a space between two of them, and where each is.

    Args:
        words: the words, none of them empty.
        where: put before "word 0", "word 1" ... in errors.

    Raises:
        InputError: they are not a list of texts, or one is empty.
    """
    listed = check_list(words, f"words of {where}" if where else "words", "strings")
    before = f"{where}, " if where else ""
    names = [f"{before}word {number}" for number in range(len(listed))]
    offsets: Offsets = []
    start = 0
    for word, name in zip(check_texts(listed, names, allow_empty=True), names, strict=True):
        if not word:
            raise InputError("the word is empty", name, "leave it out, with its tag")
        offsets.append((start, start + len(word)))
        start += len(word) + 1
    return " ".join(listed), offsets


def first_tokens(words: Offsets, tokens: Offsets) -> list[int]:
    """Return the index of the first token of each word; -1 for a word without a token of its own.

    Normalizers such as BERT's remove some characters, and a token may contain two words.
    """
    found: list[int] = []
    token = previous_end = 0
    for first, end in words:
        while token < len(tokens) and (
            tokens[token][1] <= first or tokens[token][0] < previous_end
        ):
            token += 1
        has_token = token < len(tokens) and tokens[token][0] < end
        found.append(token if has_token else -1)
        previous_end = end
    return found
