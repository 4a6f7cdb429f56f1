"""The measurements of one system on one workload, and their row in the JSON document."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..core.config import EncoderConfig
from ..core.flops import flops
from .check import Check
from .peers import System
from .workloads import Workload


@dataclass(frozen=True)
class Measurement:
    """Batches that were encoded, as indices into the workload's documents, and seconds per call."""

    batches: list[list[int]]
    seconds: list[float]


def median(values: Sequence[float]) -> float | None:
    """Return the median, or None if there are no values."""
    return statistics.median(values) if values else None


def spread(values: Sequence[float]) -> float | None:
    """Return (largest - smallest) / median, or None for fewer than two values."""
    return (max(values) - min(values)) / statistics.median(values) if len(values) > 1 else None


@dataclass
class Pair:
    """A system on a workload, and its measurements so far."""

    system: System
    workload: Workload
    check: Check
    reason: str | None = None  # why it was not measured
    batch: int | None = None  # size of the batches of the repeats
    tried: dict[int, Measurement | None] = field(default_factory=dict)  # None if one failed
    batches: list[list[int]] = field(default_factory=list)  # of the repeats
    repeats: list[Measurement] = field(default_factory=list)
    peak_mb: float | None = None
    last_s: float = 0.0  # wall time of the last measurement, with the start of the process

    def speed(self, measurement: Measurement) -> float:
        """Return tokens per second; those of the median call in a latency workload."""
        if self.workload.latency:
            return self.workload.longest / statistics.median(measurement.seconds)
        return sum(self.workload.lengths_of(measurement.batches)) / sum(measurement.seconds)

    def best(self) -> tuple[int, Measurement]:
        """Return the fastest batch size and its measurement; at least one must have succeeded."""
        good = {size: found for size, found in self.tried.items() if found is not None}
        size = max(good, key=lambda size: self.speed(good[size]))
        return size, good[size]

    def row(self, config: EncoderConfig, rooflines: dict[str, float | None]) -> dict[str, Any]:
        """Return the row of the JSON document."""
        speeds = [self.speed(repeat) for repeat in self.repeats]
        timed = self.repeats if self.workload.latency else []
        ms = [statistics.median(repeat.seconds) * 1e3 for repeat in timed]
        lengths = self.workload.lengths_of(self.repeats[0].batches) if self.repeats else []
        speed, roofline, fraction = median(speeds), rooflines.get(self.system.dtype), None
        if speed and roofline and self.system.same_weights:
            fraction = speed * flops(config, lengths) / sum(lengths) / (roofline * 1e12)
        reasons = [reason for reason in (self.reason, self.check.reason) if reason]
        return {
            "system": self.system.name, "workload": self.workload.name, "dtype": self.system.dtype,
            "batch": self.batch,
            "batch_of": "tokens" if self.system.order == "tokens" else "documents",
            "documents": len(lengths), "tokens_per_s": speed, "ms": median(ms),
            "spread": spread(ms or speeds), "repeats": len(self.repeats),
            "tried": {str(n): found and self.speed(found) for n, found in self.tried.items()},
            "peak_mb": self.peak_mb, "loaded_mb": self.check.loaded_mb,
            "roofline_fraction": fraction, "correct": self.check.correct,
            "cosine": self.check.cosine,
            "compared_with": "oracle" if self.system.same_weights else "itself",
            "reason": "; ".join(dict.fromkeys(reasons)) or None,
        }  # fmt: skip
