"""What changes during a run, as functions of tokens and rows: learning rate and batch size.

They depend on what all ranks together have consumed since the phase began, never on the clock, a
rank or a step's number, so that no stop, world size or batch size moves them.
"""

import math
from dataclasses import dataclass

from ..errors import InputError


@dataclass(frozen=True)
class Rate:
    """The learning rate of a phase, a trapezoid over its tokens (paper 2.2.2).

    Attributes:
        peak: the rate between warm-up and decay.
        warm_up: tokens of the linear rise from 0.
        decay: tokens of the fall at the phase's end, by 1 - sqrt (Hägele et al. 2024).
        final: what is left of the peak at the very end; the reference has 0.001.
    """

    peak: float
    warm_up: int = 0
    decay: int = 0
    final: float = 0.001

    def __post_init__(self) -> None:
        if not self.peak > 0:
            raise InputError(f"peak = {self.peak} has to be more than 0")
        if self.warm_up < 0 or self.decay < 0:
            raise InputError("warm_up and decay are tokens, 0 or more")
        if not 0 <= self.final <= 1:
            raise InputError(f"final = {self.final} is a share, 0 to 1")

    def at(self, tokens: int, total: int) -> float:
        """The rate after so many tokens of a phase of ``total``.

        Raises:
            InputError: the phase is shorter than warm-up and decay together.
        """
        if self.warm_up + self.decay > total:
            raise InputError(
                f"warm-up and decay take {self.warm_up + self.decay} tokens of {total}",
                how="make the phase longer, or these shorter",
            )
        if tokens < self.warm_up:
            return self.peak * tokens / self.warm_up
        falling = tokens - (total - self.decay)
        if falling <= 0:
            return self.peak
        share = 1 - math.sqrt(min(1.0, falling / self.decay)) if self.decay else 1.0
        return self.peak * (self.final + (1 - self.final) * share)


@dataclass(frozen=True)
class Batch:
    """The rows of a global step, with a warm-up of equally many steps at each size.

    Sizes are multiples of ``first``; size k gets tokens in proportion to k, and the full size
    begins where the warm-up ends (reference: base 768 to 4,608 over 50 billion tokens).

    Attributes:
        rows: of a step, in the end.
        first: of the first steps; as ``rows`` if not set.
        warm_up: tokens at full packing until the full size.
    """

    rows: int
    first: int | None = None
    warm_up: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise InputError(f"rows = {self.rows} has to be at least 1")
        if self.warm_up < 0:
            raise InputError(f"warm_up = {self.warm_up} is tokens, 0 or more")
        if (self.first is not None) != (self.warm_up > 0):
            raise InputError("first and warm_up belong together")
        if self.first is not None and (self.first < 1 or self.rows % self.first):
            raise InputError(f"first = {self.first} has to divide rows = {self.rows}")

    def at(self, consumed: int, seq_len: int) -> int:
        """Rows of the step that begins after so many rows of the phase, each of ``seq_len``."""
        if self.first is None:
            return self.rows
        sizes = self.rows // self.first
        # Size k begins at warm_up * k (k - 1) / (sizes (sizes - 1)) tokens; all in whole numbers.
        reached = consumed * seq_len * sizes * (sizes - 1)
        size = 1
        while size < sizes and reached >= self.warm_up * size * (size + 1):
            size += 1
        return self.first * size
