"""An answer without an index: files are read, and only the best of them are divided.

Files are ranked by how often they have the terms of the query; the best are put into an index in
memory, in which BM25 uses how many files of all have each term, with the vectors of their chunks.
"""

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .build import path_text, read_entry
from .entry import Entry
from .lookup import nearest
from .query import Query
from .rules import factor, path_match
from .store import WEIGHTS, Store
from .tree import LARGEST
from .vectors import Vectors

BEST = 120  # files that are divided
K1, B = 1.2, 0.75  # of BM25, as in SQLite


class Scan:
    """The best files of a directory for one query.

    Attributes:
        store: an index in memory, of the best files.
        bm25: that of their chunks, by id.
        near: the largest cosines of their chunks, by id; none without vectors.
    """

    def __init__(
        self, root: Path, paths: Sequence[bytes], query: Query, vectors: Vectors | None = None
    ) -> None:
        best, frequencies = _best_files(root, paths, query)
        read = [read_entry(root, path, vectors) for path in best]
        entries = [entry for entry in read if isinstance(entry, Entry)]
        self.store = Store(Path(":memory:"))
        with self.store.writing():
            self.store.put(entries)
        inverse = {term: math.log1p((len(paths) - n + 0.5) / (n + 0.5))
                   for term, n in frequencies.items()}  # fmt: skip
        self.bm25 = _bm25(entries, inverse)
        self.near = {} if vectors is None else nearest(self.store, vectors, query)


def _best_files(
    root: Path, paths: Sequence[bytes], query: Query
) -> tuple[list[bytes], Counter[str]]:
    """Return the best files, and how many files have each term."""
    needles = [(term, term.encode()) for term in query.terms]
    found: list[tuple[bytes, list[int], int]] = []
    frequencies: Counter[str] = Counter()
    for path in paths:
        content = _lowered(root / os.fsdecode(path))
        counts = [content.count(needle) for _, needle in needles]
        frequencies.update(term for (term, _), n in zip(needles, counts, strict=True) if n)
        found.append((path, counts, len(content)))
    average = sum(size for *_, size in found) / max(1, len(found)) or 1.0
    weights = [math.log1p(len(paths) / (1 + frequencies[term])) for term in query.terms]

    def score(row: tuple[bytes, list[int], int]) -> float:
        path, counts, size = row
        long = 0.25 + 0.75 * size / average
        words = sum(w * n / (n + K1 * long) for w, n in zip(weights, counts, strict=True))
        name = path_text(path)
        own = words / (sum(weights) or 1.0) + path_match(query, name)
        return own * factor(name, "")

    found.sort(key=score, reverse=True)
    return [path for path, *_ in found[:BEST]], frequencies


def _lowered(path: Path) -> bytes:
    """Return the content of a file in lower case; nothing if it cannot be read or is too long."""
    try:
        with path.open("rb") as file:
            return file.read(LARGEST).lower()
    except OSError:
        return b""


def _bm25(entries: Sequence[Entry], inverse: dict[str, float]) -> dict[int, float]:
    """Return BM25 of the chunks of files that were put into an empty index, by id."""
    rows = [own for entry in entries for own in entry.terms]
    lengths = [sum(part.count(" ") + 1 for part in own if part) for own in rows]
    average = sum(lengths) / max(1, len(lengths)) or 1.0
    found: dict[int, float] = {}
    for number, (own, length) in enumerate(zip(rows, lengths, strict=True), 1):
        counts: Counter[str] = Counter()
        for part, weight in zip(own, WEIGHTS, strict=True):
            for term in part.split():
                if term in inverse:
                    counts[term] += weight  # type: ignore[assignment]
        if counts:
            long = K1 * (1 - B + B * length / average)
            found[number] = sum(
                inverse[term] * n * (K1 + 1) / (n + long) for term, n in counts.items()
            )
    return found
