"""MaxSim against a loop in float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird import InputError
from motherbird.engine import maxsim as module
from motherbird.engine.maxsim import maxsim, maxsim_many, pack, scores

pytestmark = pytest.mark.usefixtures("no_type_checker")


def loop(query, document):
    return sum(
        max(sum(float(a) * float(b) for a, b in zip(q, d, strict=True)) for d in document)
        for q in query
    )


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8),
    size=st.integers(1, 5),
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    seed=st.integers(0, 99),
    query_rows=st.integers(1, 9),
    document_rows=st.integers(1, 60),
)
def test_against_a_loop(lengths, size, counts, seed, query_rows, document_rows):
    draw = np.random.default_rng(seed)
    queries = [draw.normal(size=(n, size)).astype(np.float32) for n in counts]
    documents = [draw.normal(size=(n, size)).astype(np.float32) for n in lengths]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "QUERY_ROWS", query_rows)
        patch.setattr(module, "DOCUMENT_ROWS", document_rows)
        found = scores(queries, *pack(documents, size))
        first = maxsim_many(queries[0], documents)
    expected = [[loop(query, document) for document in documents] for query in queries]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(first, expected[0], atol=1e-5)
    assert maxsim(queries[0], documents[0]) == pytest.approx(expected[0][0], abs=1e-5)


def test_no_documents():
    assert maxsim_many(np.ones((2, 3), np.float32), []).shape == (0,)


def matrix(*shape, value=1.0, dtype=np.float32):
    return np.full(shape, value, dtype)


@pytest.mark.parametrize(
    ("query", "document", "says"),
    [
        (matrix(2, 3), matrix(2, 4), "have size 4, those of the query 3: document 0"),
        (matrix(2, 3), matrix(0, 3), "there are no vectors: document 0"),
        (matrix(3), matrix(2, 3), r"an array of shape \(3,\) and dtype float32: the query"),
        (matrix(2, 3), matrix(2, 3, dtype=np.float64), "dtype float64: document 0"),
        (matrix(2, 3), matrix(2, 3, value=np.nan), "contains NaN or infinity: document 0"),
        (matrix(2, 3, value=np.inf), matrix(2, 3), "contains NaN or infinity: the query"),
        (matrix(2, 3), [[1.0]], "not a float32 matrix but a list: document 0"),
    ],
)
def test_what_are_not_vectors(query, document, says):
    with pytest.raises(InputError, match=says):
        maxsim(query, document)
