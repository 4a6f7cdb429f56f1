"""From a query to hits, in an index."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from ..errors import InputError
from .build import cosines, path_text, text_of
from .filters import Filters
from .query import Query
from .ranking import CANDIDATES, NEAREST, Ranked, rank
from .store import Store
from .vectors import Vectors

Mode = Literal["bm25", "dense", "hybrid"]


@dataclass(frozen=True)
class Hit:
    """A part of a file that answers a query.

    Attributes:
        path: relative to the directory, with /.
        start, end: its first and last line, from 1.
        symbol: the name of what it is or is in; empty for none.
        kind: "function", "method", "class", "interface", "module", "type", "section", "text" or
            "data".
        score: larger is better; comparable within one search only.
        text: its lines.
        parts: what the score consists of.
    """

    path: str
    start: int
    end: int
    symbol: str
    kind: str
    score: float
    text: str
    parts: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return it for JSON, without ``parts``."""
        names = ("path", "start", "end", "symbol", "kind", "text")
        return {name: getattr(self, name) for name in names} | {"score": round(self.score, 4)}


def find(
    store: Store,
    vectors: Vectors | None,
    query: Query,
    count: int,
    mode: Mode = "hybrid",
    filters: Filters = Filters(),  # noqa: B008
    *,
    use_rules: bool = True,
) -> list[Hit]:
    """Return the best chunks of an index for a query; see `Index.search`.

    Raises:
        InputError: there is no such mode, or it needs vectors.
    """
    check_mode(mode, vectors)
    with store.reading():
        allowed = None
        if filters:
            allowed = [file for file, path, language in store.languages()
                       if filters.accept(path_text(path), language)]  # fmt: skip
        with store.restricted(allowed):
            bm25: dict[int, float] = {}
            near: dict[int, float] = {}
            if mode != "dense":
                bm25 = dict(store.best(query.terms, CANDIDATES))
            if vectors is not None and mode != "bm25":
                near = nearest(store, vectors, query)
            return ranked(store, query, bm25, near, count, use_rules=use_rules)


def check_mode(mode: str, vectors: Vectors | None) -> None:
    """Raise InputError if there is no such mode, or it needs vectors."""
    if mode not in get_args(Mode):
        raise InputError(f"unknown mode {mode!r}", how=f"use {', '.join(get_args(Mode))}")
    if mode == "dense" and vectors is None:
        raise InputError("the mode dense needs vectors", how="pass a model of static vectors")


def nearest(store: Store, vectors: Vectors, query: Query) -> dict[int, float]:
    """Return the largest cosines of chunks with a query, by the ids of the chunks."""
    own = vectors.embed([_spelled(query.text)])[0]
    ids, packed = store.vectors(vectors.name)
    values = cosines(packed, own)
    best = np.arange(len(values))
    if len(values) > NEAREST:
        best = np.sort(np.argpartition(-values, NEAREST)[:NEAREST])
    return {int(ids[n]): float(values[n]) for n in best}


def _spelled(text: str) -> str:
    """Return a query with the words of names apart."""
    return re.sub(r"[_.:]+", " ", re.sub(r"([a-z])([A-Z])", r"\1 \2", text)).strip() or text


def ranked(
    store: Store, query: Query, bm25: Mapping[int, float], near: Mapping[int, float], count: int,
    *, use_rules: bool = True,
) -> list[Hit]:  # fmt: skip
    """Rank candidates, and read their lines."""
    named = store.named(query.name, CANDIDATES) if query.name and use_rules else []
    candidates = store.candidates([*bm25, *near, *named])
    paths = {stored.file: path_text(stored.path) for stored in candidates}
    found = rank(query, candidates, bm25, near, paths, count, use_rules=use_rules)
    lines: dict[int, list[str]] = {}
    for each in found:
        file = each.stored.file
        lines.setdefault(file, store.text(file).split("\n"))
    return [_hit(each, paths[each.stored.file], lines[each.stored.file]) for each in found]


def _hit(each: Ranked, path: str, lines: Sequence[str]) -> Hit:
    chunk = each.stored.chunk
    text = text_of(chunk, lines)
    return Hit(path, chunk.start, chunk.end, chunk.symbol, chunk.kind, each.score, text, each.parts)
