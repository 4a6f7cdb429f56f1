"""Hard negatives: documents that are ranked high for a query, but do not answer it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..arrays import Float32
from ..data.pairs import DOCUMENTS, Pairs
from ..data.readers.records import records
from ..errors import DamagedError, InputError
from .embedders import Embed
from .ranking import ROWS, top, word_scores

SCORES = 1 << 24  # that are computed at once, at most
BATCH = 1024  # texts whose vectors are computed at once
TEXTS = ("text", *DOCUMENTS)
# Scores of all documents for some queries: (queries, documents), float32.
ScoreAll = Callable[[Sequence[str]], Float32[np.ndarray, "queries documents"]]
OnProgress = Callable[[float, str], None]  # gets the fraction that is done, and the present step


@dataclass(frozen=True)
class Search:
    """Which documents are negatives.

    Attributes:
        count: negatives of a row, at most: the best ones.
        first_rank: the first rank that is used; 1 is the best document.
        last_rank: the last one.
        margin: a document whose score is more than this times that of the positive is left out,
            since it may be an answer too (TopK-PercPos of NV-Retriever); for a positive score.
            Below zero, one with a higher score is left out.
    """

    count: int = 4
    first_rank: int = 2
    last_rank: int = 50
    margin: float = 0.95

    def __post_init__(self) -> None:
        if self.last_rank < self.first_rank:
            what = f"--to-rank {self.last_rank} is before --from-rank {self.first_rank}"
            raise InputError(what)


@dataclass(frozen=True)
class Mined:
    """Negatives, and why there are not more.

    Attributes:
        negatives: of each row, the best first.
        candidates: number of different documents.
        fewer: rows with fewer negatives than wanted.
        none: rows without any.
        above_margin: documents left out by the margin, over all rows.
    """

    negatives: list[list[str]]
    candidates: int
    fewer: int
    none: int
    above_margin: int


def read_corpus(path: str | Path) -> list[str]:
    """Read documents: "title" and "text" of each row, or a column with a usual name of documents.

    Raises:
        InputError: the path is missing, a row has no such column, or what it has is not a text.
        DamagedError: a row cannot be read.
    """
    found = []
    for row in records(path):
        if isinstance(row, DamagedError):
            raise row
        name = next((name for name in TEXTS if name in row.values), None)
        if name is None:
            what = f"no column is called {', '.join(TEXTS)}"
            raise InputError(what, row.where, "rename the column of the documents")
        names = ("title", name) if name == "text" and row.values.get("title") else (name,)
        for each in names:
            if not isinstance(row.values[each], str):
                raise InputError(f'"{each}" is not a text', row.where)
        text = " ".join(row.values[each] for each in names)
        found.extend([text] if text.strip() else [])
    return found


def mine(
    pairs: Pairs,
    corpus: Sequence[str],
    search: Search,
    embed: Embed | None = None,
    on_progress: OnProgress = lambda fraction, what: None,
) -> Mined:
    """Find negatives for each row, among the answers of all rows and the documents of a corpus.

    Texts that are equal apart from case and white space are one document. The answers of all rows
    of a query, and documents equal to the query, are never its negatives. Ranks are those of a
    search, in which these count.

    Args:
        pairs: queries, and the documents that answer them, each the first one of its row.
        corpus: more documents.
        search: which of them are negatives.
        embed: ranks by the cosine of its vectors; BM25 if None.
        on_progress: is called for each block.
    """
    answers = [documents[0] for documents in pairs.documents]
    unique = dict.fromkeys(map(_key, answers)) | dict.fromkeys(map(_key, corpus))
    place = {key: number for number, key in enumerate(unique)}
    texts = {place[_key(text)]: text for text in reversed([*answers, *corpus])}
    rows: dict[str, list[int]] = {}  # of each query
    for number, query in enumerate(pairs.queries):
        rows.setdefault(_key(query), []).append(number)
    queries = [pairs.queries[own[0]] for own in rows.values()]
    negatives: list[list[str]] = [[] for _ in answers]
    above = 0
    documents = [texts[number] for number in range(len(texts))]
    for query, scores in _scores(queries, documents, embed, on_progress):
        best = top(scores[None], search.last_rank)
        ranked = best.documents[0, search.first_rank - 1 :].tolist()
        asking = rows[_key(query)]
        own = {place[_key(answers[row])] for row in asking} | {place.get(_key(query), -1)}
        others = [n for n in ranked if n not in own and (embed is not None or scores[n] > 0)]
        for row in asking:
            positive = float(scores[place[_key(answers[row])]])
            limit = positive * search.margin if positive > 0 else positive
            right = [n for n in others if scores[n] <= limit]
            above += len(others) - len(right)
            negatives[row] = [documents[n] for n in right[: search.count]]
    fewer = sum(len(each) < search.count for each in negatives)
    return Mined(negatives, len(texts), fewer, sum(not each for each in negatives), above)


def _scores(
    queries: list[str], documents: list[str], embed: Embed | None, on_progress: OnProgress
) -> Iterator[tuple[str, Float32[np.ndarray, " documents"]]]:
    """Yield each query with the scores of all documents, which are computed in blocks."""
    start = 0.0  # of the search, in the work as a whole
    if embed is None:
        on_progress(0, "index")
        score = word_scores(documents)
    else:
        start = 0.9
        vectors = _vectors(documents, embed, on_progress)

        def score(own: Sequence[str]) -> Float32[np.ndarray, "queries documents"]:
            found: Float32[np.ndarray, "queries documents"] = embed(own, "query") @ vectors.T
            return found

    size = max(1, min(ROWS, SCORES // len(documents)))
    for first in range(0, len(queries), size):
        on_progress(start + (1 - start) * first / len(queries), "search")
        own = queries[first : first + size]
        yield from zip(own, score(own), strict=True)


def _vectors(
    documents: list[str], embed: Embed, on_progress: OnProgress
) -> Float32[np.ndarray, "documents D"]:
    parts = []
    for first in range(0, len(documents), BATCH):
        on_progress(0.9 * first / len(documents), "vectors")
        parts.append(embed(documents[first : first + BATCH], "document"))
    return np.concatenate(parts)


def _key(text: str) -> str:
    return " ".join(text.split()).casefold()
