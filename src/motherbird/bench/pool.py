"""The systems' processes, alive side by side so that repeats interleave, while memory lasts."""

import time
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from .. import machine
from .peers import Job, System, peer
from .worker import Handler, Worker, WorkFailed, once
from .workloads import Batches

START_LIMIT = 240.0  # seconds for loading, and for what a first call compiles
PREPARE_LIMIT = 600.0
_START_MB = 1000.0  # of a library, before any weight


@dataclass(frozen=True)
class Request:
    """Batches to run; ``fresh`` forgets the peak of memory first, ``calls`` times each alone."""

    batches: Batches
    fresh: bool = False
    calls: bool = False
    vectors: bool = False


@dataclass(frozen=True)
class Answer:
    """Seconds of each call, memory in MB, and each batch's vectors where they were asked for."""

    seconds: list[float]
    peak_mb: float
    resident_mb: float
    vectors: list[NDArray[Any]]


def open_system(system: System, job: Job) -> Handler:
    """In the worker: load the system, and answer `Request` by `Answer`."""
    encode = peer(system).build(system, job)
    machine.forget_peak()

    def handle(request: Request) -> Answer:
        if request.fresh:
            machine.forget_peak()
        seconds, vectors = [], []
        calls = [[b] for b in request.batches] if request.calls else [request.batches]
        for call in calls:
            start = time.perf_counter()
            result = encode(call)
            seconds.append(time.perf_counter() - start)
            if request.vectors:
                vectors += result
        peak, now = machine.own_memory_mb("VmHWM"), machine.own_memory_mb("VmRSS")
        return Answer(seconds, peak, now, vectors)

    return handle


def prepare_system(system: System, job: Job) -> None:
    """In a process of its own: the peer's conversion."""
    peer(system).prepare(system, job)


@runtime_checkable
class Systems(Protocol):
    """What runs batches: `Pool`, or in tests something that only counts time."""

    def prepare(self, system: System) -> None:
        """See `Pool.prepare`."""

    def ask(self, system: System, request: Request, limit: float) -> Answer:
        """See `Pool.ask`."""

    def rest(self, system: System) -> None:
        """See `Pool.rest`."""


class Pool:
    """One worker a system, started when first asked.

    Args:
        job: what all systems are given.
        environment: variables of all workers.
    """

    def __init__(self, job: Job, environment: dict[str, str]) -> None:
        self._job = job
        self._environment = environment
        self._workers: dict[System, Worker] = {}  # in the order of their last use

    def prepare(self, system: System) -> None:
        """Let the peer convert what it needs.

        Raises:
            WorkFailed: with the reason.
        """
        once(
            prepare_system,
            (system, self._job),
            log=self._job.folder / "prepare.log",
            environment=self._environment,
            limit=PREPARE_LIMIT,
        )

    def ask(self, system: System, request: Request, limit: float) -> Answer:
        """Run batches in the system's process, which is started where it is not alive.

        A process that is killed while others hold memory gets another try alone.

        Raises:
            WorkFailed: with the reason; the next call starts the system anew.
        """
        try:
            return self._ask(system, request, limit)
        except WorkFailed as failure:
            if not failure.killed or not self._workers:
                raise
        self.close()
        return self._ask(system, request, limit)

    def _ask(self, system: System, request: Request, limit: float) -> Answer:
        worker = self._workers.pop(system, None)
        self._make_room(request, started=worker is not None)
        if worker is None:
            limit += START_LIMIT
            log = self._job.folder / f"{system.key.replace('/', '-')}.log"
            worker = Worker(open_system, (system, self._job), log, self._environment)
        try:
            answer: Answer = worker.ask(request, limit)
        except BaseException as error:
            if isinstance(error, WorkFailed) and worker.alive:  # it only refused
                self._workers[system] = worker
            else:
                worker.stop()
            raise
        self._workers[system] = worker
        return answer

    def _make_room(self, request: Request, started: bool) -> None:
        """Stop idle workers while memory is short of what a wasteful system takes.

        That is one layer's scores twice, of the longest batch, and weights in four copies. The one
        that was used last goes first: as they take turns, it is needed latest.
        """
        job = self._job
        areas = (len(batch) * max(map(len, batch)) ** 2 for batch in request.batches)
        needed = 2 * 4 * job.heads * max(areas) / 1e6
        needed += 0 if started else _START_MB + 4 * job.weights_mb
        while self._workers and (machine.available_mb() or needed) < needed:
            self._workers.popitem()[1].stop()

    def rest(self, system: System) -> None:
        """End a system's process, if it is alive."""
        worker = self._workers.pop(system, None)
        if worker is not None:
            worker.stop()

    def close(self) -> None:
        """End all processes."""
        while self._workers:
            self._workers.popitem()[1].stop()
