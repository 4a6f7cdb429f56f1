"""From candidates to hits: BM25, cosines and rules are added, and files take turns."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from . import rules
from .entry import StoredChunk
from .query import Query

CANDIDATES = 200  # chunks with the largest BM25
NEAREST = 100  # chunks with the largest cosine
COSINE = 1.0  # weight of the cosine, from 0 for the last of the nearest to 1 for the first


@dataclass(frozen=True, slots=True)
class Ranked:
    """A chunk with its score, and what that consists of."""

    stored: StoredChunk
    score: float
    parts: dict[str, float]


def rank(
    query: Query,
    candidates: Sequence[StoredChunk],
    bm25: Mapping[int, float],
    cosines: Mapping[int, float],
    paths: Mapping[int, str],
    count: int,
    *,
    use_rules: bool = True,
) -> list[Ranked]:
    """Return the best chunks, the best first.

    Args:
        query: the query.
        candidates: the candidates.
        bm25: that of candidates, by id.
        cosines: those of candidates with the vector of the query, by id.
        paths: the path of each file as text, by its id.
        count: of hits, at most.
        use_rules: False adds only BM25 and cosines.
    """
    largest = max(bm25.values(), default=0.0) or 1.0
    relative = {number: value / largest for number, value in bm25.items()}
    low, high = min(cosines.values(), default=0.0), max(cosines.values(), default=0.0)
    files = {chunk.id: chunk.file for chunk in candidates}
    coherence = rules.coherence([files[n] for n in relative], list(relative.values()))
    lower = not rules.asks_for_lowered(query)
    has_code = any(chunk.language not in ("prose", "data") for chunk in candidates)
    found = []
    for chunk in candidates:
        path = paths[chunk.file]
        parts = {"bm25": relative.get(chunk.id, 0.0)}
        if cosines:
            own = cosines.get(chunk.id, low)
            parts["cosine"] = COSINE * (own - low) / max(high - low, 1e-6)
        if use_rules:
            parts["file"] = coherence.get(chunk.file, 0.0)
            parts["path"] = rules.path_match(query, path)
            parts["definition"] = rules.definition(query, chunk)
        score = sum(parts.values())
        if use_rules and lower:
            parts["factor"] = rules.factor(path, chunk.language if has_code else "")
            score *= parts["factor"]
        found.append(Ranked(chunk, score, parts))
    found.sort(key=lambda each: (-each.score, each.stored.path, each.stored.chunk.start))
    return _in_turns(found, count) if use_rules else found[:count]


def _in_turns(found: Sequence[Ranked], count: int) -> list[Ranked]:
    """Lower each chunk by how many better ones its file has, and return the best."""
    seen: Counter[int] = Counter()
    lowered = []
    for each in found:
        again = rules.AGAIN ** seen[each.stored.file]
        seen[each.stored.file] += 1
        parts = each.parts | ({"again": again} if again < 1 else {})
        lowered.append(Ranked(each.stored, each.score * again, parts))
    lowered.sort(key=lambda each: -each.score)
    return lowered[:count]
