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
import struct
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
from typing import IO, Any

from .errors import MotherbirdError, WorkerError

log = logging.getLogger(__name__)

AHEAD = 2  # requests that a worker of a pool has at a time, so that it never waits for the next
TRIES = 3  # failures of one worker of a pool in a row that raise an error
START_LIMIT = 60.0  # seconds in which a worker of a pool has to start
PIPE_BYTES = 1 << 20  # for answers: fewer context switches

Handler = Callable[[Any], Any]  # maps a request to its answer

_CODE = "import sys; sys.path[:] = sys.argv[2:]; from motherbird.workers import serve; serve()"
_LENGTH = struct.Struct("<Q")  # precedes every message


class WorkerDied(WorkerError):
    """A worker process ended, or did not answer in time.

    Attributes:
        killed: whether it got a SIGKILL from elsewhere, most likely because memory ran out.
    """

    def __init__(self, what: str, where: str = "", how: str = "", killed: bool = False) -> None:
        super().__init__(what, where, how)
        self.killed = killed


class Worker:
    """A process that calls ``start(*arguments)`` and answers requests with the returned handler.

    Requests are answered in order. MotherbirdErrors and built-in exceptions of the handler are
    raised as they are; others, whose classes the parent may not have, as WorkerError.

    Args:
        start: a function or class at the top level of a module that can be imported; returns the
            handler.
        arguments: for ``start``.
        log: a file to which the process's standard output and error are appended; the parent's
            standard error if not given.
        environment: variables to set before the process imports anything.
    """

    def __init__(
        self,
        start: Callable[..., Handler],
        arguments: tuple[Any, ...] = (),
        *,
        log: Path | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CODE, str(log or ""), *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C on a terminal is for the parent alone to handle
        )
        with suppress(ImportError, AttributeError, OSError):  # on Linux, and within its limits
            import fcntl

            fcntl.fcntl(self._process.stdout, fcntl.F_SETPIPE_SZ, PIPE_BYTES)  # type: ignore[arg-type]
        self._pending: deque[Future[Any]] = deque()
        self._lock = threading.Lock()
        self._death: Exception | None = None
        self._stop_reason = ""
        self.ready = self.submit((start, arguments))
        threading.Thread(target=self._receive, daemon=True).start()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def submit(self, request: Any) -> "Future[Any]":
        """Send a request without waiting for its answer."""
        message = pickle.dumps(request)
        future: Future[Any] = Future()
        with self._lock:
            if self._death is not None:
                future.set_exception(self._death)
                return future
            self._pending.append(future)
        stream = self._process.stdin
        assert stream is not None
        with suppress(OSError, ValueError):  # it died, or was stopped: `_receive` sets the error
            stream.write(_LENGTH.pack(len(message)) + message)
            stream.flush()
        return future

    def wait(
        self, future: "Future[Any]", limit: float | None, since: float | None = None
    ) -> WorkerDied | None:
        """Wait for an answer, and return an error if the process died.

        Args:
            future: from `submit`.
            limit: seconds after which the process is stopped; None for no limit.
            since: when they began, by time.monotonic(); now if not given.
        """
        start = time.monotonic() if since is None else since
        timeout = None if limit is None else max(0.0, start + limit - time.monotonic())
        if not wait_for([future], timeout).done:
            self.stop(f"no answer within {limit:g} seconds")
        error = future.exception()
        return error if isinstance(error, WorkerDied) else None

    def ask(self, request: Any, limit: float | None = None) -> Any:
        """Send a request and wait for its answer; the first limit includes the start.

        Raises:
            WorkerDied: the process ended, or took more than ``limit`` seconds.
            Exception: raised by ``start`` or by the handler.
        """
        future = self.submit(request)
        self.wait(future, limit)
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
            self._process.stdin.close()  # type: ignore[union-attr]

    def _receive(self) -> None:
        """In a thread: resolve futures with answers until the process ends."""
        stream = self._process.stdout
        assert stream is not None
        start_error: Exception | None = None
        with stream, suppress(EOFError, OSError):
            while True:
                message = _read(stream)
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
            killed = name == "SIGKILL"
            hint = ", probably because memory ran out" if killed else ""
            return WorkerDied(f"the process was killed by {name}{hint}", killed=killed)
        last_words = ""
        if self._log is not None:
            with suppress(OSError):
                lines = self._log.read_text(errors="replace").split("\n")
                last_words = next((x.strip() for x in reversed(lines) if x.strip()), "")[:200]
        return WorkerDied(f"the process ended with exit code {code}", last_words)


