"""Duplicates: equal documents, and nearly equal ones by the Jaccard similarity of their words."""

import math
import tempfile
import weakref
from array import array
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from .. import disk
from ..arrays import Bool, UInt32, UInt64
from ..errors import require_extra
from .sequences import sequences

SHINGLE = 5  # words
PERMUTATIONS = 128  # maximum size of a MinHash
MISSED = 1e-3  # maximum probability that MinHash does not select a pair with the threshold itself
DEVIATIONS = 3.3  # of an estimate below the threshold, from which the sets are not compared
SEED = 0


def text_hash(text: str) -> int:
    """Return a 64-bit hash of a text, the same on every machine."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def held_out(hashes: UInt64[np.ndarray, " n"], fraction: float) -> Bool[np.ndarray, " n"]:
    """Return which documents are held out for evaluation, by the hash of their text."""
    return hashes >> np.uint64(11) < fraction * 2.0**53


def shingles(text: str) -> UInt32[np.ndarray, " n"]:
    """Return the set of hashes of the five-word sequences of a text, sorted.

    A text with fewer words is one sequence.
    """
    hashes = sequences(text, SHINGLE)[0]
    if not len(hashes):
        hashes = np.array([text_hash(" ".join(text.lower().split()))], np.uint64)
    return np.unique(hashes.astype(np.uint32))  # the lower half: false matches are negligible


def bands_of(threshold: float) -> tuple[int, int]:
    """Return bands and rows for locality-sensitive hashing.

    Two documents of similarity s are compared with probability 1 - (1 - s^rows)^bands. More rows
    mean fewer comparisons; the result has the most rows that keep to `MISSED` at the threshold.
    """
    for rows in range(PERMUTATIONS, 0, -1):
        same = min(threshold**rows, 1 - 1e-9)
        bands = math.ceil(math.log(MISSED) / math.log1p(-same)) if same > 1e-9 else PERMUTATIONS
        if rows * bands <= PERMUTATIONS:
            return bands, rows
    return PERMUTATIONS, 1


class Duplicates:
    """Finds duplicates of earlier documents.

    Documents are nearly equal if the Jaccard similarity of their sets of five-word sequences is at
    least a threshold; with None, only equal ones are found. MinHash (rensa) selects the pairs to
    compare, and the sets themselves are compared.

    It keeps about 4 kB of memory per document for a threshold of 0.7, and 4 bytes per word in a
    temporary file in ``folder`` (that of the system if None).
    """

    def __init__(self, threshold: float | None, folder: Path | None = None) -> None:
        self._seen: set[int] = set()
        self._threshold = threshold
        if threshold is not None:
            self._rensa = require_extra("rensa", "data")
            bands, rows = bands_of(threshold)
            self._permutations = bands * rows
            self._index = self._rensa.RMinHashLSH(threshold, self._permutations, bands)
            deviation = math.sqrt(threshold * (1 - threshold) / self._permutations)
            self._lowest = threshold - DEVIATIONS * deviation
            self._sketches: list[Any] = []
            self._ends = array("Q", [0])  # of the sets in the file
            self._path = Path(folder or tempfile.gettempdir())
            self._file = tempfile.TemporaryFile(dir=folder)  # has no name, so it cannot be left
            weakref.finalize(self, self._file.close)

    def find(self, text: str) -> str | None:
        """Add a document; returns "equal" or "nearly equal" to an earlier one, or None."""
        number = text_hash(text)
        if number in self._seen:
            return "equal"
        self._seen.add(number)
        if self._threshold is None:
            return None
        own = shingles(text)
        sketch = self._rensa.RMinHash(self._permutations, SEED)
        sketch.update(own.view("V4").tolist())
        for candidate in self._index.query(sketch):
            estimate = sketch.jaccard(self._sketches[candidate])
            if estimate >= self._lowest and self._is_similar(own, candidate):
                return "nearly equal"
        self._index.insert(len(self._sketches), sketch)
        self._sketches.append(sketch)
        with disk.named(self._path):
            if self._file.tell() != self._ends[-1]:  # seeking would write the buffer
                self._file.seek(self._ends[-1])
            self._file.write(own.tobytes())
        self._ends.append(self._ends[-1] + own.nbytes)
        return None

    def _is_similar(self, own: UInt32[np.ndarray, " n"], candidate: int) -> bool:
        assert self._threshold is not None
        start, end = self._ends[candidate : candidate + 2]
        count = (end - start) // own.itemsize
        if min(count, len(own)) < self._threshold * max(count, len(own)) * (1 - 1e-9):
            return False  # even if the smaller set is a part of the larger one
        with disk.named(self._path):
            self._file.seek(start)
            other = np.frombuffer(self._file.read(end - start), own.dtype)
        shared = int((other.take(np.searchsorted(other, own), mode="clip") == own).sum())
        return shared / (count + len(own) - shared) >= self._threshold
