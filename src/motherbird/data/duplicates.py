"""Duplicates: equal documents, and nearly equal ones by MinHash (rensa)."""

from hashlib import blake2b
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt64

from ..errors import require_extra

PERMUTATIONS, BANDS, SEED = 128, 16, 0
SHINGLE = 5  # words


def text_hash(text: str) -> int:
    """Return a 64-bit hash of a text, the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def held_out(hashes: UInt64[np.ndarray, " n"], fraction: float) -> Bool[np.ndarray, " n"]:
    """Return which documents are held out for evaluation, by the hash of their text."""
    return hashes >> np.uint64(11) < fraction * 2.0**53


class Duplicates:
    """Finds duplicates of earlier documents. It keeps about 1 kB per document.

    Documents are nearly equal if the Jaccard similarity of their sets of five-word sequences is
    above a threshold; with None, only equal ones are found.
    """

    def __init__(self, threshold: float | None) -> None:
        self._seen: set[int] = set()
        self._threshold = threshold
        if threshold is not None:
            self._rensa = require_extra("rensa", "data")
            self._index = self._rensa.RMinHashLSH(threshold, PERMUTATIONS, BANDS)
            self._sketches: list[Any] = []

    def find(self, text: str) -> str | None:
        """Add a document; returns "equal" or "nearly equal" to an earlier one, or None."""
        number = text_hash(text)
        if number in self._seen:
            return "equal"
        self._seen.add(number)
        if self._threshold is None:
            return None
        words = text.lower().split()
        sketch = self._rensa.RMinHash(PERMUTATIONS, SEED)
        sketch.update(
            [" ".join(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))]
        )
        for candidate in self._index.query(sketch):
            if sketch.jaccard(self._sketches[candidate]) >= self._threshold:
                return "nearly equal"
        self._index.insert(len(self._sketches), sketch)
        self._sketches.append(sketch)
        return None
