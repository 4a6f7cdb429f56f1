"""Processes that work for this one: requests go out, answers come back; none is ever lost.

Workers have no state that matters: a request holds everything, so that a worker that dies or hangs
is replaced and its successor asked again. A worker whose parent is gone ends by itself.
"""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from ..errors import WorkerError

log = logging.getLogger(__name__)

AHEAD = 2  # requests that a worker has at a time, so that it never waits for the next
TIMES = 3  # failures of one worker in a row that make an error
START = 60.0  # seconds to start Python and read what a worker needs

Serve = Callable[[Any], Any]  # a request to its answer


class Worker:
    """A process that answers requests in the order in which it was asked.

    Args:
        open: called in the process, with ``argument``; gives what answers requests. Both are named
            by their module, so that a fresh interpreter finds them.
        argument: what it needs.
        limit: seconds that an answer may take; None waits as long as the process lives.
    """

    def __init__(self, open: Callable[[Any], Serve], argument: Any, limit: float | None) -> None:
        self._open, self._argument, self._limit = open, argument, limit
        self.asked: deque[Any] = deque()
        self._failures: list[str] = []
        self._start()

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork would copy torch's threads, held
        self.connection, theirs = spawn.Pipe()
        self.process = spawn.Process(
            target=_work, args=(theirs, self._open, self._argument), daemon=True
        )
        self.process.start()
        theirs.close()
        self._ready = False
        self._since = time.monotonic()

    def ask(self, request: Any) -> None:
        """Send a request."""
        if not self.asked:
            self._since = time.monotonic()
        self.asked.append(request)
        self._send(request)

    def _send(self, request: Any) -> None:
        try:
            self.connection.send(request)
        except OSError:  # it died: who waits for its answer will notice
            log.debug("a worker is gone")

    def seconds_left(self) -> float | None:
        """Until it counts as hung."""
        if self._limit is None:
            return None
        limit = self._limit if self._ready else START + self._limit
        return max(0.0, self._since + limit - time.monotonic())

    def answer(self) -> Any:
        """The answer to the oldest request.

        Raises:
            WorkerError: it died or hung three times over it.
            Exception: whatever the answering raised.
        """
        while True:
            try:
                answer = self._receive()
            except (EOFError, OSError) as error:  # a TimeoutError too
                self._replace(error)
                continue
            self._since = time.monotonic()
            if self._ready:
                self._failures.clear()
                self.asked.popleft()
                return answer.value()
            self._is_ready(answer)

    def wait(self) -> None:
        """Until it has started.

        Raises:
            Exception: whatever ``open`` raised.
        """
        while not self._ready:
            try:
                self._is_ready(self._receive())
            except (EOFError, TimeoutError) as error:
                self._replace(error)

    def _is_ready(self, first: "_Answer") -> None:
        first.value()
        self._ready, self._since = True, time.monotonic()

    def _receive(self) -> Any:
        if not self.connection.poll(self.seconds_left()):
            raise TimeoutError
        return self.connection.recv()

    def _replace(self, error: Exception) -> None:
        self.process.join(1.0)
        code = self.process.exitcode
        if isinstance(error, TimeoutError):
            self._failures.append(f"did not answer within {self._limit:g} seconds")
        elif code is not None and code < 0:
            self._failures.append(f"was killed by {signal.Signals(-code).name}")
        else:
            self._failures.append(f"ended with exit code {code}")
        log.warning("a data worker %s; it is replaced", self._failures[-1])
        self.stop()
        if len(self._failures) == TIMES:
            raise WorkerError(
                f"a data worker failed {TIMES} times: {'; '.join(self._failures)}",
                str(self.asked[0])[:200] if self.asked else "",
                "look at memory and disk; with 0 workers the error itself is seen",
            )
        self._start()
        for request in self.asked:
            self._send(request)

    def stop(self) -> None:
        """End the process and what it has started, at once."""
        _kill(self.process)
        self.process.join()
        self.connection.close()


class _Answer:
    """What comes back: a result, or the error in its place."""

    def __init__(self, result: Any, error: Exception | None = None) -> None:
        self.result, self.error = result, error

    def value(self) -> Any:
        if self.error is not None:
            raise self.error
        return self.result


def _tried(function: Callable[[Any], Any], argument: Any) -> _Answer:
    try:
        return _Answer(function(argument))
    except Exception as error:
        return _Answer(None, error)


def _kill(process: BaseProcess) -> None:
    process.kill()
    if os.name == "posix" and process.pid is not None:
        with suppress(ProcessLookupError):  # it ended before it had a group of its own
            os.killpg(process.pid, signal.SIGKILL)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        if os.name == "posix":
            os.killpg(0, signal.SIGKILL)
        os._exit(1)


def _work(connection: Connection, open: Callable[[Any], Serve], argument: Any) -> None:
    """What the process does, until nobody asks any more."""
    if os.name == "posix":
        os.setpgid(0, 0)  # Ctrl-C is the parent's; what is started here ends with the group
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        opened = _tried(open, argument)
        connection.send(_Answer(None, opened.error))  # ready
        while opened.error is None:
            connection.send(_tried(opened.result, connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)


@contextmanager
def pool(
    count: int, open: Callable[[Any], Serve], argument: Any, limit: float | None = None
) -> Iterator[list[Worker]]:
    """Some workers, which end with the block."""
    workers: list[Worker] = []
    try:
        for _ in range(count):
            workers.append(Worker(open, argument, limit))
        for worker in workers:
            worker.wait()
        yield workers
    finally:
        for worker in workers:
            worker.stop()


def in_order(workers: list[Worker], requests: Iterator[Any]) -> Iterator[Any]:
    """The answers in the order of the requests, worked on ahead."""
    turns: deque[Worker] = deque()

    def ask(worker: Worker) -> None:
        for request in requests:
            worker.ask(request)
            turns.append(worker)
            return

    for worker in workers * AHEAD:
        ask(worker)
    while turns:
        worker = turns.popleft()
        yield worker.answer()
        ask(worker)


def as_done(workers: list[Worker], requests: Iterator[Any]) -> Iterator[Any]:
    """The answers as they come: for requests that take very different times."""
    for worker in workers:
        for request in requests:
            worker.ask(request)
            break
    while busy := {worker.connection: worker for worker in workers if worker.asked}:
        for connection in wait(list(busy)):
            worker = busy[connection]  # type: ignore[index]
            yield worker.answer()
            for request in requests:
                worker.ask(request)
                break
