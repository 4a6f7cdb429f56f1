"""Learning rate and batch size as functions of the tokens and rows of a phase.

They depend on what all ranks together have trained on since the phase began, never on the clock, a
rank or a step's number. So a stop, another number of ranks or another batch size does not change
them.
"""

import math
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError


def check(ok: bool, message: str) -> None:
    """Raise InputError with a message unless ``ok``."""
    if not ok:
        raise InputError(message)


@dataclass(frozen=True)
class LearningRateSchedule:
    """The learning rate of a phase, a trapezoid over its tokens (paper 2.2.2)."""

    peak: float  # learning rate between warm-up and decay
    warm_up: int = 0  # tokens of the linear rise from 0
    decay: int = 0  # tokens of the decay at the end of the phase
    final: float = 0.001  # final learning rate as a fraction of the peak; the reference uses 0.001
    # of the decay: 1 - sqrt of what is done (Hägele et al. 2024), or linear
    shape: Literal["1-sqrt", "linear"] = "1-sqrt"

    def __post_init__(self) -> None:
        check(self.peak > 0, f"lr = {self.peak} has to be more than 0")
        check(self.warm_up >= 0 <= self.decay, "warm_up and decay have to be 0 or more")
        check(0 <= self.final <= 1, f"final = {self.final} is not within 0..1")

    def at(self, tokens: int, total: int) -> float:
        """Return the learning rate after ``tokens`` of a phase of ``total`` tokens."""
        if self.warm_up + self.decay > total:
            tokens = self.warm_up + self.decay
            what = f"warm_up and decay ({tokens:,} tokens) are longer than the phase ({total:,})"
            raise InputError(what)
        if tokens < self.warm_up:
            return self.peak * tokens / self.warm_up
        decayed = tokens - (total - self.decay)
        if decayed <= 0:
            return self.peak
        done = min(1.0, decayed / self.decay) if self.decay else 0.0
        left = 1 - (math.sqrt(done) if self.shape == "1-sqrt" else done)
        return self.peak * (self.final + (1 - self.final) * left)


@dataclass(frozen=True)
class BatchSizeSchedule:
    """Rows of a global step, growing by ``first`` at a time during warm-up.

    Sizes are multiples of ``first``. Every size is used for equally many steps, and the full size
    begins where the warm-up ends (reference: base 768 to 4,608 over 50 billion tokens).
    """

    rows: int  # rows of a step after the warm-up
    first: int | None = None  # rows of the first steps; the same as ``rows`` if not set
    warm_up: int = 0  # tokens of full rows until the full size

    def __post_init__(self) -> None:
        check(self.rows >= 1, f"rows = {self.rows} has to be at least 1")
        check(self.warm_up >= 0, f"rows_warm_up = {self.warm_up} has to be 0 tokens or more")
        together = (self.first is not None) == (self.warm_up > 0)
        check(together, "first_rows and rows_warm_up have to be set together")
        if self.first is not None and (self.first < 1 or self.rows % self.first):
            what = f"first_rows = {self.first} does not divide rows = {self.rows}"
            raise InputError(what, how="rows has to be a multiple of first_rows")

    def at(self, consumed: int, seq_len: int) -> int:
        """Return the rows of the step after ``consumed`` rows of ``seq_len`` tokens each."""
        if self.first is None:
            return self.rows
        sizes = self.rows // self.first
        # Size k begins at warm_up * k (k - 1) / (sizes (sizes - 1)) tokens, in integer arithmetic.
        reached = consumed * seq_len * sizes * (sizes - 1)
        size = 1
        while size < sizes and reached >= self.warm_up * size * (size + 1):
            size += 1
        return self.first * size
