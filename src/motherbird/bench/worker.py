"""A process of its own for whatever is measured, and a line to it.

Requests and answers are pickled, one after another, over the process's standard input and output.
Nothing heavy is imported here: a worker's memory is that of the system it measures.
"""

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import MotherbirdError

Handler = Callable[[Any], Any]
PAUSE = 0.05  # seconds of rest after an answer, in which the worker's threads stop spinning
_CODE = "from motherbird.bench.worker import serve; serve()"


class WorkFailed(MotherbirdError):
    """A request that did not succeed, with a reason for people.

    ``killed``: somebody else ended the process, the kernel most likely, for want of memory.
    """

    code = "worker"

    def __init__(self, reason: str, killed: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.killed = reason, killed


class Worker:
    """A fresh process that calls ``start(*arguments)`` and answers requests with what that gives.

    Args:
        start: a function at the top of a module; it returns the handler of requests.
        arguments: for ``start``.
        log: a file that gets what the process prints.
        environment: variables that are set before anything is imported.
    """

    def __init__(
        self,
        start: Callable[..., Handler],
        arguments: tuple[Any, ...],
        log: Path,
        environment: dict[str, str],
    ) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._log = log
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CODE, str(log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C on a terminal is for the parent alone to answer
        )
        self._answers: queue.SimpleQueue[tuple[bool, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()
        self._opening: tuple[Any, ...] | None = (start, arguments)

    def ask(self, request: Any, limit: float) -> Any:
        """Send a request and wait for its answer; the first one also waits for ``start``.

        Raises:
            WorkFailed: it raised, died, or took more than ``limit`` seconds (then it is stopped).
        """
        try:
            self._send(request)
            answer = self._answers.get(timeout=max(limit, 0.0))
        except queue.Empty:
            self.stop()
            raise WorkFailed(f"no answer within {limit:.0f} seconds") from None
        except OSError:
            answer = None
        if answer is None:
            raise self._gone()
        time.sleep(PAUSE)
        good, result = answer
        if not good:
            raise WorkFailed(result)
        return result

    @property
    def alive(self) -> bool:
        """Whether the process can be asked again."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the process at once; it may be gone already."""
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]

    def _send(self, request: Any) -> None:
        stream = self._process.stdin
        assert stream is not None
        for message in [self._opening, request] if self._opening else [request]:
            stream.write(pickle.dumps(message))
        stream.flush()
        self._opening = None

    def _listen(self) -> None:
        """In a thread: pass on answers, and None when there will be no more."""
        stream = self._process.stdout
        assert stream is not None
        with stream, contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                self._answers.put(pickle.load(stream))
        self._answers.put(None)

    def _gone(self) -> WorkFailed:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return WorkFailed("the process was killed, probably for want of memory", killed=True)
        said: list[str] = []
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").split("\n")
            said = [line.strip()[:200] for line in lines if line.strip()]
        return WorkFailed(": ".join([f"the process ended with code {code}", *said[-1:]]))


def once(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    log: Path,
    environment: dict[str, str],
    limit: float,
) -> Any:
    """Call a function in a process of its own, which ends with it.

    Raises:
        WorkFailed: see `Worker.ask`.
    """
    worker = Worker(_caller, (function,), log, environment)
    try:
        return worker.ask(arguments, limit)
    finally:
        worker.stop()


def _caller(function: Callable[..., Any]) -> Handler:
    return lambda arguments: function(*arguments)


def serve() -> None:
    """The life of a worker: it ends when nobody is at the other end of the line."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    _print_into(sys.argv[1])
    _be_killed_first()
    handler: Handler | None = None
    with contextlib.suppress(EOFError, OSError):
        start, arguments = pickle.load(requests)
        while True:
            request = pickle.load(requests)
            try:
                handler = handler or start(*arguments)
                answer = (True, handler(request))
            except Exception as error:
                answer = (False, _words(error))
            answers.write(pickle.dumps(answer))
            answers.flush()
    os._exit(0)  # libraries' clean-up takes seconds, and there is nothing to save


def _print_into(log: str) -> None:
    """Libraries print what they like: into the log, by file descriptor."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(handle, 1)
    os.dup2(handle, 2)


def _be_killed_first() -> None:
    """Where memory runs out, Linux ends the largest worker, and never the parent or a neighbour."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _words(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MotherbirdError):
        return text[:300]
    return f"{type(error).__name__}: {text}"[:300]
