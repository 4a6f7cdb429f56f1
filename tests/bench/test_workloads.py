"""The documents: the paper's lengths, the same for all, and few of them like many."""

import statistics

import pytest

from motherbird.bench.workloads import POOL, WORKLOADS, batches, choose

ORDERS = ("given", "sorted", "tokens")


@pytest.mark.parametrize(
    ("name", "shortest", "longest", "mean", "deviation"),
    [
        ("short-fixed", 512, 512, 512, 0),
        ("short-variable", 16, 512, 256, 64),
        ("long-fixed", 8192, 8192, 8192, 0),
        ("long-variable", 16, 8192, 4096, 1024),
        ("queries", 16, 64, 40, 14.1),
        ("latency", 16, 16, 16, 0),
    ],
)
def test_lengths(name, shortest, longest, mean, deviation):
    lengths = WORKLOADS[name].lengths
    assert len(lengths) == POOL and lengths == sorted(lengths)
    assert shortest <= min(lengths) and max(lengths) <= longest
    assert statistics.mean(lengths) == pytest.approx(mean, rel=0.03)
    assert statistics.pstdev(lengths) == pytest.approx(deviation, rel=0.1)
    assert WORKLOADS[name].fixed == (deviation == 0)


def test_queries_reach_both_ends():
    lengths = WORKLOADS["queries"].lengths
    assert (min(lengths), max(lengths)) == (16, 64)


def test_documents_are_the_same_in_every_process():
    """Pinned: figures of two versions are to be of the same documents."""
    workload = WORKLOADS["queries"]
    assert workload.document(0, 50368)[:3] == workload.document(0, 50368)[:3]
    assert workload.document(0, 50368)[:3] != workload.document(1, 50368)[:3]
    assert workload.document(0, 50368)[:4] == [13764, 15701, 4876, 7616]


@pytest.mark.parametrize(("vocabulary", "first", "last"), [(50368, 100, 16000), (60, 30, 60)])
def test_ids_lie_in_the_vocabulary(vocabulary, first, last):
    ids = [i for n in range(50) for i in WORKLOADS["queries"].document(n, vocabulary)]
    assert first <= min(ids) and max(ids) < last and len(set(ids)) > 10


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("tokens", [0.0, 600.0, 3000.0, 20_000.0, 1e9])
def test_few_documents_are_like_many(order, tokens):
    workload = WORKLOADS["short-variable"]
    size = 1024 if order == "tokens" else 4
    chosen = choose(workload, order, size, tokens)
    lengths = workload.lengths_of(chosen)
    assert statistics.mean(lengths) == pytest.approx(256, rel=0.08)
    if tokens >= 20_000:
        assert statistics.pstdev(lengths) == pytest.approx(64, rel=0.2)
    assert sum(lengths) == pytest.approx(min(max(tokens, 1024.0), POOL * 256), rel=0.6)


def test_one_document_is_the_median():
    workload = WORKLOADS["long-variable"]
    for order in ORDERS:
        assert workload.lengths_of(choose(workload, order, 1, 0.0)) == [workload.lengths[256]]


@pytest.mark.parametrize("size", [1, 4, 8, 16, 32])
def test_batches_of_documents(size):
    workload = WORKLOADS["queries"]
    given, ordered = (choose(workload, order, size, 9000.0) for order in ("given", "sorted"))
    assert {len(batch) for batch in [*given, *ordered]} == {size}
    flat = [number for batch in given for number in batch]
    assert len(set(flat)) == len(flat) and (size == 1 or flat != sorted(flat))
    assert all(batch == list(range(batch[0], batch[0] + size)) for batch in ordered)


def test_batches_of_tokens():
    workload = WORKLOADS["short-variable"]
    for budget in (1024, 4096):
        chosen = choose(workload, "tokens", budget, 1e9)
        sizes = [sum(workload.lengths_of([batch])) for batch in chosen]
        assert max(sizes) <= budget and statistics.mean(sizes) > 0.8 * budget
        assert sorted(n for batch in chosen for n in batch) == list(range(POOL))


def test_no_core_waits_for_the_last_batch():
    workload = WORKLOADS["short-variable"]
    counts = [len(choose(workload, "tokens", 1024, n * 1000.0, parallel=4)) for n in range(1, 40)]
    assert all(n < 4 or n % 4 == 0 for n in counts)
    assert {1, 2, 3, 4, 8, 32} <= set(counts)


def test_ids_of_what_was_chosen():
    workload = WORKLOADS["queries"]
    chosen = [[3, 1], [2]]
    assert batches(workload, chosen, 1024) == [
        [workload.document(3, 1024), workload.document(1, 1024)], [workload.document(2, 1024)]
    ]  # fmt: skip
