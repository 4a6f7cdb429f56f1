"""Worker processes: requests go out, answers come back.

A worker is a fresh Python process, not a fork, and imports only what its ``start`` function needs,
not the main module of the parent. Requests and answers are pickled. A worker ends when its parent
ends, together with the processes that it has started. Ctrl-C does not reach it.

`Worker` reports the death of its process as an error. `pool` gives workers that are replaced: they
are stateless, so the new process is sent the requests that the old one had not answered.
"""

import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from .errors import MotherbirdError, WorkerError

log = logging.getLogger(__name__)

AHEAD = 2  # requests that a worker of a pool has at a time, so that it never waits for the next
TRIES = 3  # failures of one worker of a pool in a row that raise an error
START_LIMIT = 60.0  # seconds in which a worker of a pool has to start
PIPE_BYTES = 1 << 20  # for answers: fewer context switches

Handler = Callable[[Any], Any]  # maps a request to its answer
# Raised when a stream ends, possibly within a message.
ENDED = (EOFError, OSError, pickle.UnpicklingError)
_CODE = "import sys; sys.path[:] = sys.argv[2:]; from motherbird.workers import serve; serve()"


class WorkerDied(WorkerError):
    """A worker process ended, or did not answer in time."""

    killed = False  # whether it got a SIGKILL from elsewhere, most likely because memory ran out


