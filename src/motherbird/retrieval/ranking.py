"""Rankings: the best documents of each query, by vectors, words, rerankers or several rankings."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np

from ..arrays import Float32, Int64
from ..engine.maxsim import pack, scores
from ..errors import require_extra

DEPTH = 1000  # documents of a ranking, at most
ROWS = 256  # queries whose scores are computed at once
FUSED = 100  # documents of a ranking whose scores count in `fuse`
# Weights in `fuse` of the rankings by vectors, for each combination of them; BM25 has 1.
WEIGHTS = {("dense",): (0.5,), ("late",): (1.0,), ("dense", "late"): (0.2, 0.8)}

Starts = Int64[np.ndarray, " _"]  # the first passage of each document


@dataclass(frozen=True)
class Ranking:
    """The best documents of each query, best first; -1 where there are fewer.

    Attributes:
        documents: positions of documents.
        scores: their scores.
    """

    documents: Int64[np.ndarray, "queries depth"]
    scores: Float32[np.ndarray, "queries depth"]


def top(scores: Float32[np.ndarray, "queries documents"], depth: int = DEPTH) -> Ranking:
    """Return the documents with the highest scores, best first; equal ones in their order."""
    depth = min(depth, scores.shape[1])
    best = np.argpartition(-scores, depth - 1, axis=1)[:, :depth] if depth < scores.shape[1] else (
        np.broadcast_to(np.arange(depth), scores.shape))  # fmt: skip
    best = np.sort(best, axis=1)
    own = np.take_along_axis(scores, best, axis=1)
    order = np.argsort(-own, axis=1, kind="stable")
    return Ranking(
        np.take_along_axis(best, order, axis=1).astype(np.int64),
        np.take_along_axis(own, order, axis=1).astype(np.float32),
    )


def by_vectors(
    queries: Float32[np.ndarray, "queries D"],
    vectors: Float32[np.ndarray, "passages D"],
    starts: Starts | None = None,
) -> Ranking:
    """Rank documents by the dot product of vectors, which is the cosine if they have length 1.

    Args:
        queries: a vector for each query.
        vectors: a vector for each document, or for each passage of each document.
        starts: the first passage of each document, whose score is that of its best passage; None:
            every document is one.
    """
    parts = (queries[first : first + ROWS] @ vectors.T for first in range(0, len(queries), ROWS))
    return _joined([top(_best(part, starts)) for part in parts])


def _best(
    scores: Float32[np.ndarray, "queries passages"], starts: Starts | None
) -> Float32[np.ndarray, "queries documents"]:
    """Return the score of the best passage of each document."""
    return scores if starts is None else np.maximum.reduceat(scores, starts, axis=1)


def by_tokens(
    queries: Sequence[Float32[np.ndarray, "_ d"]],
    blocks: Iterable[Sequence[Float32[np.ndarray, "_ d"]]],
    starts: Iterable[Starts] | None = None,
) -> Ranking:
    """Rank documents by MaxSim of the vectors of their tokens, in bfloat16 if this CPU has it.

    Args:
        queries: the vectors of each query.
        blocks: the vectors of each document, or of each passage of each document, in blocks, of
            which one at a time is in memory.
        starts: for each block the first passage of each document, whose score is that of its best
            passage; None: every document is one.
    """
    size, count = queries[0].shape[1], 0
    best = Ranking(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32))
    for block, first in zip(blocks, repeat(None) if starts is None else starts, strict=False):
        packed, ends = pack(block, size)
        own = _best(scores(queries, packed, ends, "auto"), first)
        numbers = np.broadcast_to(np.arange(count, count + own.shape[1]), own.shape)
        part = top(np.concatenate([best.scores, own], axis=1))
        numbers = np.concatenate([best.documents, numbers], axis=1)
        best = Ranking(np.take_along_axis(numbers, part.documents, axis=1), part.scores)
        count += own.shape[1]
    return best


def rerank(
    ranking: Ranking, score: Callable[[int, list[int]], Float32[np.ndarray, " n"]], depth: int
) -> Ranking:
    """Sort the first documents of each query by another score; equal ones keep their order.

    Args:
        ranking: the documents.
        score: from a query's position and those of documents to a score for each.
        depth: how many are sorted; others are left out.
    """
    documents = ranking.documents[:, :depth].copy()
    found = np.zeros(documents.shape, np.float32)
    for query, own in enumerate(documents):
        known = own[own >= 0]
        values = score(query, known.tolist())
        order = np.argsort(-values, kind="stable")
        own[: len(known)], found[query, : len(known)] = known[order], values[order]
        own[len(known) :] = -1
    return Ranking(documents, found)


def _joined(parts: Sequence[Ranking]) -> Ranking:
    """Return the rankings of blocks of queries as one."""
    return Ranking(
        np.concatenate([part.documents for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


def spread(ranking: Ranking, positions: Int64[np.ndarray, " ranked"]) -> Ranking:
    """Return a ranking of some documents as one of all, at the positions of these."""
    return Ranking(positions[ranking.documents], ranking.scores)


def by_words(queries: Sequence[str], documents: Sequence[str]) -> Ranking:
    """Rank documents by BM25: Lucene's, English stop words, Porter's second stemmer for English.

    Documents without a word of the query are not ranked.
    """
    index, depth = _index(documents), min(DEPTH, len(documents))
    if index is None:
        shape = (len(queries), depth)
        return Ranking(np.full(shape, -1, np.int64), np.zeros(shape, np.float32))
    found, scores = index.retrieve(_words(queries), k=depth, show_progress=False)
    scores = np.asarray(scores, np.float32)
    return Ranking(np.where(scores > 0, np.asarray(found, np.int64), -1), scores)


def word_scores(
    documents: Sequence[str],
) -> Callable[[Sequence[str]], Float32[np.ndarray, "queries documents"]]:
    """Return what computes the scores of `by_words` of all documents for some queries."""
    index = _index(documents)

    def scores(queries: Sequence[str]) -> Float32[np.ndarray, "queries documents"]:
        found = np.zeros((len(queries), len(documents)), np.float32)
        for row, words in enumerate(_words(queries)):
            if words and index is not None:
                found[row] = index.get_scores(words)
        return found

    return scores


def _words(texts: Sequence[str]) -> list[list[str]]:
    bm25s = require_extra("bm25s", "retrieval")
    stemmer = require_extra("Stemmer", "retrieval").Stemmer("english")
    found: list[list[str]] = bm25s.tokenize(
        list(texts), stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False
    )
    return found


def _index(documents: Sequence[str]) -> Any:
    """Return the index of bm25s, or None if no document has a word."""
    words = _words(documents)
    index = require_extra("bm25s", "retrieval").BM25()
    if not any(words):
        return None
    index.index(words, show_progress=False)
    return index


def fuse(words: Ranking, vectors: Mapping[str, Ranking], count: int) -> Ranking:
    """Fuse a ranking by words and those by vectors: the sum of their scores, each scaled.

    1 is the score of the best document, and 0 that of the hundredth; others have 0. It was better
    than the sum of 1 / (60 + rank) (Cormack et al. 2009): see docs/log.md.

    Args:
        words: the ranking by words.
        vectors: "dense", "late", or both in this order, of the same queries.
        count: number of documents.
    """
    weights = WEIGHTS[*vectors]
    rankings = [(words, 1.0), *zip(vectors.values(), weights, strict=True)]
    parts = []
    for first in range(0, len(words.documents), ROWS):
        rows = slice(first, first + ROWS)
        # The last column is that of -1.
        scores = np.zeros((len(words.documents[rows]), count + 1), np.float32)
        # Documents of one of the rankings are before all others, even with a score of 0.
        seen = np.zeros(scores.shape, bool)
        for ranking, weight in rankings:
            own = ranking.documents[rows]
            gains = np.float32(weight) * _scaled(ranking.scores[rows])
            np.put_along_axis(scores, own, np.take_along_axis(scores, own, axis=1) + gains, axis=1)
            np.put_along_axis(seen, own, True, axis=1)
        part = top(np.where(seen, scores, -1)[:, :count])
        parts.append(Ranking(np.where(part.scores >= 0, part.documents, -1), part.scores))
    return _joined(parts)


def _scaled(
    scores: Float32[np.ndarray, "queries depth"],
) -> Float32[np.ndarray, "queries depth"]:
    """Scale the descending scores of each query: 1 for the best, 0 from the last that counts."""
    high, low = scores[:, :1], scores[:, min(FUSED, scores.shape[1]) - 1, None]
    equal = high == low
    scaled = (scores - low) / np.where(equal, 1, high - low)
    return np.where(equal, scores > 0, np.maximum(0, scaled)).astype(np.float32)
