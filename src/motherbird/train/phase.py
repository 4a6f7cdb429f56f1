"""A phase of a run, and the checks that its values share with those of the whole run."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from ..data.loader import RowFilter
from .schedule import BatchSizeSchedule, LearningRateSchedule, check


@dataclass(frozen=True)
class Phase:
    """A part of a run with one row length."""

    RENAMED: ClassVar = {"least_tokens": "min_tokens"}

    name: str  # its name in logs
    tokens: int  # its length in tokens of full rows
    seq_len: int  # tokens per row; the data has to be prepared for this length
    rows: int  # rows of a global step
    # rows of the first steps, if the batch grows; see `BatchSizeSchedule`
    first_rows: int | None = None
    rows_warm_up: int = 0  # tokens until the batch has its full size
    lr: float | None = None  # peak learning rate; that of the run if not set
    warm_up: int = 0  # tokens of the linear rise of the learning rate
    decay: int = 0  # tokens of its 1 - sqrt decay at the end of the phase
    final: float = 0.001  # final learning rate as a fraction of the peak
    weight_decay: float | None = None  # that of the run if not set
    # fraction of the tokens that is masked; that of the run if not set
    masking: float | None = None
    theta: float | None = None  # RoPE base of the global layers; that of the model if not set
    micro_tokens: int | None = None  # tokens of a micro-batch; that of the run if not set
    sources: tuple[str, ...] | None = None  # train on these sources only; on all if not set
    min_tokens: int = 0  # train only on documents of at least this many tokens

    def __post_init__(self) -> None:
        check(self.tokens >= 1, f"tokens = {self.tokens} has to be at least 1")
        good = 8 <= self.seq_len <= 1 << 20
        check(good, f"seq_len = {self.seq_len} is not within 8..1,048,576")
        good = self.theta is None or self.theta > 0
        check(good, f"theta = {self.theta} has to be more than 0")
        good = self.micro_tokens is None or self.micro_tokens >= 1
        check(good, f"micro_tokens = {self.micro_tokens} has to be at least 1")
        check_rates(self.masking, self.weight_decay)
        self.lr_schedule(1.0).at(0, self.tokens)
        _ = self.batch_size

    @cached_property
    def batch_size(self) -> BatchSizeSchedule:
        """The rows of its steps."""
        return BatchSizeSchedule(self.rows, self.first_rows, self.rows_warm_up)

    def lr_schedule(self, lr: float) -> LearningRateSchedule:
        """Return its learning rate schedule; ``lr`` is the peak of the run."""
        peak = lr if self.lr is None else self.lr
        return LearningRateSchedule(peak, self.warm_up, self.decay, self.final)

    @property
    def row_filter(self) -> RowFilter:
        """The rows of the dataset that it trains on."""
        return RowFilter(self.seq_len, sources=self.sources, min_tokens=self.min_tokens)

    def is_over(self, rows: int) -> bool:
        """Return whether the phase ends after ``rows`` rows."""
        return rows * self.seq_len >= self.tokens

    def steps(self) -> int:
        """Return the number of its steps."""
        steps = rows = 0
        while not self.is_over(rows):
            size = self.batch_size.at(rows, self.seq_len)
            if size == self.rows:  # all following steps have this size
                left = -(-(self.tokens - rows * self.seq_len) // (size * self.seq_len))
                return steps + left
            rows += size
            steps += 1
        return steps

    def with_steps(self, steps: int) -> "Phase":
        """Scale the phase so that it has ``steps`` steps."""
        ratio = steps / self.steps()
        first = self.first_rows
        warm_up = 0 if first is None else max(1, round(self.rows_warm_up * ratio))
        batch_size = BatchSizeSchedule(self.rows, first, warm_up)
        rows = 0
        for _ in range(steps):
            rows += batch_size.at(rows, self.seq_len)
        tokens = rows * self.seq_len
        scale = tokens / self.tokens
        decay = tokens if self.decay == self.tokens else int(self.decay * scale)
        rise = min(int(self.warm_up * scale), tokens - decay)
        return replace(self, tokens=tokens, rows_warm_up=warm_up, decay=decay, warm_up=rise)


def check_rates(masking: float | None, weight_decay: float | None = None) -> None:
    """Raise InputError if a masking rate or a weight decay is invalid."""
    if masking is not None:
        check(0 < masking <= 1, f"masking = {masking} has to be more than 0 and at most 1")
    if weight_decay is not None:
        good = 0 <= weight_decay < 1
        check(good, f"weight_decay = {weight_decay} has to be at least 0 and less than 1")
