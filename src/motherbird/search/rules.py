"""The rules of ranking: what else than its words speaks for or against a chunk.

They use names, kinds and paths of any project and language. Weights are relative to the largest
BM25 of a query. docs/search.md says what each is worth.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePosixPath

from .entry import StoredChunk, defined_name
from .query import Query
from .terms import terms

DEFINITION = 2.0  # a chunk that defines the name that is asked for
MENTIONED = 1.0  # one that defines a name in a question
PATH = 1.0  # the fraction of a query's terms that the path has
NAMED = 0.3  # the fraction of a path's terms that the query has
COHERENCE = 0.6  # the fraction of the best file's BM25 that a file has
AGAIN = 0.4  # factor for each better chunk of the same file

_LOWERED = (
    # tests, examples, and what is kept for old versions
    (0.3, re.compile(
        r"(?:^|/)(?:_?tests?|__tests__|testing|specs?|fixtures|mocks?|_?examples?|samples?|demos?|"
        r"docs?_src|tutorials?|benchmarks?|compat|_compat|legacy|deprecated|single_include|"
        r"third_party|vendor(?:ed)?|_vendor)(?:/|$)"
        r"|(?:^|/)(?:test_[^/]*|conftest|[^/]*(?:[._-](?:tests?|spec)|(?-i:(?<=[a-z0-9])(?:Tests?|Spec|Suite))))"
        r"\.[^/.]+$", re.IGNORECASE)),
    # files that collect what others define
    (0.6, re.compile(r"(?:^|/)(?:__init__\.pyi?|index\.[jt]sx?|mod\.rs|package-info\.java)$")),
    # declarations without code
    (0.7, re.compile(r"\.(?:pyi|d\.ts)$")),
)  # fmt: skip
PROSE, DATA = 0.5, 0.5  # factors of files that are not code, where there is code


@lru_cache(maxsize=1 << 16)
def factor(path: str, language: str) -> float:
    """Return the factor of all chunks of a file, by its path: 1 for source code."""
    found = {"prose": PROSE, "data": DATA}.get(language, 1.0)
    for value, pattern in _LOWERED:
        if pattern.search(path):
            found *= value
    return found


def asks_for_lowered(query: Query) -> bool:
    """Return whether a query is about tests or examples, so that they are not lowered."""
    asked = {"test", "fixtur", "exampl", "mock", "benchmark", "spec", "demo", "tutori"}
    return not asked.isdisjoint(query.terms)


@lru_cache(maxsize=1 << 16)
def path_terms(path: str) -> frozenset[str]:
    """Return the terms of the name of a file and of its directory."""
    own = PurePosixPath(path)
    parent = own.parent.name if len(own.parts) > 2 else ""
    return frozenset(terms(own.name.partition(".")[0]) + terms(parent))


def path_match(query: Query, path: str) -> float:
    """Return how much a path speaks for a file."""
    own = path_terms(path)
    both = len(own.intersection(query.terms))
    return PATH * both / max(1, len(query.terms)) + NAMED * both / max(1, len(own))


def definition(query: Query, stored: StoredChunk) -> float:
    """Return how much it speaks for a chunk that it defines a name in the query."""
    name = defined_name(stored.chunk)
    if not name or stored.chunk.kind == "module":
        return 0.0
    if query.name:
        return DEFINITION if name == query.name else 0.0
    return MENTIONED if name in query.names else 0.0


def coherence(files: Sequence[int], values: Sequence[float]) -> dict[int, float]:
    """Return for each file how many good chunks it has, from the BM25 of chunks."""
    sums: dict[int, float] = {}
    for file, value in zip(files, values, strict=True):
        sums[file] = sums.get(file, 0.0) + value
    largest = max(sums.values(), default=0.0) or 1.0
    return {file: COHERENCE * value / largest for file, value in sums.items()}
