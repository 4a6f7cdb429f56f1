"""Search a retrieval set in several ways, and measure each."""

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import InputError
from .embedders import Embed, EmbedTokens, Score
from .measure import Values, measure
from .passages import Divide
from .ranking import Ranking, Starts, by_tokens, by_vectors, by_words, fuse, rerank, spread
from .sets import RetrievalSet

# hybrid: bm25 with dense, late or both, fused; rerank: another mode's first documents, sorted again
MODES = ("bm25", "dense", "late", "hybrid", "rerank")
RERANKED = 100  # documents of a query
BLOCK = 512  # documents whose vectors of tokens are in memory at once


def check_modes(names: str) -> list[str]:
    """Return the modes of a list with commas between them.

    Raises:
        InputError: there is no such mode, or none whose documents are to be reranked.
    """
    found = list(dict.fromkeys(name.strip() for name in names.split(",")))
    for name in found:
        if name not in MODES:
            raise InputError(f"there is no mode {name!r}", how=f"use {', '.join(MODES)}")
    if found == ["rerank"]:
        what = "rerank sorts the documents of another mode, and there is none"
        raise InputError(what, how="use bm25,rerank or dense,rerank")
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
        embed_tokens: computes vectors of tokens; None if no mode needs them. hybrid is bm25 with
            dense, late or both, as there is ``embed``, ``embed_tokens`` or both.
        score: scores documents for a query; None if none are reranked.
        divide: divides documents into passages for dense and late, where the best one counts; None:
            they are whole.
    """
    search = _Search(data, modes, embed, embed_tokens, score, divide)
    return {mode: measure(data, search.ranking(mode)) for mode in modes}


class _Search:
    """The rankings of a set; the arguments are those of `evaluate`."""

    def __init__(
        self,
        data: RetrievalSet,
        modes: Sequence[str],
        embed: Embed | None,
        embed_tokens: EmbedTokens | None,
        score: Score | None,
        divide: Divide | None,
    ) -> None:
        self.data, self.modes, self.divide = data, modes, divide
        self.embed, self.embed_tokens, self.score = embed, embed_tokens, score
        self.known = [n for n, text in enumerate(data.documents) if text.strip()]
        self.found: dict[str, Ranking] = {}

    def ranking(self, mode: str) -> Ranking:
        """Return the documents of each query, computed once."""
        if mode not in self.found:
            self.found[mode] = self._compute(mode)
        return self.found[mode]

    def _compute(self, mode: str) -> Ranking:
        if mode == "bm25":
            return by_words(self.data.queries, self.data.documents)
        if mode == "hybrid":
            kinds = {"dense": self.embed, "late": self.embed_tokens}
            vectors = {kind: self.ranking(kind) for kind, given in kinds.items() if given}
            return fuse(self.ranking("bm25"), vectors, len(self.data.documents))
        if mode == "rerank":
            return self._reranked()
        return spread(self._dense() if mode == "dense" else self._late(), np.array(self.known))

    def _texts(self, numbers: Iterable[int]) -> list[str]:
        return [self.data.documents[number] for number in numbers]

    def _divided(self, numbers: Sequence[int]) -> tuple[list[str], Starts]:
        """Return the passages of documents, and the first one of each."""
        texts = self._texts(numbers)
        found = [[text] for text in texts] if self.divide is None else self.divide(texts)
        starts = np.cumsum([0, *map(len, found[:-1])], dtype=np.int64)
        return [text for own in found for text in own], starts

    def _dense(self) -> Ranking:
        assert self.embed is not None
        passages, starts = self._divided(self.known)
        documents = self.embed(passages, "document")
        return by_vectors(self.embed(self.data.queries, "query"), documents, starts)

    def _late(self) -> Ranking:
        embed_tokens = self.embed_tokens
        assert embed_tokens is not None
        parts = [
            self._divided(self.known[first : first + BLOCK])
            for first in range(0, len(self.known), BLOCK)
        ]
        blocks = (embed_tokens(passages, "document") for passages, _ in parts)
        queries = embed_tokens(self.data.queries, "query")
        return by_tokens(queries, blocks, [starts for _, starts in parts])

    def _reranked(self) -> Ranking:
        score = self.score
        assert score is not None
        first = next(each for each in self.modes if each != "rerank")
        return rerank(
            self.ranking(first),
            lambda query, found: score(self.data.queries[query], self._texts(found)),
            RERANKED,
        )
