"""Rankings against plain loops, and metrics against their definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird.engine.maxsim import maxsim
from motherbird.retrieval import ranking
from motherbird.retrieval.measure import interval, means, measure
from motherbird.retrieval.ranking import Ranking, by_tokens, by_vectors, by_words, fuse, rerank, top
from motherbird.retrieval.sets import RetrievalSet

SCORES = st.lists(st.lists(st.integers(-3, 3), min_size=7, max_size=7), min_size=1, max_size=4)


@given(rows=SCORES, depth=st.integers(1, 9))
def test_the_best_documents_and_of_equal_ones_the_first(rows, depth):
    scores = np.array(rows, np.float32)
    found = top(scores, depth)
    for own, expected, values in zip(found.documents, rows, found.scores, strict=True):
        order = sorted(range(7), key=lambda n: (-expected[n], n))[:depth]
        # Which of equal scores are in the ranking is not said, only their order.
        assert [expected[n] for n in own] == [expected[n] for n in order] == values.tolist()
        pairs = list(zip(own.tolist(), own.tolist()[1:], strict=False))
        assert all(expected[a] > expected[b] or a < b for a, b in pairs)


def test_vectors_in_several_blocks():
    draw = np.random.default_rng(0)
    queries = draw.normal(size=(600, 8)).astype(np.float32)
    documents = draw.normal(size=(30, 8)).astype(np.float32)
    found = by_vectors(queries, documents)
    np.testing.assert_array_equal(found.documents, np.argsort(-(queries @ documents.T), axis=1))


def test_vectors_of_tokens_in_several_blocks(monkeypatch):
    draw = np.random.default_rng(0)

    def texts(count):
        lengths = draw.integers(1, 6, count)
        return [draw.integers(-2, 3, (n, 4)).astype(np.float32) for n in lengths]

    queries, documents = texts(5), texts(30)
    expected = np.array([[maxsim(q, d) for d in documents] for q in queries])
    order = np.argsort(-expected, axis=1, kind="stable")
    for sizes in ((30,), (7, 1, 22)):
        ends = np.cumsum(sizes)
        blocks = [documents[end - size : end] for size, end in zip(sizes, ends, strict=True)]
        found = by_tokens(queries, iter(blocks))
        np.testing.assert_array_equal(found.documents, order)
        np.testing.assert_array_equal(found.scores, np.take_along_axis(expected, order, axis=1))
    monkeypatch.setattr("motherbird.retrieval.ranking.top", lambda scores: top(scores, 6))
    some = by_tokens(queries, iter(blocks))
    best = np.take_along_axis(expected, order, axis=1)[:, :6]
    np.testing.assert_array_equal(some.scores, best)  # which of equal ones is not said


def test_reranking():
    ranking = Ranking(np.array([[4, 2, 0, 3], [1, 5, -1, -1]], np.int64), np.zeros((2, 4), "f4"))
    asked = []

    def score(query, documents):
        asked.append((query, documents))
        return np.array([{4: 1, 2: 3, 0: 3, 1: 0, 5: 2}[n] for n in documents], np.float32)

    found = rerank(ranking, score, 3)
    assert asked == [(0, [4, 2, 0]), (1, [1, 5])]
    assert found.documents.tolist() == [[2, 0, 4], [5, 1, -1]]
    assert found.scores.tolist() == [[3, 3, 1], [2, 0, 0]]


def bm25(query: list[str], documents: list[list[str]], k1: float = 1.5, b: float = 0.75):
    """The scores of Lucene's BM25, which bm25s computes by default."""
    mean = sum(map(len, documents)) / len(documents)
    scores = []
    for words in documents:
        score = 0.0
        for word in query:
            holding = sum(word in other for other in documents)
            weight = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
            count = words.count(word)
            score += weight * count / (count + k1 * (1 - b + b * len(words) / mean))
        scores.append(score)
    return scores


def test_words():
    documents = ["honey bees honey", "hive bees", "milk cows goats", "cheese milk"]
    found = by_words(["honey bees", "milk", "zebra"], documents)
    for row, query in enumerate((["honey", "bees"], ["milk"])):
        expected = bm25(query, [d.split() for d in documents])
        order = [n for n in np.argsort([-s for s in expected], kind="stable") if expected[n] > 0]
        own = found.documents[row]
        assert own[own >= 0].tolist() == order
        np.testing.assert_allclose(found.scores[row][: len(order)], [expected[n] for n in order],
                                   rtol=1e-5)  # fmt: skip
    assert (found.documents[2] == -1).all()


