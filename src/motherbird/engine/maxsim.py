"""MaxSim, the score of late interaction: of each vector of a query the best of a document."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from ..arrays import Float32, Int64
from ..core import threads
from ..core.arguments import check_list
from ..core.weights import Stored
from ..errors import InputError, with_article
from .heads import Linear
from .library import resolve_dtype

QUERY_ROWS = 256  # vectors of queries that are compared at once, or one query
DOCUMENT_ROWS = 1 << 14  # vectors of documents that a thread takes at once, or one document


def maxsim(query: Float32[np.ndarray, "n d"], document: Float32[np.ndarray, "m d"]) -> float:
    """Return the sum over vectors of a query of the largest dot product with a document's vectors.

    Args:
        query: n vectors of size d.
        document: m vectors of the same size.

    Raises:
        InputError: one is not a float32 matrix with at least a row, the sizes differ, or a value
            is not finite.
    """
    return float(maxsim_many(query, [document])[0])


def maxsim_many(
    query: Float32[np.ndarray, "n d"], documents: Sequence[Float32[np.ndarray, "_ d"]]
) -> Float32[np.ndarray, " documents"]:
    """Return `maxsim` of a query with each of many documents."""
    query = check_vectors(query, "the query")
    listed = check_list(documents, "documents", "matrices of vectors")
    if not listed:
        return np.zeros(0, np.float32)
    return scores([query], *pack(listed, query.shape[1]))[0]


def check_vectors(vectors: Any, name: str, size: int | None = None) -> Float32[np.ndarray, "n d"]:
    """Return the vectors of a text, or raise InputError; ``size`` is what d has to be."""
    if not isinstance(vectors, np.ndarray) or vectors.dtype != np.float32 or vectors.ndim != 2:
        what = with_article(type(vectors).__name__)
        if isinstance(vectors, np.ndarray):
            what = f"an array of shape {vectors.shape} and dtype {vectors.dtype}"
        raise InputError(f"the vectors are not a float32 matrix but {what}", name)
    if not vectors.size:
        raise InputError("there are no vectors", name, "leave it out")
    if size is not None and vectors.shape[1] != size:
        what = f"the vectors have size {vectors.shape[1]}, those of the query {size}"
        raise InputError(what, name, "use vectors of one model")
    if not np.isfinite(vectors).all():
        raise InputError("a vector contains NaN or infinity", name)
    return vectors


def pack(
    documents: Sequence[Any], size: int
) -> tuple[Float32[np.ndarray, "M d"], Int64[np.ndarray, " documents"]]:
    """Return the vectors of documents one after another, and where each document starts."""
    checked = [check_vectors(each, f"document {n}", size) for n, each in enumerate(documents)]
    lengths = [len(each) for each in checked]
    return np.concatenate(checked), np.cumsum([0, *lengths[:-1]], dtype=np.int64)


def scores(
    queries: Sequence[Float32[np.ndarray, "_ d"]],
    vectors: Float32[np.ndarray, "M d"],
    starts: Int64[np.ndarray, " documents"],
    dtype: str = "float32",
) -> Float32[np.ndarray, "queries documents"]:
    """Return `maxsim` of queries with documents that are packed (`pack`); nothing is checked.

    Every query and every document has at least one vector.

    Args:
        queries: the vectors of each query.
        vectors: those of documents.
        starts: the first vector of each document.
        dtype: what vectors are rounded to for products: "float32", "bfloat16", or "auto", which is
            bfloat16 if this CPU computes in it. Sums are in float32.
    """
    found = np.empty((len(queries), len(starts)), np.float32)
    starts = np.append(starts, len(vectors))
    parts = list(_runs(starts[1:], DOCUMENT_ROWS))
    with ThreadPoolExecutor(threads.count()) as pool:
        run = pool.map if len(parts) > 1 else map
        for some in _runs(np.cumsum([len(query) for query in queries]), QUERY_ROWS):
            packed = np.concatenate(queries[some])
            begins = np.cumsum([0, *(len(query) for query in queries[some][:-1])])
            layer = Linear(Stored("float32", packed), None, resolve_dtype(dtype))
            best = run(partial(_largest, layer, vectors, starts), parts)
            for part, own in zip(parts, best, strict=True):
                found[some, part] = np.add.reduceat(own, begins, axis=1).T
    return found


def _largest(
    layer: Linear, vectors: Float32[np.ndarray, "M d"], starts: Int64[np.ndarray, " _"], part: slice
) -> Float32[np.ndarray, "documents rows"]:
    """Return the best product of each vector of queries with some of the documents."""
    return layer.largest(vectors, starts[part.start : part.stop + 1])


def _runs(ends: Int64[np.ndarray, " n"], size: int) -> Iterator[slice]:
    """Divide texts, of which the ends of their rows are given, into runs of at most ``size`` rows.

    A text of more rows is a run.
    """
    first = 0
    while first < len(ends):
        begin = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, begin + size, "right")))
        yield slice(first, last)
        first = last
