"""Processes side by side: results, and what happens when one dies or memory is short."""

from pathlib import Path

import fake_peer
import numpy as np
import pytest

from motherbird import machine
from motherbird.bench import pool as pools
from motherbird.bench.pool import EncodeRequest
from motherbird.errors import WorkerError

BATCHES = [[[3, 4, 5], [6, 7]], [[8]]]


def test_an_answer(pool):
    answer = pool.ask(
        fake_peer.system("right"), EncodeRequest(BATCHES, calls=True, vectors=True), 30.0
    )
    assert len(answer.seconds) == 2 and min(answer.seconds) > 0
    for got, batch in zip(answer.vectors, BATCHES, strict=True):
        np.testing.assert_array_equal(got, fake_peer.vectors(batch))
    assert 5 < answer.resident_mb <= 1.01 * answer.peak_mb < 500  # the kernel counts in strides
    assert pool.ask(fake_peer.system("right"), EncodeRequest(BATCHES), 30.0).vectors == []


def test_output_is_no_answer(pool, job):
    answer = pool.ask(
        fake_peer.system("prints"), EncodeRequest(BATCHES, calls=True, vectors=True), 30.0
    )
    assert len(answer.vectors) == 2
    assert "more chatter" in (job.folder / "prints-float32.log").read_text()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("refuses", "^dtype 'int7' is unknown$"),
        ("raises", "^RuntimeError: two lines$"),
        ("dies", "ended with exit code 7: corrupted size"),
        ("killed", "killed by SIGKILL, probably because memory ran out"),
        ("hangs", "no answer within"),
    ],
)
def test_every_failure_has_a_reason(name, reason, pool, monkeypatch):
    monkeypatch.setattr(pools, "START_LIMIT", 3.0)
    with pytest.raises(WorkerError, match=reason):
        pool.ask(fake_peer.system(name), EncodeRequest(BATCHES), 0.5)
    assert pool.ask(fake_peer.system("right"), EncodeRequest(BATCHES), 30.0).seconds


def test_a_conversion_that_fails(pool):
    pool.prepare(fake_peer.system("right"))
    with pytest.raises(WorkerError, match="ValueError: no conversion"):
        pool.prepare(fake_peer.system("unprepared"))


def test_a_system_that_is_killed_beside_others_is_tried_again_alone(pool, monkeypatch):
    right, killed = fake_peer.system("right"), fake_peer.system("killed")
    pool.ask(right, EncodeRequest(BATCHES), 30.0)
    started = []
    real = pools.SystemWorker
    monkeypatch.setattr(
        pools,
        "SystemWorker",
        lambda *a, **o: started.append((len(pool._workers), a[1][0])) or real(*a, **o),
    )
    with pytest.raises(WorkerError):
        pool.ask(killed, EncodeRequest(BATCHES), 30.0)
    assert started == [(1, killed), (0, killed)]


def test_the_last_used_goes_when_memory_is_short(pool, monkeypatch):
    first, second, third = (fake_peer.system(n) for n in ("right", "nan", "off"))
    for system in (first, second):
        pool.ask(system, EncodeRequest(BATCHES), 30.0)
    free = iter([100.0, 1e6])
    monkeypatch.setattr(machine, "available_mb", lambda: next(free))
    pool.ask(third, EncodeRequest(BATCHES), 30.0)
    assert list(pool._workers) == [first, third]


def test_room_is_asked_for_by_the_longest_batch(pool, monkeypatch):
    system = fake_peer.system("right")
    pool.ask(fake_peer.system("nan"), EncodeRequest(BATCHES), 30.0)
    pool.ask(system, EncodeRequest(BATCHES), 30.0)
    # 2 heads x 2 x 4 bytes x 2 documents x 4,000 squared: 512 MB.
    monkeypatch.setattr(machine, "available_mb", lambda: 511.0)
    pool.ask(system, EncodeRequest([[[1] * 4000] * 2]), 30.0)
    assert list(pool._workers) == [system]


def test_the_peak_is_reset(pool):
    """Memory that an earlier workload needed does not count for this one."""
    system = fake_peer.system("right")
    large = pool.ask(system, EncodeRequest([[list(range(400_000))]]), 30.0).peak_mb
    same = pool.ask(system, EncodeRequest(BATCHES), 30.0).peak_mb
    reset = pool.ask(system, EncodeRequest(BATCHES, reset_peak=True), 30.0).peak_mb
    assert same >= large - 1
    if Path("/proc/self/clear_refs").exists():
        assert reset < large - 5


def test_stop_and_close(pool):
    systems = [fake_peer.system(n) for n in ("right", "nan")]
    workers = []
    for system in systems:
        pool.ask(system, EncodeRequest(BATCHES), 30.0)
        workers.append(pool._workers[system])
    pool.stop(systems[0])
    assert [worker.alive for worker in workers] == [False, True]
    pool.close()
    assert not workers[1].alive
    assert pool.ask(systems[0], EncodeRequest(BATCHES), 30.0).seconds


def test_call_once(tmp_path):
    options = {"log": tmp_path / "log", "environment": {}, "limit": 30.0}
    assert pools.call_once(divmod, (7, 2), **options) == (3, 1)
    with pytest.raises(WorkerError, match="^ZeroDivisionError: "):
        pools.call_once(divmod, (7, 0), **options)
