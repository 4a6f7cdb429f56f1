"""A worker answers, fails in words, and never outlives its use."""

import os
import signal
import subprocess
import sys
import time

import pytest

from motherbird.bench.worker import Worker, WorkFailed, once
from motherbird.errors import InputError


def echo(prefix):
    os.environ["SEEN"] = prefix
    return lambda request: f"{prefix} {request}"


def count():
    requests = []
    return lambda request: requests.append(request) or len(requests)


def obey():
    def handle(request):
        if request == "raise":
            raise ValueError("first line\nsecond line " + "x" * 1000)
        if request == "refuse":
            raise InputError("what", "where", "how")
        if request == "die":
            os.write(2, b"Traceback\nlast words\n\n")
            os._exit(3)
        if request == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if request == "hang":
            time.sleep(60)
        if request == "heavy":
            return sorted({"torch", "numpy", "transformers"} & set(sys.modules))
        return os.environ.get(request)

    return handle


def fails():
    raise RuntimeError("cannot start")


@pytest.fixture
def work(tmp_path):
    made = []

    def make(start=obey, *arguments, **environment):
        made.append(Worker(start, arguments, tmp_path / "log", environment))
        return made[-1]

    yield make
    for worker in made:
        worker.stop()


def test_it_answers_in_order_and_keeps_its_state(work):
    worker = work(count)
    assert [worker.ask("x", 30.0) for _ in range(3)] == [1, 2, 3]
    assert work(echo, "hello").ask("you", 30.0) == "hello you"


def test_its_environment_is_ours_and_what_is_added(work, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    worker = work(obey, OMP_NUM_THREADS="3")
    assert worker.ask("OMP_NUM_THREADS", 30.0) == "3"
    assert worker.ask("ONEDNN_MAX_CPU_ISA", 30.0) == "AVX2"
    assert "OMP_NUM_THREADS" not in os.environ or os.environ["OMP_NUM_THREADS"] != "3"


def test_nothing_heavy_is_in_it(work):
    """Its memory is to be that of what it measures."""
    assert work().ask("heavy", 30.0) == []


def test_what_it_raises_is_a_reason_and_it_lives_on(work):
    worker = work()
    with pytest.raises(WorkFailed) as failed:
        worker.ask("raise", 30.0)
    assert failed.value.reason.startswith("ValueError: first line second line xxx")
    assert len(failed.value.reason) == 300 and not failed.value.killed
    with pytest.raises(WorkFailed, match="^what: where: how$"):
        worker.ask("refuse", 30.0)
    assert worker.alive and worker.ask("HOME", 30.0) == os.environ.get("HOME")


def test_what_cannot_start_says_why(work):
    with pytest.raises(WorkFailed, match="RuntimeError: cannot start"):
        work(fails).ask(None, 30.0)


@pytest.mark.parametrize(
    ("request_", "reason"),
    [("die", "ended with code 3: last words"), ("kill", "killed, probably for want of memory")],
)
def test_death_is_a_reason(request_, reason, work):
    worker = work()
    with pytest.raises(WorkFailed, match=reason) as failed:
        worker.ask(request_, 30.0)
    assert failed.value.killed == (request_ == "kill") and not worker.alive
    with pytest.raises(WorkFailed):
        worker.ask("HOME", 30.0)


def test_who_does_not_answer_is_stopped(work):
    worker = work()
    worker.ask("HOME", 30.0)
    start = time.monotonic()
    with pytest.raises(WorkFailed, match="no answer within 0 seconds") as failed:
        worker.ask("hang", 0.3)
    assert time.monotonic() - start < 10 and not worker.alive and not failed.value.killed


def test_once(tmp_path):
    log = tmp_path / "log"
    assert once(divmod, (7, 2), log=log, environment={}, limit=30.0) == (3, 1)
    with pytest.raises(WorkFailed, match="ZeroDivisionError"):
        once(divmod, (7, 0), log=log, environment={}, limit=30.0)


PARENT = """
import sys, time
from pathlib import Path
from motherbird.bench.worker import Worker
import test_worker
worker = Worker(test_worker.obey, (), Path(sys.argv[1]), {})
print(worker.ask("HOME", 30.0) is not None, worker._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_no_worker_outlives_a_parent_that_was_killed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "log")],
        stdout=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    with parent:
        pid = int(parent.stdout.readline().split()[1])
        parent.kill()
    end = time.monotonic() + 20
    while lives(pid):
        assert time.monotonic() < end, f"process {pid} is still there"
        time.sleep(0.05)


def lives(pid):
    """Whether a process runs; one that nobody has buried yet does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return state.stdout.strip()[:1] not in ("", "Z")
