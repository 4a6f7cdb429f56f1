"""Wrong systems are recognized, and a NaN never passes."""

import dataclasses
import math

import fake_peer
import numpy as np
import pytest

from motherbird.bench import check as checks
from motherbird.bench import pool as pools
from motherbird.bench.check import cases, check
from motherbird.bench.peers import all_systems
from motherbird.errors import WorkerError


def reference(job):
    def of(system):
        return np.concatenate([fake_peer.vectors([d]) for c in cases(system, job) for d in c])

    return of


@pytest.fixture
def result(job, pool, monkeypatch):
    monkeypatch.setattr(pools, "START_LIMIT", 3.0)
    monkeypatch.setattr(checks, "LIMIT", 1.0)
    return lambda name: check(fake_peer.system(name), job, pool, reference(job))


def test_the_documents(job):
    longer = dataclasses.replace(job, longest=8192, vocab_size=50368)
    found = cases(fake_peer.system("right"), longer)
    lengths = [[len(d) for d in case] for case in found]
    assert lengths == [[1], [64, 65], [129, 129], [300, 150, 60], [1024, 4]]
    ids = {i for case in found for d in case for i in d}
    assert min(ids) >= 100 and max(ids) < 16_000
    assert [len(c) for c in cases(fake_peer.system("right"), job)] == [1, 2, 2, 3]  # of 512 tokens


def test_right(result):
    found = result("right")
    assert found.correct and found.runs and found.reason is None
    assert found.cosine == pytest.approx(1.0)
    assert found.tokens_per_s > 0 and found.loaded_mb > 5


def test_one_nan_among_good_vectors(result):
    """The worst of them is not what Python's min would say."""
    found = result("nan")
    assert found.correct is False and found.cosine is None and found.runs
    assert found.reason == "wrong: 3 of 8 vectors are not finite"


def test_off(result):
    found = result("off")
    assert found.correct is False and found.runs and found.cosine < 0.99999
    assert found.reason.startswith("wrong: a cosine of ")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("raises", "two lines"), ("dies", "code 7"), ("refuses", "int7"), ("hangs", "no answer"),
     ("unprepared", "no conversion")],
)  # fmt: skip
def test_systems_that_cannot_run(name, reason, result):
    found = result(name)
    assert not found.runs and found.correct is None and found.cosine is None
    assert reason in found.reason


def test_without_reference_vectors(job, pool):
    def none(system):
        raise WorkerError("the weights are damaged")

    found = check(fake_peer.system("right"), job, pool, none)
    assert found.reason == "the weights are damaged" and not found.runs


def test_every_dtype_has_its_bar():
    assert checks.AGREEMENT == {
        "float32": 0.99999, "float16": 0.9999, "bfloat16": 0.995, "int8": 0.995
    }  # fmt: skip
    assert {s.dtype for s in all_systems()} - {"auto"} == checks.AGREEMENT.keys()


def test_cosines_see_nan():
    references = np.array([[1, 0], [1, 0], [1, 0], [1, 0]], np.float32)
    vectors = np.array([[2, 0], [1, 1], [np.nan, 1], [0, 0]], np.float32)
    values = checks.cosines(vectors, references)
    assert values[0] == 1 and values[1] == pytest.approx(math.sqrt(0.5))
    assert np.isnan(values[2:]).all() and np.isnan(values.min())
