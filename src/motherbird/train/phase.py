"""A stretch of a run with one row length, and what holds for its values wherever they stand."""

from dataclasses import dataclass, replace
from functools import cached_property

from ..data.loader import RowFilter
from ..errors import InputError
from .schedule import Batch, Rate


@dataclass(frozen=True)
class Phase:
    """A stretch of a run with one row length.

    Attributes:
        name: what logs call it.
        tokens: how long it is, in tokens of full rows.
        seq_len: tokens of a row; the data has to be prepared for it.
        rows: rows of a global step.
        first_rows: of the first steps, where the batch grows; see `schedule.Batch`.
        rows_warm_up: tokens until the batch is full.
        lr: peak learning rate; that of the run if not set.
        warm_up: tokens of the rate's linear rise.
        decay: tokens of its fall at the end, by 1 - sqrt.
        final: what is left of the peak then, as a share.
        weight_decay: that of the run if not set.
        masking: share of the tokens that are masked; that of the run if not set.
        theta: of RoPE in global layers; that of the model if not set.
        micro_tokens: of a micro-batch; that of the run if not set.
        sources: only these of the data; all if not set.
        min_tokens: only documents of so many tokens.
    """

    name: str
    tokens: int
    seq_len: int
    rows: int
    first_rows: int | None = None
    rows_warm_up: int = 0
    lr: float | None = None
    warm_up: int = 0
    decay: int = 0
    final: float = 0.001
    weight_decay: float | None = None
    masking: float | None = None
    theta: float | None = None
    micro_tokens: int | None = None
    sources: tuple[str, ...] | None = None
    min_tokens: int = 0

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise InputError(f"tokens = {self.tokens} has to be at least 1")
        if not 8 <= self.seq_len <= 1 << 20:
            raise InputError(f"seq_len = {self.seq_len} is not within 8..1,048,576")
        if self.masking is not None:
            check_masking(self.masking)
        if self.theta is not None and not self.theta > 0:
            raise InputError(f"theta = {self.theta} has to be more than 0")
        if self.weight_decay is not None:
            check_weight_decay(self.weight_decay)
        if self.micro_tokens is not None and self.micro_tokens < 1:
            raise InputError(f"micro_tokens = {self.micro_tokens} has to be at least 1")
        self.rate(1.0).at(0, self.tokens)
        _ = self.batch

    @cached_property
    def batch(self) -> Batch:
        """Rows of its steps."""
        return Batch(self.rows, self.first_rows, self.rows_warm_up)

    def rate(self, lr: float) -> Rate:
        """Its learning rate; ``lr`` is the run's."""
        peak = lr if self.lr is None else self.lr
        return Rate(peak, self.warm_up, self.decay, self.final)

    @property
    def choice(self) -> RowFilter:
        """Which rows of the data it trains on."""
        return RowFilter(self.seq_len, sources=self.sources, min_tokens=self.min_tokens)

    def is_over(self, rows: int) -> bool:
        """Whether it ends after so many rows."""
        return rows * self.seq_len >= self.tokens

    def steps(self) -> int:
        """Steps from its begin to its end."""
        steps = rows = 0
        while not self.is_over(rows):
            size = self.batch.at(rows, self.seq_len)
            if size == self.rows:  # from here on all are alike
                left = -(-(self.tokens - rows * self.seq_len) // (size * self.seq_len))
                return steps + left
            rows += size
            steps += 1
        return steps

    def of_steps(self, steps: int) -> "Phase":
        """The same phase, everything in it in proportion, with so many steps."""
        share = steps / self.steps()
        first = self.first_rows
        warm_up = round(self.rows_warm_up * share)
        if first is not None and warm_up < 1:
            warm_up = 1
        batch = Batch(self.rows, first, warm_up if first is not None else 0)
        rows = 0
        for _ in range(steps):
            rows += batch.at(rows, self.seq_len)
        tokens = rows * self.seq_len
        scale = tokens / self.tokens
        decay = tokens if self.decay == self.tokens else int(self.decay * scale)
        rise = min(int(self.warm_up * scale), tokens - decay)
        return replace(self, tokens=tokens, rows_warm_up=batch.warm_up, decay=decay, warm_up=rise)


def check_masking(share: float) -> None:
    """Refuse a share of masked tokens that is impossible.

    Raises:
        InputError: it is not within 0..1, or 0.
    """
    if not 0 < share <= 1:
        raise InputError(f"masking = {share} is impossible; give more than 0, up to 1")


def check_weight_decay(decay: float) -> None:
    """Refuse a weight decay that is impossible.

    Raises:
        InputError: it is not within 0..1, or 1.
    """
    if not 0 <= decay < 1:
        raise InputError(f"weight_decay = {decay} is not within 0..1")