class Worker:
    """A process that calls ``start(*arguments)`` and answers requests with the returned handler.

    Requests are answered in order. MotherbirdErrors and built-in exceptions of the handler are
    raised as they are; others, whose classes the parent may not have, as WorkerError. The output
    of the process goes to the parent's standard error if there is no log.
    """

    def __init__(
        self,
        start: Callable[..., Handler],  # at the top level of a module that can be imported
        arguments: tuple[Any, ...] = (),
        log: Path | None = None,  # the process's standard output and error are appended to it
        environment: dict[str, str] | None = None,  # set before the process imports anything
    ) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CODE, str(log or ""), *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C on a terminal is for the parent alone to handle
        )
        self._requests = cast(BinaryIO, self._process.stdin)
        self._answers = cast(BinaryIO, self._process.stdout)
        with suppress(ImportError, AttributeError, OSError):  # on Linux, and within its limits
            import fcntl

            fcntl.fcntl(self._answers, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._pending: deque[Future[Any]] = deque()
        self._lock = threading.Lock()
        self._death: Exception | None = None
        self._stop_reason = ""
        self.pid = self._process.pid
        self.ready = self.submit((start, arguments))
        threading.Thread(target=self._receive, daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def submit(self, request: Any) -> "Future[Any]":
        """Send a request without waiting for its answer."""
        message = pickle.dumps(request)  # in full, so that an error leaves the stream as it was
        future: Future[Any] = Future()
        with self._lock:
            if self._death is not None:
                future.set_exception(self._death)
                return future
            self._pending.append(future)
        with suppress(OSError, ValueError):  # it died, or was stopped: `_receive` sets the error
            _send(self._requests, message)
        return future

    def wait(self, future: "Future[Any]", limit: float | None, since: float) -> WorkerDied | None:
        """Wait for an answer of `submit`, and return an error if the process died.

        The process is stopped ``limit`` seconds after ``since``, a time of time.monotonic().
        """
        timeout = None if limit is None else max(0.0, since + limit - time.monotonic())
        if not wait_for([future], timeout).done:
            self.stop(f"no answer within {limit:g} s")
        error = future.exception()
        return error if isinstance(error, WorkerDied) else None

    def ask(self, request: Any, limit: float | None = None) -> Any:
        """Send a request and wait for its answer; the first limit includes the start.

        Raises:
            WorkerDied: the process ended, or took more than ``limit`` seconds.
            Exception: raised by ``start`` or by the handler.
        """
        future = self.submit(request)
        self.wait(future, limit, time.monotonic())
        return future.result()

    def stop(self, reason: str = "the process was stopped") -> None:
        """Kill the process and what it has started; ``reason`` is the error of its requests."""
        if self.alive:
            self._stop_reason = reason
        self._process.kill()
        if os.name == "posix":
            with suppress(ProcessLookupError, PermissionError):  # nothing of its group is left
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with suppress(OSError):
            self._requests.close()

    def _receive(self) -> None:
        """In a thread: resolve futures with answers until the process ends."""
        start_error: Exception | None = None
        with self._answers, suppress(*ENDED):
            while True:
                message = pickle.load(self._answers)
                future = self._pending.popleft()
                try:
                    ok, answer = pickle.loads(message)
                except Exception as error:
                    ok, answer = False, error
                if ok:
                    future.set_result(answer)
                else:
                    start_error = answer if future is self.ready else None
                    future.set_exception(answer)
        why = self._why_dead()
        with self._lock:
            self._death = start_error or why
        for future in self._pending:
            future.set_exception(self._death)

    def _why_dead(self) -> WorkerDied:
        code = self._process.wait()
        if self._stop_reason:
            return WorkerDied(self._stop_reason)
        if code < 0:
            name = signal.Signals(-code).name
            hint = ", probably because memory ran out" if name == "SIGKILL" else ""
            death = WorkerDied(f"the process was killed by {name}{hint}")
            death.killed = name == "SIGKILL"
            return death
        last_line = ""
        if self._log is not None:
            with suppress(OSError):
                lines = self._log.read_text(errors="replace").split("\n")
                last_line = next((x.strip() for x in reversed(lines) if x.strip()), "")[:200]
        return WorkerDied(f"the process ended with exit code {code}", last_line)


class PoolWorker:
    """A worker of a pool: a process that is replaced when it dies or hangs."""

    def __init__(
        self, start: Callable[..., Handler], arguments: tuple[Any, ...], limit: float | None
    ) -> None:
        self._start, self._arguments, self._limit = start, arguments, limit
        self._failures: list[str] = []
        self.pending: deque[tuple[Any, Future[Any]]] = deque()  # without an answer, oldest first
        self._launch()

    def _launch(self) -> None:
        self.process, self._ready = Worker(self._start, self._arguments), False
        self._since = time.monotonic()  # when it began to work on the oldest request, or earlier
        requests = [request for request, _ in self.pending]
        self.pending = deque((request, self.process.submit(request)) for request in requests)

    def ask(self, request: Any) -> None:
        """Send a request."""
        if not self.pending:
            self._since = time.monotonic()
        self.pending.append((request, self.process.submit(request)))

    def answer(self) -> Any:
        """Wait for the answer to the oldest request.

        Raises:
            WorkerError: the worker died or hung `TRIES` times over the request.
            Exception: raised by ``start`` or by the handler.
        """
        self.wait_until_ready()
        while self._replaced(self.pending[0][1], self._limit):
            self.wait_until_ready()
        self._failures.clear()
        self._since = time.monotonic()
        return self.pending.popleft()[1].result()

    def wait_until_ready(self) -> None:
        """Wait for the process to start; raises as `answer`."""
        limit = None if self._limit is None else START_LIMIT + self._limit
        while not self._ready:
            if not self._replaced(self.process.ready, limit):
                self.process.ready.result()
                self._ready, self._since = True, time.monotonic()

    def _replaced(self, future: "Future[Any]", limit: float | None) -> bool:
        """Wait for an answer, or replace a process that died or hung and return True."""
        death = self.process.wait(future, limit, self._since)
        if death is None:
            return False
        self._failures.append(str(death))
        log.warning("replacing a worker process: %s", death)
        self.process.stop()
        if len(self._failures) == TRIES:
            what = f"a worker process failed {TRIES} times: {'; '.join(self._failures)}"
            where = str(self.pending[0][0])[:200] if self.pending else ""
            how = (
                "check memory and disk; without worker processes (train.workers=0, --processes 1 "
                "or --threads 1) the error itself is shown"
            )
            raise WorkerError(what, where, how) from death
        self._launch()
        return True


@contextmanager
def pool(
    count: int,
    start: Callable[..., Handler],
    arguments: tuple[Any, ...] = (),
    limit: float | None = None,
) -> Iterator[list[PoolWorker]]:
    """Start ``count`` workers (see `Worker`), and stop them at the end of the block.

    A worker that does not answer within ``limit`` seconds is replaced.
    """
    workers: list[PoolWorker] = []
    try:
        for _ in range(count):
            workers.append(PoolWorker(start, arguments, limit))
        for worker in workers:
            worker.wait_until_ready()
        yield workers
    finally:
        for worker in workers:
            worker.process.stop()


def in_order(workers: list[PoolWorker], requests: Iterator[Any]) -> Iterator[Any]:
    """Yield the answers in the order of the requests; workers work ahead."""
    busy: deque[PoolWorker] = deque()
    for worker, request in zip(workers * AHEAD, requests, strict=False):
        worker.ask(request)
        busy.append(worker)
    while busy:
        worker = busy.popleft()
        yield worker.answer()
        for request in islice(requests, 1):
            worker.ask(request)
            busy.append(worker)


def as_completed(workers: list[PoolWorker], requests: Iterator[Any]) -> Iterator[Any]:
    """Yield the answers as they arrive; each worker has one request at a time, without a limit."""
    for worker, request in zip(workers, requests, strict=False):
        worker.ask(request)
    while busy := {worker.pending[0][1]: worker for worker in workers if worker.pending}:
        for future in wait_for(busy, return_when=FIRST_COMPLETED).done:
            yield busy[future].answer()
            for request in islice(requests, 1):
                busy[future].ask(request)


def serve() -> None:
    """Run a worker: the main function of its process."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # What libraries print, and what child processes read, does not get into the pipes.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if sys.argv[1]:
        os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    os.dup2(2, 1)
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(requests, inbox), daemon=True).start()
    handler: Handler | None = None
    while True:
        message = inbox.get()
        try:
            answer: Any = None
            if handler is None:
                start, arguments = pickle.loads(message)
                handler = start(*arguments)
            else:
                answer = handler(pickle.loads(message))
            data = pickle.dumps((True, answer))
        except Exception as error:
            data = pickle.dumps((False, _portable(error)))
        _send(answers, data)
        if handler is None:
            os._exit(1)  # the answer says why


def _read_requests(stream: BinaryIO, inbox: "queue.SimpleQueue[bytes]") -> None:
    """In a thread: queue requests, and end the process group when the parent is gone."""
    with suppress(*ENDED):
        while True:
            inbox.put(pickle.load(stream))
    if os.name == "posix":
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _send(stream: BinaryIO, message: bytes) -> None:
    """Write a pickled message; it is pickled once more, which marks its end."""
    pickle.dump(message, stream)
    stream.flush()


def _portable(error: Exception) -> Exception:
    """Return an exception that the parent can unpickle without importing anything."""
    if isinstance(error, MotherbirdError) or type(error).__module__ == "builtins":
        with suppress(Exception):
            pickle.loads(pickle.dumps(error))
            return error
    return WorkerError(one_line(error))


def one_line(error: BaseException) -> str:
    """Return an error as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    name = "" if isinstance(error, MotherbirdError) else f"{type(error).__name__}: "
    return f"{name}{text}"[:300]
