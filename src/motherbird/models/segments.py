"""The token ids of texts by those of their segments, of which most occur many times.

With the pre-tokenizer of GPT-2, the ids of a text are those of its segments, one after the other. A
segment is one of its words in ASCII texts (engine/c/words.c finds them), or else a run of white
space, or of other characters with the space before them.
"""

import json
import re
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from ..arrays import Int32
from ..engine.words import Merges, Words

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Python's \s has the separators 1C to 1F too.
_SEGMENTS = re.compile(r" ?[\S\x1c-\x1f]+|[^\S\x1c-\x1f]+(?![\S\x1c-\x1f])|[^\S\x1c-\x1f]+")
# The characters for which bytes stand in a vocabulary of byte-level BPE.
_ASCII = [chr(b) if 32 < b < 127 else chr(256 + min(b, 33)) for b in range(128)]
MOST = 1 << 18  # segments that are remembered, at most
LONGEST = 64  # characters of one, in a text that is not ASCII


def is_divisible(tokenizer: "Tokenizer") -> bool:
    """Return whether the ids of a text are those of its segments, one after the other."""
    model = tokenizer.model
    if getattr(model, "byte_fallback", False) or getattr(model, "dropout", None):
        return False
    parts = (tokenizer.pre_tokenizer, tokenizer.normalizer)
    own, normalizer = (json.loads(part.__getstate__()) if part else {} for part in parts)
    return (
        own.get("type") == "ByteLevel"
        and own.get("use_regex", True)
        and not own.get("add_prefix_space")
        and normalizer.get("type") in (None, "NFC")
    )


class Segments:
    """Tokenizes texts, and remembers the ids of their segments.

    Args:
        tokenizer: one that `is_divisible`.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self.tokenizer = tokenizer
        self._known = _Known(self._encode)
        self._words = Words(self._encode, MOST, self._merges)
        # Added tokens are found before words are.
        added = tokenizer.get_added_tokens_decoder().values()
        self._added = re.compile("|".join(re.escape(token.content) for token in added) or r"(?!)")

    def __reduce__(self) -> "tuple[type[Segments], tuple[Tokenizer]]":
        return Segments, (self.tokenizer,)  # what is remembered stays in its process

    def _encode(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return found

    def _merges(self) -> Merges | None:
        """Return the merges of the tokenizer, or None if it does more than merge."""
        model = json.loads(self.tokenizer.model.__getstate__())
        other = ("ignore_merges", "continuing_subword_prefix", "end_of_word_suffix")
        if model["type"] != "BPE" or any(model.get(name) for name in other):
            return None
        vocabulary: dict[str, int] = model["vocab"]
        tokens = [vocabulary.get(character) for character in _ASCII]
        if None in tokens:
            return None
        rows = [(vocabulary[left], vocabulary[right], vocabulary[left + right])
                for left, right in model["merges"]]  # fmt: skip
        return Merges(np.array(tokens, np.int32), np.array(rows, np.int32).reshape(-1, 3))

    def ids(self, text: str) -> Int32[np.ndarray, " T"]:
        """Return the token ids of a text, without special tokens."""
        if self._added.search(text):
            return np.array(self._encode(text), np.int32)
        if text.isascii():
            return self._words.ids(text)
        found = chain.from_iterable(map(self._known.__getitem__, _SEGMENTS.findall(text)))
        return np.fromiter(found, np.int32)


class _Known(dict[str, list[int]]):
    """The token ids of segments of texts that are not ASCII."""

    def __init__(self, encode: Callable[[str], list[int]]) -> None:
        super().__init__()
        self._encode = encode

    def __missing__(self, segment: str) -> list[int]:
        found = self._encode(segment)
        if len(segment) <= LONGEST and len(self) < MOST:
            self[segment] = found
        return found
