"""One process per system. Processes stay alive side by side, so that repeats can interleave."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .. import machine
from ..errors import WorkerError
from ..workers import Handler, Worker, WorkerDied, one_line
from .peers import Job, System, peer
from .workloads import Batches

START_LIMIT = 240.0  # seconds for loading, and for what is compiled at the first call
PREPARE_LIMIT = 600.0
PAUSE = 0.05  # seconds after an answer, in which the threads of the worker stop spinning
_START_MB = 1000.0  # memory of a library without any weights


@dataclass(frozen=True)
class EncodeRequest:
    """Batches to encode."""

    batches: Batches  # the token ids
    reset_peak: bool = False  # whether to reset the memory peak of the process first
    calls: bool = False  # whether to call the system once for each batch, and to time each call
    vectors: bool = False  # whether to return the vectors


@dataclass(frozen=True)
class EncodeResult:
    """Seconds of each call, memory of the process in MB, and vectors of each batch if requested."""

    seconds: list[float]
    peak_mb: float
    resident_mb: float
    vectors: list[NDArray[Any]]


def open_system(system: System, job: Job) -> Handler:
    """In the worker: load the system; returns a function from `EncodeRequest` to `EncodeResult`."""
    machine.be_killed_first()
    encode = peer(system).build(system, job)
    machine.reset_peak_memory()

    def handle(request: EncodeRequest) -> EncodeResult:
        if request.reset_peak:
            machine.reset_peak_memory()
        seconds, vectors = [], []
        calls = [[b] for b in request.batches] if request.calls else [request.batches]
        for call in calls:
            start = time.perf_counter()
            result = encode(call)
            seconds.append(time.perf_counter() - start)
            if request.vectors:
                vectors += result
        peak, now = machine.own_memory_mb("VmHWM"), machine.own_memory_mb("VmRSS")
        return EncodeResult(seconds, peak, now, vectors)

    return handle


class SystemWorker(Worker):
    """A worker whose errors are all WorkerErrors, with a message of one line."""

    def ask(self, request: Any, limit: float | None = None) -> Any:
        """See `Worker.ask`."""
        try:
            answer = super().ask(request, limit)
        except WorkerError:
            raise
        except Exception as error:
            raise WorkerError(one_line(error)) from error
        time.sleep(PAUSE)
        return answer


def call_once(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    *,
    log: Path,
    environment: dict[str, str],
    limit: float,
) -> Any:
    """Call a function in a process of its own; WorkerError if it fails or takes too long."""
    worker = SystemWorker(_caller, (function,), log=log, environment=environment)
    try:
        return worker.ask(arguments, limit)
    finally:
        worker.stop()


def _caller(function: Callable[..., Any]) -> Handler:
    machine.be_killed_first()
    return lambda arguments: function(*arguments)


class Pool:
    """One worker per system, started by the first request with the variables of an environment."""

    def __init__(self, job: Job, environment: dict[str, str]) -> None:
        self._job, self._environment = job, environment
        self._workers: dict[System, Worker] = {}  # least recently used first

    def prepare(self, system: System) -> None:
        """Convert the model for the system, if its peer does that; WorkerError if that fails."""
        convert = getattr(peer(system), "prepare", None)
        if convert is not None:
            call_once(
                convert, (system, self._job), log=self._job.folder / "prepare.log",
                environment=self._environment, limit=PREPARE_LIMIT,
            )  # fmt: skip

    def ask(self, system: System, request: EncodeRequest, limit: float) -> EncodeResult:
        """Encode batches in the system's process, which is started if it is not running.

        If the process is killed while other systems hold memory, those are stopped and the request
        is sent once more. If the system fails, that is a WorkerError; the next request starts it
        again if its process died.
        """
        try:
            return self._ask(system, request, limit)
        except WorkerDied as death:
            if not death.killed or not self._workers:
                raise
        self.close()
        return self._ask(system, request, limit)

    def _ask(self, system: System, request: EncodeRequest, limit: float) -> EncodeResult:
        worker = self._workers.pop(system, None)
        self._make_room(request, started=worker is not None)
        if worker is None:
            limit += START_LIMIT
            log = self._job.folder / f"{system.key.replace('/', '-')}.log"
            worker = SystemWorker(
                open_system, (system, self._job), log=log, environment=self._environment
            )
        try:
            return worker.ask(request, limit)
        finally:
            if worker.ready.done() and worker.ready.exception() is None and worker.alive:
                self._workers[system] = worker
            else:
                worker.stop()

    def _make_room(self, request: EncodeRequest, started: bool) -> None:
        """Stop idle workers while less memory is free than a wasteful system needs.

        That is the attention scores of one layer twice, for the largest batch, and four copies of
        the weights. The most recently used worker is stopped first: as the systems take turns, its
        next turn is the furthest away.
        """
        job = self._job
        areas = (len(batch) * max(map(len, batch)) ** 2 for batch in request.batches)
        needed = 2 * 4 * job.heads * max(areas) / 1e6
        needed += 0 if started else _START_MB + 4 * job.weights_mb
        while self._workers and (machine.available_mb() or needed) < needed:
            self._workers.popitem()[1].stop()

    def stop(self, system: System) -> None:
        """Stop a system's process if it is running."""
        if system in self._workers:
            self._workers.pop(system).stop()

    def close(self) -> None:
        """Stop all processes."""
        while self._workers:
            self._workers.popitem()[1].stop()
