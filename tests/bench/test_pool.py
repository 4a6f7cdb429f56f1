"""Processes side by side: what they answer, what happens when one dies or memory is short."""

from pathlib import Path

import fake_peer
import numpy as np
import pytest

from motherbird import machine
from motherbird.bench import pool as pools
from motherbird.bench.pool import Request
from motherbird.bench.worker import WorkFailed

BATCHES = [[[3, 4, 5], [6, 7]], [[8]]]


def test_an_answer(pool):
    answer = pool.ask(fake_peer.system("right"), Request(BATCHES, calls=True, vectors=True), 30.0)
    assert len(answer.seconds) == 2 and min(answer.seconds) > 0
    for got, batch in zip(answer.vectors, BATCHES, strict=True):
        np.testing.assert_array_equal(got, fake_peer.vectors(batch))
    assert 5 < answer.resident_mb <= 1.01 * answer.peak_mb < 500  # the kernel counts in strides
    assert pool.ask(fake_peer.system("right"), Request(BATCHES), 30.0).vectors == []


def test_chatter_is_no_answer(pool, job):
    answer = pool.ask(fake_peer.system("prints"), Request(BATCHES, calls=True, vectors=True), 30.0)
    assert len(answer.vectors) == 2
    assert "more chatter" in (job.folder / "prints-float32.log").read_text()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("refuses", "^dtype 'int7' is unknown$"),
        ("raises", "^RuntimeError: two lines$"),
        ("dies", "ended with code 7: corrupted size"),
        ("killed", "killed, probably for want of memory"),
        ("hangs", "no answer within"),
    ],
)
def test_whatever_goes_wrong_is_a_reason(name, reason, pool, monkeypatch):
    monkeypatch.setattr(pools, "START_LIMIT", 3.0)
    with pytest.raises(WorkFailed, match=reason):
        pool.ask(fake_peer.system(name), Request(BATCHES), 0.5)
    assert pool.ask(fake_peer.system("right"), Request(BATCHES), 30.0).seconds


def test_a_conversion_that_fails(pool):
    pool.prepare(fake_peer.system("right"))
    with pytest.raises(WorkFailed, match="ValueError: no conversion"):
        pool.prepare(fake_peer.system("unprepared"))


def test_who_dies_beside_others_gets_another_try_alone(pool, monkeypatch):
    right, killed = fake_peer.system("right"), fake_peer.system("killed")
    pool.ask(right, Request(BATCHES), 30.0)
    started = []
    real = pools.Worker
    monkeypatch.setattr(
        pools, "Worker", lambda *a: started.append((len(pool._workers), a[1][0])) or real(*a)
    )
    with pytest.raises(WorkFailed):
        pool.ask(killed, Request(BATCHES), 30.0)
    assert started == [(1, killed), (0, killed)]


def test_the_last_used_goes_when_memory_is_short(pool, monkeypatch):
    first, second, third = (fake_peer.system(n) for n in ("right", "nan", "off"))
    for system in (first, second):
        pool.ask(system, Request(BATCHES), 30.0)
    free = iter([100.0, 1e6])
    monkeypatch.setattr(machine, "available_mb", lambda: next(free))
    pool.ask(third, Request(BATCHES), 30.0)
    assert list(pool._workers) == [first, third]


def test_room_is_asked_for_by_the_longest_batch(pool, monkeypatch):
    system = fake_peer.system("right")
    pool.ask(fake_peer.system("nan"), Request(BATCHES), 30.0)
    pool.ask(system, Request(BATCHES), 30.0)
    # 2 heads x 2 x 4 bytes x 2 documents x 4,000 squared: 512 MB.
    monkeypatch.setattr(machine, "available_mb", lambda: 511.0)
    pool.ask(system, Request([[[1] * 4000] * 2]), 30.0)
    assert list(pool._workers) == [system]


def test_a_peak_starts_anew(pool):
    """Memory that an earlier workload needed is not this one's."""
    system = fake_peer.system("right")
    large = pool.ask(system, Request([[list(range(400_000))]]), 30.0).peak_mb
    same = pool.ask(system, Request(BATCHES), 30.0).peak_mb
    anew = pool.ask(system, Request(BATCHES, fresh=True), 30.0).peak_mb
    assert same >= large - 1
    if Path("/proc/self/clear_refs").exists():
        assert anew < large - 5


def test_rest_and_close(pool):
    systems = [fake_peer.system(n) for n in ("right", "nan")]
    workers = []
    for system in systems:
        pool.ask(system, Request(BATCHES), 30.0)
        workers.append(pool._workers[system])
    pool.rest(systems[0])
    assert [worker.alive for worker in workers] == [False, True]
    pool.close()
    assert not workers[1].alive
    assert pool.ask(systems[0], Request(BATCHES), 30.0).seconds
