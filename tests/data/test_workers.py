"""Workers that die, hang and fail, for real: no answer is lost, and nothing waits for ever."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from motherbird.data.workers import as_done, in_order, pool
from motherbird.errors import InputError, WorkerError

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


def slow_first(argument):
    def serve(request):
        time.sleep(2.0 if request == 0 else 0.0)
        return request

    return serve


def test_a_slow_one_holds_up_nobody():
    with pool(2, slow_first, None) as workers:
        assert list(as_done(workers, iter(range(6)))) == [1, 2, 3, 4, 5, 0]


def double(argument):
    return lambda request: 2 * request


def ill(folder):
    """Answers 2x; what a file in the folder says is done once instead, or always."""

    def serve(request):
        for what in ("once", "always"):
            path = Path(folder) / f"{what}-{request}"
            if path.exists():
                action = path.read_text()
                if what == "once":
                    path.unlink()
                if action == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                if action == "hang":
                    os.kill(os.getpid(), signal.SIGSTOP)
                if action == "exit":
                    os._exit(3)
                raise InputError("what", "where", "how")
        return 2 * request

    return serve


def broken(argument):
    raise InputError("cannot open", str(argument))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_answers_in_order(count):
    with pool(count, double, None) as workers:
        assert list(in_order(workers, iter(range(20)))) == list(range(0, 40, 2))


def test_answers_as_done():
    with pool(2, double, None) as workers:
        assert sorted(as_done(workers, iter(range(20)))) == list(range(0, 40, 2))


@pytest.mark.parametrize("action", ["kill", "hang", "exit"])
def test_a_worker_that_is_lost_is_replaced(action, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    (tmp_path / "once-5").write_text(action)
    start = time.monotonic()
    with pool(2, ill, tmp_path, limit=2.0) as workers:
        assert list(in_order(workers, iter(range(10)))) == list(range(0, 20, 2))
    assert time.monotonic() - start < 20
    (record,) = caplog.records
    says = {"kill": "killed by SIGKILL", "hang": "within 2 seconds", "exit": "exit code 3"}[action]
    assert says in record.getMessage()


@pytest.mark.parametrize("action", ["kill", "hang"])
def test_the_third_time_it_is_an_error(action, tmp_path):
    (tmp_path / "always-3").write_text(action)
    with (
        pytest.raises(WorkerError, match="failed 3 times"),
        pool(1, ill, tmp_path, limit=1.0) as workers,
    ):
        list(in_order(workers, iter(range(10))))


@pytest.mark.parametrize("answers", [in_order, as_done])
def test_an_error_arrives_whole(answers, tmp_path):
    (tmp_path / "always-3").write_text("raise")
    with pytest.raises(InputError) as error, pool(1, ill, tmp_path) as workers:
        list(answers(workers, iter(range(10))))
    assert (error.value.what, error.value.where, error.value.how) == ("what", "where", "how")


def test_an_error_at_the_start_arrives_too():
    with pytest.raises(InputError, match="cannot open"), pool(1, broken, 5) as workers:
        list(in_order(workers, iter([1])))


def test_no_process_is_left():
    with pool(2, double, None) as workers:
        list(in_order(workers, iter(range(3))))
        processes = [worker.process for worker in workers]
        assert all(process.is_alive() for process in processes)
    assert not any(process.is_alive() for process in processes)


PARENT = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import test_workers
from motherbird.data.workers import pool
with pool(1, test_workers.sleeper, None) as workers:
    workers[0].ask(60)
    print(workers[0].process.pid, flush=True)
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def sleeper(argument):
    return time.sleep


def test_workers_end_with_their_parent():
    """Killed, it leaves nobody behind, not even one that is at work."""
    command = [sys.executable, "-c", PARENT, Path(__file__).parent]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    worker = int(process.stdout.readline())
    assert process.wait(30) == -signal.SIGKILL
    process.stdout.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        state = Path(f"/proc/{worker}/stat")
        if state.exists() and state.read_text().split()[2] == "Z":
            return  # ended; nobody has asked for its exit code
        time.sleep(0.05)
    pytest.fail("it is still there")
