"""Search a retrieval set in several ways, and measure each."""

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from .embedders import Embed
from .measure import Values, measure
from .ranking import Ranking, by_vectors, by_words, fuse, spread
from .sets import RetrievalSet

MODES = ("bm25", "dense", "hybrid")  # hybrid: bm25 and dense, fused


def check_modes(names: str) -> list[str]:
    """Return the modes of a list with commas between them.

    Raises:
        InputError: there is no such mode.
    """
    found = list(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in found:
        if name not in MODES:
            raise InputError(f"there is no mode {name!r}", how=f"use {', '.join(MODES)}")
    return found


def evaluate(
    data: RetrievalSet,
    modes: Sequence[str],
    embed: Embed | None = None,
) -> dict[str, Values]:
    """Return the metrics of each query, for each way of searching.

    Args:
        data: documents and queries.
        modes: of `MODES`.
        embed: computes vectors; None if no mode needs them.
    """
    rankings: dict[str, Ranking] = {}

    def ranking(mode: str) -> Ranking:
        if mode not in rankings:
            if mode == "bm25":
                rankings[mode] = by_words(data.queries, data.documents)
            elif mode == "dense":
                assert embed is not None
                known = np.array([n for n, text in enumerate(data.documents) if text.strip()])
                documents = embed([data.documents[n] for n in known], "document")
                found = by_vectors(embed(data.queries, "query"), documents)
                rankings[mode] = spread(found, known)
            else:
                rankings[mode] = fuse([ranking("bm25"), ranking("dense")], len(data.documents))
        return rankings[mode]

    return {mode: measure(data, ranking(mode)) for mode in modes}
