"""Worker processes that die, hang and fail: no answer is lost, and none outlives its use."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from motherbird.errors import InputError, WorkerError
from motherbird.workers import Worker, WorkerDied, as_completed, in_order, pool

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


def echo(prefix):
    os.environ["SEEN"] = prefix
    return lambda request: f"{prefix} {request}"


def count():
    requests = []
    return lambda request: requests.append(request) or len(requests)


class ForeignError(Exception):
    """An exception that cannot be unpickled."""

    def __init__(self, first, second):
        super().__init__(f"{first}\n{second}")


def obey():
    def handle(request):
        if request == "raise":
            raise ForeignError("first line", "second line " + "x" * 1000)
        if request == "value":
            raise ValueError("a value")
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
            heavy = {"torch", "numpy", "transformers", "click", "pytest"}
            return sorted(heavy & set(sys.modules))
        if request == "child":
            return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid
        return os.environ.get(request)

    return handle


def chatter():
    def handle(request):
        print("chatter", flush=True)
        os.write(1, b"more chatter\n")
        return sys.stdin.read()

    return handle


def lambdas():
    return lambda request: lambda: None


def fails():
    raise InputError("cannot start")


@pytest.fixture
def work(tmp_path):
    made = []

    def make(start=obey, *arguments, **environment):
        made.append(Worker(start, arguments, log=tmp_path / "log", environment=environment))
        return made[-1]

    yield make
    for worker in made:
        worker.stop()


# --- one worker


def test_it_answers_in_order_and_keeps_its_state(work):
    worker = work(count)
    assert [worker.ask("x", 30.0) for _ in range(3)] == [1, 2, 3]
    futures = [worker.submit("x") for _ in range(3)]
    assert [future.result(30.0) for future in futures] == [4, 5, 6]
    assert work(echo, "hello").ask("you", 30.0) == "hello you"


def test_large_requests_and_answers(work):
    data = os.urandom(30_000_000)
    assert work(echo, "").ask(data, 60.0) == f" {data}"


def test_its_environment_is_the_parents_and_what_is_added(work, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("PYTHONPATH", "unchanged")
    worker = work(obey, OMP_NUM_THREADS="3")
    assert worker.ask("OMP_NUM_THREADS", 30.0) == "3"
    assert worker.ask("ONEDNN_MAX_CPU_ISA", 30.0) == "AVX2"
    assert worker.ask("PYTHONPATH", 30.0) == "unchanged"
    assert "OMP_NUM_THREADS" not in os.environ or os.environ["OMP_NUM_THREADS"] != "3"


def test_nothing_heavy_is_in_it(work):
    """Its memory is to be that of what it measures."""
    assert work().ask("heavy", 30.0) in ([], ["pytest"])  # `obey` is in a module of tests


def test_what_it_prints_goes_to_its_log(work, tmp_path):
    worker = work(chatter)
    assert worker.ask("", 30.0) == worker.ask("", 30.0) == ""  # standard input is empty
    assert (tmp_path / "log").read_text().split("\n")[:2] == ["chatter", "more chatter"]


def test_what_it_raises_arrives_and_it_lives_on(work):
    worker = work()
    with pytest.raises(WorkerError) as failed:
        worker.ask("raise", 30.0)
    assert failed.value.what.startswith("ForeignError: first line second line xxx")
    assert len(failed.value.what) == 300
    with pytest.raises(ValueError, match="^a value$"):
        worker.ask("value", 30.0)
    with pytest.raises(InputError) as refused:
        worker.ask("refuse", 30.0)
    assert (refused.value.what, refused.value.where, refused.value.how) == ("what", "where", "how")
    with pytest.raises(Exception, match="pickle"):
        work(lambdas).ask(None, 30.0)
    assert worker.alive and worker.ask("HOME", 30.0) == os.environ.get("HOME")


def test_an_error_at_the_start_arrives(work):
    worker = work(fails)
    for _ in range(2):
        with pytest.raises(InputError, match="cannot start"):
            worker.ask(None, 30.0)
    with pytest.raises(InputError, match="cannot start"):
        worker.ready.result()


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ("die", "ended with exit code 3: last words"),
        pytest.param("kill", "killed by SIGKILL, probably because memory ran out", marks=posix),
    ],
)
def test_death_is_an_error(request_, reason, work):
    worker = work()
    with pytest.raises(WorkerDied, match=reason) as failed:
        worker.ask(request_, 30.0)
    assert failed.value.killed == (request_ == "kill") and not worker.alive
    with pytest.raises(WorkerDied):
        worker.ask("HOME", 30.0)


def test_a_worker_that_does_not_answer_is_stopped(work):
    worker = work()
    worker.ask("HOME", 30.0)
    start = time.monotonic()
    with pytest.raises(WorkerDied, match=r"no answer within 0\.3 s") as failed:
        worker.ask("hang", 0.3)
    assert time.monotonic() - start < 10 and not worker.alive and not failed.value.killed
    stopped = work()
    stopped.stop()
    with pytest.raises(WorkerDied, match="was stopped"):
        stopped.ask("HOME", 30.0)


PARENT = """
import sys, time
from motherbird.workers import Worker, pool
import test_workers
with pool(1, test_workers.sleeper) as workers:
    workers[0].ask(60)
    worker = Worker(test_workers.obey)
    print(workers[0].process.pid, worker.pid, worker.ask("child", 30.0), flush=True)
    time.sleep(60)
