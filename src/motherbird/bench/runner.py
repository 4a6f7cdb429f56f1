"""The schedule of a benchmark: which system is measured when, and on how many documents.

The time that is left is divided between the workloads by `Workload.weight`; time that it does not
use is left for the next ones. On a workload, every system first tries batch sizes in ascending
order, until two of them were slower than the best or the next would take too long. The best batch
size is then repeated, the systems taking turns. A fast system gets documents for about RUN_SECONDS,
a slow one at least one batch.

The default run in numbers: base, 23 systems, two cores, 55 minutes. Starting 23 processes at 8 s
takes 3 min, conversions 6, checks of 3,300 padded tokens at 250 to 2,000 tokens/s 3, reference
vectors and rooflines 2: 14 min. Of the other 41, documents of 8,192 tokens have 14: one takes 55
s at 150 tokens/s and 15 s at 560, a round of 18 systems (five are left out, see `_why_not`) 11 min,
so that slow ones are measured once and most twice. Documents of 4,096 have 8.5 min, a round takes
4. The two short workloads have 5.7 min each, 15 s per system: 5 s of search and three repeats of 3
s. Queries have 4.5, latency 2. tests/bench/test_runner.py simulates this run.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..errors import WorkerError
from .check import Check
from .peers import Job, System
from .pool import EncodeRequest, Pool
from .rows import Measurement, Pair
from .workloads import Order, Workload, batches, choose

# Batch sizes to try: documents, or tokens (1 means one document). As many for each order.
SIZES: dict[Order, tuple[int, ...]] = {
    "given": (1, 4, 8, 16, 32),
    "sorted": (1, 4, 8, 16, 32),
    "tokens": (1, 256, 512, 1024, 2048),
}
MAX_TOKENS = 32_768  # of a batch, with padding: four documents of 8,192
RUN_SECONDS, SHORTEST_RUN, SEARCH_SECONDS = 3.0, 1.0, 0.5
MARGIN = 0.9  # measurements take a little longer than planned
WARM = 10.0  # seconds: a search that took this long counts as a repeat, without another warm-up
SLOWER = 0.9  # of the best speed; below it, a batch size counts as slower
LIMIT = 300.0  # seconds of one measurement, then it fails
OnStep = Callable[[str, int], None]  # a line of progress, and the number of steps it stands for
NO_TIME = "no time was left: use more --minutes, or fewer systems"


@dataclass(frozen=True)
class MeasurementPlan:
    """What to measure, and until when, by ``clock``."""

    systems: tuple[System, ...]
    workloads: tuple[Workload, ...]
    repeats: int
    until: float
    clock: Callable[[], float] = time.monotonic


def measure(
    plan: MeasurementPlan,
    job: Job,
    pool: Pool,
    checks: dict[System, Check],
    on_step: OnStep,
    on_workload: Callable[[list[Pair]], None],
) -> None:
    """Measure every system on every workload; ``on_workload`` gets the results of each.

    Workloads of shorter documents come first, so that memory that long documents leave allocated
    does not change the measurements of the others.
    """
    waiting = sorted(plan.workloads, key=lambda workload: sum(workload.lengths))
    while waiting:
        fraction = waiting[0].weight / sum(w.weight for w in waiting)
        now = plan.clock()
        until = now + max(0.0, plan.until - now) * fraction
        on_workload(WorkloadRun(plan, job, pool, waiting.pop(0), until).measure(checks, on_step))


@dataclass(frozen=True)
class WorkloadRun:
    """The measurements of one workload, which end at ``until``."""

    plan: MeasurementPlan
    job: Job
    pool: Pool
    workload: Workload
    until: float

    def measure(self, checks: dict[System, Check], on_step: OnStep) -> list[Pair]:
        """Search the batch sizes of all systems, then repeat the best ones in turns."""
        pairs = [Pair(system, self.workload, checks[system]) for system in self.plan.systems]
        for pair in pairs:
            pair.reason = self._why_not(pair)
        running = [pair for pair in pairs if pair.check.runs and pair.reason is None]
        on_step("", (len(pairs) - len(running)) * (1 + self.plan.repeats))
        seconds = self._seconds_left() / max(1, len(running))
        for pair in running:
            self._search(pair, seconds / 2)
            on_step(_line(pair), 1)
        for pair in running:
            seconds = MARGIN * self._seconds_left() / len(running) / self.plan.repeats
            self._plan_repeats(pair, seconds)
        for number in range(self.plan.repeats):
            for pair in running:
                self._repeat(pair, number)
                on_step(_line(pair), 1)
        return pairs

    def _seconds_left(self) -> float:
        return self.until - self.plan.clock()

    def _why_not(self, pair: Pair) -> str | None:
        limit, order = pair.system.limit(self.job), pair.system.order
        if self.workload.longest > limit:
            return f"it takes at most {limit:,} tokens"
        if order == "sorted" and self.workload.fixed:
            name = pair.system.name.split("-sorted")[0]
            if replace(pair.system, name=name, order="given") in self.plan.systems:
                return f"as {name}: all documents have one length"
        return None

    def _search(self, pair: Pair, seconds: float) -> None:
        """Measure every batch size once, smallest first, while larger ones may be faster."""
        rate, slower = pair.check.tokens_per_s, 0
        end = self.plan.clock() + seconds
        for size in self._sizes(pair.system):
            chosen = self._choose(pair.system, size, rate * SEARCH_SECONDS)
            left = (end if pair.tried else self.until) - self.plan.clock()
            if slower == 2 or sum(self.workload.lengths_of(chosen)) / rate > left:
                break
            found = self._measure(pair, chosen, reset_peak=not pair.tried)
            pair.tried[size] = found
            if found is None:
                break
            rate = pair.speed(pair.best()[1])
            slower += pair.speed(found) < SLOWER * rate
        if not pair.tried:
            pair.reason = NO_TIME

    def _sizes(self, system: System) -> list[int]:
        """Return batch sizes to try: not above MAX_TOKENS, and none that gives the same batches."""
        if self.workload.latency:
            return [1]
        sizes, before = [], 0
        for size in SIZES[system.order]:
            batch = choose(self.workload, system.order, size, 0.0)[0]
            padded = len(batch) * self.workload.longest
            if len(batch) > before and (size == 1 or padded <= MAX_TOKENS):
                sizes.append(size)
                before = len(batch)
        return sizes

    def _choose(self, system: System, size: int, tokens: float) -> list[list[int]]:
        return choose(self.workload, system.order, size, tokens, self.job.threads)

    def _plan_repeats(self, pair: Pair, seconds: float) -> None:
        """Choose the batch size and the documents of the repeats, each of about ``seconds``."""
        if not any(pair.tried.values()):
            return
        pair.batch, trial = pair.best()
        pair.reason = None
        pair.batches = trial.batches
        if sum(trial.seconds) >= WARM or seconds * self.plan.repeats < pair.last_s:
            pair.repeats = [trial]
            return
        wanted = pair.speed(trial) * min(RUN_SECONDS, max(SHORTEST_RUN, seconds))
        pair.batches = self._choose(pair.system, pair.batch, wanted)

    def _repeat(self, pair: Pair, number: int) -> None:
        """Measure repeat ``number`` of a pair, unless it was measured before or time is short."""
        if not pair.batches or pair.reason or len(pair.repeats) > number:
            return
        if pair.repeats and pair.last_s > self._seconds_left():
            return
        found = self._measure(pair, pair.batches, reset_peak=False)
        if found is not None:
            pair.repeats.append(found)

    def _measure(self, pair: Pair, chosen: list[list[int]], reset_peak: bool) -> Measurement | None:
        """Encode batches once; an error becomes the reason of the pair."""
        start = self.plan.clock()
        request = EncodeRequest(
            batches(self.workload, chosen, self.job.vocab_size), reset_peak, self.workload.latency
        )
        try:
            result = self.pool.ask(pair.system, request, LIMIT)
        except WorkerError as error:
            pair.reason = str(error)
            return None
        pair.last_s = self.plan.clock() - start
        pair.peak_mb = max(pair.peak_mb or 0.0, result.peak_mb)
        return Measurement(chosen, result.seconds)


def _line(pair: Pair) -> str:
    name = f"{pair.workload.name}: {pair.system.key}"
    if pair.reason or not (pair.repeats or pair.tried):
        return f"{name}: {pair.reason}"
    if not pair.repeats:
        size, found = pair.best()
        return f"{name}: best with batches of {size}, {pair.speed(found):,.0f} tokens/s"
    return f"{name}: run {len(pair.repeats)}, {pair.speed(pair.repeats[-1]):,.0f} tokens/s"
