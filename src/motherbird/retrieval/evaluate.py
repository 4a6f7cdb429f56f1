"""Search a retrieval set in several ways, and measure each."""

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import InputError
from .embedders import Embed, EmbedTokens, Score
from .measure import Values, measure
from .passages import Divide
from .ranking import Ranking, Starts, by_tokens, by_vectors, by_words, fuse, rerank, spread
from .sets import RetrievalSet

# hybrid: bm25 and dense or late, fused; rerank: another mode's first documents, sorted again
MODES = ("bm25", "dense", "late", "hybrid", "rerank")
RERANKED = 100  # documents of a query
BLOCK = 512  # documents whose vectors of tokens are in memory at once


def check_modes(names: str) -> list[str]:
    """Return the modes of a list with commas between them.

    Raises:
        InputError: there is no such mode, none whose documents are to be reranked, or two that need
            different models.
    """
    found = list(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in found:
        if name not in MODES:
            raise InputError(f"there is no mode {name!r}", how=f"use {', '.join(MODES)}")
    if found == ["rerank"]:
        what = "rerank sorts the documents of another mode, and there is none"
        raise InputError(what, how="use bm25,rerank or dense,rerank")
    if {"dense", "late"} <= {*found}:
        how = "use one of them at a time"
        raise InputError("dense and late are modes of different models", how=how)
    return found


def evaluate(
    data: RetrievalSet,
    modes: Sequence[str],
    embed: Embed | None = None,
    *,
    embed_tokens: EmbedTokens | None = None,
    score: Score | None = None,
    divide: Divide | None = None,
) -> dict[str, Values]:
    """Return the metrics of each query, for each way of searching.

    Args:
        data: documents and queries.
        modes: of `MODES`.
        embed: computes vectors of texts; None if no mode needs them.
        embed_tokens: computes vectors of tokens; None if no mode needs them. With it and without
            ``embed``, hybrid is bm25 and late.
        score: scores documents for a query; None if none are reranked.
        divide: divides documents into passages for dense and late, where the best one counts; None:
            they are whole.
    """
    rankings: dict[str, Ranking] = {}
    known = [n for n, text in enumerate(data.documents) if text.strip()]

    def texts(numbers: Iterable[int]) -> list[str]:
        return [data.documents[number] for number in numbers]

    def divided(numbers: Sequence[int]) -> tuple[list[str], Starts]:
        """Return the passages of documents, and the first one of each."""
        found = [[text] for text in texts(numbers)] if divide is None else divide(texts(numbers))
        starts = np.cumsum([0, *map(len, found[:-1])], dtype=np.int64)
        return [text for own in found for text in own], starts

    def compute(mode: str) -> Ranking:
        if mode == "bm25":
            return by_words(data.queries, data.documents)
        if mode == "dense":
            assert embed is not None
            passages, starts = divided(known)
            documents = embed(passages, "document")
            found = by_vectors(embed(data.queries, "query"), documents, starts)
            return spread(found, np.array(known))
        if mode == "late":
            assert embed_tokens is not None
            parts = [divided(known[n : n + BLOCK]) for n in range(0, len(known), BLOCK)]
            blocks = (embed_tokens(passages, "document") for passages, _ in parts)
            found = by_tokens(
                embed_tokens(data.queries, "query"), blocks, [starts for _, starts in parts]
            )
            return spread(found, np.array(known))
        if mode == "rerank":
            scorer = score
            assert scorer is not None
            first = next(each for each in modes if each != "rerank")
            return rerank(
                ranking(first),
                lambda query, found: scorer(data.queries[query], texts(found)),
                RERANKED,
            )
        vectors = "dense" if embed is not None else "late"
        return fuse([ranking("bm25"), ranking(vectors)], len(data.documents))

    def ranking(mode: str) -> Ranking:
        if mode not in rankings:
            rankings[mode] = compute(mode)
        return rankings[mode]

    return {mode: measure(data, ranking(mode)) for mode in modes}