"""


def sleeper():
    return time.sleep


@posix
def test_workers_end_with_their_parent():
    """Also at work, and with the processes that they have started."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env=environment
    )
    with parent:
        pids = parent.stdout.readline().split()
        parent.kill()
    assert len(pids) == 3
    end = time.monotonic() + 20
    while any(map(lives, pids)):
        assert time.monotonic() < end, f"one of the processes {pids} is still running"
        time.sleep(0.05)


def lives(pid):
    """Whether a process is running; a zombie is not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", pid], capture_output=True, text=True)
    return state.stdout.strip()[:1] not in ("", "Z")


# --- a pool


def slow_first():
    def serve(request):
        time.sleep(2.0 if request == 0 else 0.0)
        return request

    return serve


def double():
    return lambda request: 2 * request


def faulty(folder):
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
    with pool(count, double) as workers:
        assert list(in_order(workers, iter(range(20)))) == list(range(0, 40, 2))


def test_answers_as_completed():
    with pool(2, double) as workers:
        assert sorted(as_completed(workers, iter(range(20)))) == list(range(0, 40, 2))
        assert list(as_completed(workers, iter([]))) == []


def test_a_slow_request_does_not_delay_the_others():
    with pool(2, slow_first) as workers:
        assert list(as_completed(workers, iter(range(6)))) == [1, 2, 3, 4, 5, 0]


@posix
@pytest.mark.parametrize("action", ["kill", "hang", "exit"])
def test_a_worker_that_is_lost_is_replaced(action, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    (tmp_path / "once-5").write_text(action)
    start = time.monotonic()
    with pool(2, faulty, (tmp_path,), limit=2.0) as workers:
        assert list(in_order(workers, iter(range(10)))) == list(range(0, 20, 2))
    assert time.monotonic() - start < 20
    (record,) = caplog.records
    says = {"kill": "killed by SIGKILL", "hang": "within 2 s", "exit": "exit code 3"}[action]
    assert says in record.getMessage()


@posix
def test_a_lost_worker_is_replaced_among_those_that_complete(tmp_path):
    (tmp_path / "once-5").write_text("kill")
    with pool(2, faulty, (tmp_path,)) as workers:
        assert sorted(as_completed(workers, iter(range(10)))) == list(range(0, 20, 2))


@posix
@pytest.mark.parametrize("action", ["kill", "hang"])
def test_the_third_time_it_is_an_error(action, tmp_path):
    (tmp_path / "always-3").write_text(action)
    with (
        pytest.raises(WorkerError, match="^a worker process failed 3 times") as error,
        pool(1, faulty, (tmp_path,), limit=1.0) as workers,
    ):
        list(in_order(workers, iter(range(10))))
    assert "train.workers=0, --processes 1 or --threads 1" in error.value.how


@pytest.mark.parametrize("answers", [in_order, as_completed])
def test_an_error_arrives_whole(answers, tmp_path):
    (tmp_path / "always-3").write_text("raise")
    with pytest.raises(InputError) as error, pool(1, faulty, (tmp_path,)) as workers:
        list(answers(workers, iter(range(10))))
    assert (error.value.what, error.value.where, error.value.how) == ("what", "where", "how")


def test_an_error_at_the_start_of_a_pool_arrives_too():
    with pytest.raises(InputError, match="cannot open"), pool(1, broken, (5,)) as workers:
        list(in_order(workers, iter([1])))


def test_no_process_is_left():
    with pool(2, double) as workers:
        list(in_order(workers, iter(range(3))))
        processes = [worker.process for worker in workers]
        assert all(process.alive for process in processes)
    assert not any(process.alive for process in processes)