class PoolWorker:
    """A worker of a pool: a process that is replaced when it dies or hangs.

    Attributes:
        process: the present process.
        pending: requests without an answer, oldest first.
    """

    def __init__(
        self, start: Callable[..., Handler], arguments: tuple[Any, ...], limit: float | None
    ) -> None:
        self._start, self._arguments, self._limit = start, arguments, limit
        self._failures: list[str] = []
        self._ready = False
        self._since = 0.0  # when it began to work on the oldest request, or earlier
        self.process = Worker(start, arguments)
        self.pending: deque[tuple[Any, Future[Any]]] = deque()

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
        while True:
            self.wait_until_ready()
            future = self.pending[0][1]
            death = self.process.wait(future, self._limit, self._since)
            if death is None:
                break
            self._replace(death)
        self._failures.clear()
        self.pending.popleft()
        self._since = time.monotonic()
        return future.result()

    def wait_until_ready(self) -> None:
        """Wait for the process to start; raises as `answer`."""
        limit = None if self._limit is None else START_LIMIT + self._limit
        while not self._ready:
            death = self.process.wait(self.process.ready, limit)
            if death is None:
                self.process.ready.result()
                self._ready, self._since = True, time.monotonic()
            else:
                self._replace(death)

    def _replace(self, death: WorkerDied) -> None:
        self._failures.append(str(death))
        log.warning("a data worker is replaced: %s", death)
        self.stop()
        if len(self._failures) == TRIES:
            raise WorkerError(
                f"a data worker failed {TRIES} times: {'; '.join(self._failures)}",
                str(self.pending[0][0])[:200] if self.pending else "",
                "check memory and disk; run with 0 workers to see the error itself",
            ) from death
        self.process, self._ready = Worker(self._start, self._arguments), False
        requests = [request for request, _ in self.pending]
        self.pending = deque((request, self.process.submit(request)) for request in requests)

    def stop(self) -> None:
        """Kill the process."""
        self.process.stop()


@contextmanager
def pool(
    count: int,
    start: Callable[..., Handler],
    arguments: tuple[Any, ...] = (),
    limit: float | None = None,
) -> Iterator[list[PoolWorker]]:
    """Start workers, and stop them at the end of the block.

    Args:
        count: number of workers.
        start: see `Worker`.
        arguments: for ``start``.
        limit: seconds after which a worker that does not answer is replaced; None for no limit.
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
            worker.stop()


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
    _redirect(sys.argv[1])
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
        answers.write(_LENGTH.pack(len(data)) + data)
        answers.flush()
        if handler is None:
            os._exit(1)  # the answer says why


def _redirect(log_file: str) -> None:
    """Keep what libraries print, and what child processes read, out of the pipes."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if log_file:
        os.dup2(os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), 2)
    os.dup2(2, 1)


def _read_requests(stream: IO[bytes], inbox: "queue.SimpleQueue[bytes]") -> None:
    """In a thread: queue requests, and end the process group when the parent is gone."""
    with suppress(EOFError, OSError):
        while True:
            inbox.put(_read(stream))
    if os.name == "posix":
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _read(stream: IO[bytes]) -> bytes:
    header = stream.read(_LENGTH.size)
    length = _LENGTH.unpack(header)[0] if len(header) == _LENGTH.size else 0
    message = stream.read(length)
    if not message or len(message) < length:
        raise EOFError
    return message


def _portable(error: Exception) -> Exception:
    """Return an exception that the parent can unpickle without importing anything."""
    if isinstance(error, MotherbirdError) or type(error).__module__ == "builtins":
        with suppress(Exception):
            pickle.loads(pickle.dumps(error))
            return error
    return WorkerError(describe(error))


def describe(error: BaseException) -> str:
    """Return an error as one line of at most 300 characters."""
    text = " ".join(str(error).split())
    name = "" if isinstance(error, MotherbirdError) else f"{type(error).__name__}: "
    return f"{name}{text}"[:300]
