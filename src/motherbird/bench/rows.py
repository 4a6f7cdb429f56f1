"""One system on one workload: what was measured of it, and how it reads in the JSON."""

import statistics
from dataclasses import dataclass, field
from typing import Any

from ..core.config import EncoderConfig
from ..core.flops import flops
from .check import Check
from .measure import median, spread
from .peers import System
from .workloads import Workload


@dataclass(frozen=True)
class Run:
    """Batches that were run, as numbers into the workload's pool, and the seconds of each."""

    chosen: list[list[int]]
    seconds: list[float]

    @property
    def total(self) -> float:
        """Seconds of all."""
        return sum(self.seconds)


@dataclass
class Pair:
    """A system on a workload; filled while it is measured."""

    system: System
    workload: Workload
    check: Check
    reason: str | None = None
    batch: int | None = None
    tried: dict[int, Run | None] = field(default_factory=dict)  # by batch; None if it failed
    chosen: list[list[int]] = field(default_factory=list)  # what the repeats run
    runs: list[Run] = field(default_factory=list)  # the repeats
    peak_mb: float | None = None
    last_s: float = 0.0  # wall time of the last run, with starting its process

    def lengths(self, run: Run) -> list[int]:
        """Tokens of the documents of a run."""
        pool = self.workload.lengths()
        return [pool[number] for batch in run.chosen for number in batch]

    def speed(self, run: Run) -> float:
        """Tokens a second; of a latency workload, those of its median call."""
        if self.workload.latency:
            return self.workload.longest / statistics.median(run.seconds)
        return sum(self.lengths(run)) / run.total

    def milliseconds(self, run: Run) -> float:
        """The median call of a run of a latency workload."""
        return statistics.median(run.seconds) * 1e3

    def best(self) -> tuple[int, Run]:
        """The batch size that was fastest, and its run; only where one succeeded."""
        good = {size: run for size, run in self.tried.items() if run is not None}
        size = max(good, key=lambda size: self.speed(good[size]))
        return size, good[size]

    def row(self, config: EncoderConfig, ceilings: dict[str, float | None]) -> dict[str, Any]:
        """The row of the JSON."""
        speeds = [self.speed(run) for run in self.runs]
        ms = [self.milliseconds(run) for run in self.runs] if self.workload.latency else []
        lengths = self.lengths(self.runs[0]) if self.runs else []
        speed, ceiling, share = median(speeds), ceilings.get(self.system.dtype), None
        if speed and ceiling and self.system.same_weights:
            share = speed * flops(config, lengths) / sum(lengths) / (ceiling * 1e12)
        reasons = [reason for reason in (self.reason, self.check.reason) if reason]
        return {
            "system": self.system.name,
            "workload": self.workload.name,
            "dtype": self.system.dtype,
            "batch": self.batch,
            "batch_of": "tokens" if self.system.order == "tokens" else "documents",
            "documents": len(lengths),
            "tokens_per_s": speed,
            "ms": median(ms),
            "spread": spread(ms or speeds),
            "repeats": len(self.runs),
            "tried": {str(n): run and self.speed(run) for n, run in self.tried.items()},
            "peak_mb": self.peak_mb,
            "loaded_mb": self.check.loaded_mb,
            "ceiling_share": share,
            "correct": self.check.correct,
            "cosine": self.check.cosine,
            "compared_with": "oracle" if self.system.same_weights else "itself",
            "reason": "; ".join(dict.fromkeys(reasons)) or None,
        }