def test_documents_without_words():
    found = by_words(["honey bees", ""], ["and the of", "?"])
    assert (found.documents == -1).all() and found.scores.shape == (2, 2)


@given(
    one=st.permutations(range(6)), other=st.permutations(range(6)), missing=st.integers(0, 5),
    last=st.integers(2, 6), seed=st.integers(0, 5),
)  # fmt: skip
def test_fusion(one, other, missing, last, seed):
    """Of six documents, all of which vectors rank, and words some; ``last`` is that which has 0."""
    found = 6 - missing
    values = -np.sort(-np.random.default_rng(seed).uniform(0.1, 9, size=(2, 6)), axis=1)
    values[0, found:] = 0
    ranked = ([*one[:found], *[-1] * missing], list(other))
    words, vectors = (
        Ranking(np.array([documents], np.int64), own[None].astype(np.float32))
        for documents, own in zip(ranked, values, strict=True)
    )
    for kinds, weights in ranking.WEIGHTS.items():
        expected = dict.fromkeys(range(6), 0.0)
        for documents, own, weight in zip(ranked, values, (1, sum(weights)), strict=True):
            low = own[last - 1]
            for document, value in zip(documents, own, strict=True):
                if document >= 0:
                    expected[document] += weight * max(0.0, (value - low) / (own[0] - low))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ranking, "FUSED", last)
            fused = fuse(words, dict.fromkeys(kinds, vectors), 6)
        assert sorted(fused.documents[0]) == list(range(6))
        np.testing.assert_allclose(
            fused.scores[0], sorted(expected.values(), reverse=True), atol=1e-5
        )
        np.testing.assert_allclose(
            fused.scores[0], [expected[n] for n in fused.documents[0].tolist()], atol=1e-5
        )


def test_fusion_of_a_single_document():
    one = Ranking(np.array([[0]], np.int64), np.array([[0.3]], np.float32))
    none = Ranking(np.array([[-1]], np.int64), np.zeros((1, 1), np.float32))
    assert fuse(none, {"late": one}, 1).documents.tolist() == [[0]]
    assert fuse(none, {"dense": none, "late": none}, 1).documents.tolist() == [[-1]]


def a_set(relevant, documents=200):
    ids = [str(n) for n in range(documents)]
    names = [f"q{n}" for n in range(len(relevant))]
    return RetrievalSet("a", "test", ids, ids, names, names, relevant, 0, 0)


@given(
    order=st.permutations(range(12)),
    relevant=st.dictionaries(st.integers(0, 11), st.integers(1, 3), min_size=1),
)
def test_metrics_by_their_definitions(order, relevant):
    pytest.importorskip("ir_measures")
    ranking = Ranking(np.array([order], np.int64), np.zeros((1, 12), np.float32))
    found = measure(a_set([relevant]), ranking)
    gain = sum(relevant.get(d, 0) / math.log2(2 + rank) for rank, d in enumerate(order[:10]))
    best = sorted(relevant.values(), reverse=True)[:10]
    ideal = sum(grade / math.log2(2 + rank) for rank, grade in enumerate(best))
    first = next((rank for rank, d in enumerate(order[:10], 1) if d in relevant), None)
    assert found["nDCG@10"][0] == pytest.approx(gain / ideal, abs=1e-9)
    assert found["MRR@10"][0] == pytest.approx(0 if first is None else 1 / first)
    assert found["recall@100"][0] == 1


def test_a_query_that_finds_nothing_counts_as_zero():
    pytest.importorskip("ir_measures")
    documents = np.array([[0, 1], [-1, -1]], np.int64)
    found = measure(a_set([{0: 1}, {1: 1}]), Ranking(documents, np.zeros((2, 2), np.float32)))
    assert means(found) == {"nDCG@10": 0.5, "recall@100": 0.5, "MRR@10": 0.5}


def test_the_interval_of_a_difference():
    draw = np.random.default_rng(1)
    one, other = draw.uniform(size=400), draw.uniform(size=400)
    mean, low, high = interval(one, other)
    error = (one - other).std() / np.sqrt(400)
    assert mean == pytest.approx((one - other).mean())
    assert low == pytest.approx(mean - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(mean + 1.96 * error, abs=0.1 * error)
    assert interval(one, one) == (0, 0, 0)
