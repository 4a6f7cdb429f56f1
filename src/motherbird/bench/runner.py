"""The clock of a run: workload by workload, every system in its turn.

Of the time that is left, each workload gets its share (`Workload.share`), is over when that is
used, and leaves what it does not need to the next. On a workload every system first tries batch
sizes, in rising order, until two were slower than the best or the next would cost too much; the
best one is then repeated in turns with the others. A fast system gets documents for about
RUN_SECONDS a run, a slow one at least one batch.

The default run in figures: base, 20 systems, two cores, 45 minutes. Starting 20 processes at 8 s
takes 3 min, conversions 5, checks of 3,300 padded tokens at 250 to 2,000 tokens/s 2.5, truths and
ceilings 2: 12.5 min. Of the other 32, documents of 8,192 tokens have 11: one takes 55 s at 150
tokens/s and 15 s at 560, a round of 15 systems (five are left out, see `_why_not`) 8 min, so that
slow ones are run once and most twice. Documents of 4,096 have 7 min, a round takes 3. The two short
workloads have 4.5 min each, 14 s a system: 5 s of search and three runs of 3 s. Queries have 3.5,
latency 1.5. tests/bench/test_runner.py runs this plan against a clock that only counts.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from .check import Check
from .peers import Job, System
from .pool import Request, Systems
from .rows import Pair, Run
from .worker import WorkFailed
from .workloads import Order, Workload, batches, choose

# Batches to try: documents, or tokens (1 is one document). As many for us as for the others.
SIZES: dict[Order, tuple[int, ...]] = {
    "given": (1, 4, 8, 16, 32),
    "sorted": (1, 4, 8, 16, 32),
    "tokens": (1, 256, 512, 1024, 2048),
}
MOST_TOKENS = 32_768  # of a batch, padding counted: four documents of 8,192
RUN_SECONDS, SHORTEST_RUN, SEARCH_SECONDS = 3.0, 1.0, 0.5
SAFELY = 0.9  # runs take a little more than was planned
WARM = 10.0  # seconds: a run of the search that took so long needs no other to warm up for
SLOWER = 0.9  # of the best speed: what is below counts as slower
LIMIT = 300.0  # seconds of a run, then a system is given up
OnStep = Callable[[str, int], None]  # a line about it, and how many steps it was
NO_TIME = "no time was left: give more --minutes, or fewer systems"


@dataclass(frozen=True)
class Plan:
    """What is to be measured, and until when (a value of the clock)."""

    systems: tuple[System, ...]
    workloads: tuple[Workload, ...]
    repeats: int
    until: float
    clock: Callable[[], float] = time.monotonic

    @property
    def steps(self) -> int:
        """How many steps `measure` tells of."""
        return len(self.systems) * len(self.workloads) * (1 + self.repeats)


def measure(
    plan: Plan,
    job: Job,
    pool: Systems,
    checks: dict[System, Check],
    on_step: OnStep,
    on_workload: Callable[[list[Pair]], None],
) -> None:
    """Measure every system on every workload, the shorter documents first.

    In that order, what long documents leave in a process's memory spoils no other figure.

    Args:
        plan: what, and until when.
        job: of the run.
        pool: where the systems run.
        checks: of every system.
        on_step: see `OnStep`.
        on_workload: is given the pairs of each workload when it is done.
    """
    waiting = sorted(plan.workloads, key=lambda workload: sum(workload.lengths()))
    while waiting:
        share = waiting[0].share / sum(w.share for w in waiting)
        now = plan.clock()
        until = now + max(0.0, plan.until - now) * share
        on_workload(Turn(plan, job, pool, waiting.pop(0), until).measure(checks, on_step))


@dataclass(frozen=True)
class Turn:
    """One workload, and until when it is its turn."""

    plan: Plan
    job: Job
    pool: Systems
    workload: Workload
    until: float

    def measure(self, checks: dict[System, Check], on_step: OnStep) -> list[Pair]:
        """Search batch sizes, then repeat in turns."""
        pairs = [Pair(system, self.workload, checks[system]) for system in self.plan.systems]
        for pair in pairs:
            pair.reason = self._why_not(pair)
        running = [pair for pair in pairs if pair.check.runs and pair.reason is None]
        on_step("", (len(pairs) - len(running)) * (1 + self.plan.repeats))
        each = self._left() / max(1, len(running))
        for pair in running:
            self._search(pair, each / 2)
            on_step(_line(pair), 1)
        for pair in running:
            self._settle(pair, SAFELY * self._left() / len(running) / self.plan.repeats)
        for turn in range(self.plan.repeats):
            for pair in running:
                self._repeat(pair, turn)
                on_step(_line(pair), 1)
        return pairs

    def _left(self) -> float:
        return self.until - self.plan.clock()

    def _why_not(self, pair: Pair) -> str | None:
        limit, order = pair.system.limit(self.job), pair.system.order
        if self.workload.longest > limit:
            return f"it takes at most {limit:,} tokens"
        if order == "sorted" and self.workload.fixed:
            unsorted = replace(
                pair.system, name=pair.system.name.split("-sorted")[0], order="given"
            )
            if unsorted in self.plan.systems:
                return f"as {unsorted.name}: all documents have one length"
        return None

    def _search(self, pair: Pair, seconds: float) -> None:
        """Run every batch size once, the smallest first, while it promises something."""
        rate, slower = pair.check.tokens_per_s, 0
        end = self.plan.clock() + seconds
        for size in self._sizes(pair.system):
            chosen = self._choose(pair.system, size, rate * SEARCH_SECONDS)
            left = (end if pair.tried else self.until) - self.plan.clock()
            if slower == 2 or self._tokens(chosen) / rate > left:
                break
            pair.tried[size] = self._run(pair, chosen, fresh=not pair.tried)
            run = pair.tried[size]
            if run is None:
                break
            best = pair.speed(pair.best()[1])
            slower += pair.speed(run) < SLOWER * best
            rate = best
        if not pair.tried:
            pair.reason = NO_TIME

    def _sizes(self, system: System) -> list[int]:
        """What is worth trying: no batch too large, none that holds what the one before did."""
        if self.workload.latency:
            return [1]
        sizes, before = [], 0
        for size in SIZES[system.order]:
            batch = choose(self.workload, system.order, size, 0.0)[0]
            padded = len(batch) * self.workload.longest
            if len(batch) > before and (size == 1 or padded <= MOST_TOKENS):
                sizes.append(size)
                before = len(batch)
        return sizes

    def _choose(self, system: System, size: int, tokens: float) -> list[list[int]]:
        return choose(self.workload, system.order, size, tokens, self.job.threads)

    def _settle(self, pair: Pair, seconds: float) -> None:
        """Choose the batch size and the documents of the repeats, ``seconds`` each if they can."""
        if not any(pair.tried.values()):
            return
        pair.batch, trial = pair.best()
        pair.reason = None
        pair.chosen = trial.chosen
        if trial.total >= WARM or seconds * self.plan.repeats < pair.last_s:
            pair.runs = [trial]
            return
        wanted = pair.speed(trial) * min(RUN_SECONDS, max(SHORTEST_RUN, seconds))
        pair.chosen = self._choose(pair.system, pair.batch, wanted)

    def _repeat(self, pair: Pair, turn: int) -> None:
        """One more run of a pair, if it has fewer than the turn asks for and time allows it."""
        if not pair.chosen or pair.reason or len(pair.runs) > turn:
            return
        if pair.runs and pair.last_s > self._left():
            return
        run = self._run(pair, pair.chosen, fresh=False)
        if run is not None:
            pair.runs.append(run)

    def _run(self, pair: Pair, chosen: list[list[int]], fresh: bool) -> Run | None:
        """Run batches once; what goes wrong becomes the pair's reason."""
        start = self.plan.clock()
        request = Request(
            batches(self.workload, chosen, self.job.vocab_size), fresh, self.workload.latency
        )
        try:
            answer = self.pool.ask(pair.system, request, LIMIT)
        except WorkFailed as failure:
            pair.reason = failure.reason
            return None
        pair.last_s = self.plan.clock() - start
        pair.peak_mb = max(pair.peak_mb or 0.0, answer.peak_mb)
        return Run(chosen, answer.seconds)

    def _tokens(self, chosen: list[list[int]]) -> int:
        lengths = self.workload.lengths()
        return sum(lengths[number] for batch in chosen for number in batch)


def _line(pair: Pair) -> str:
    name = f"{pair.workload.name}: {pair.system.key}"
    if pair.reason or not (pair.runs or pair.tried):
        return f"{name}: {pair.reason}"
    if not pair.runs:
        size, run = pair.best()
        return f"{name}: best with batches of {size}, {pair.speed(run):,.0f} tokens/s"
    return f"{name}: run {len(pair.runs)}, {pair.speed(pair.runs[-1]):,.0f} tokens/s"
