"""What is done about losses that are not finite, spikes, shifts and plateaus.

Every judgement is a function of what all ranks together computed, so that all act alike, and of a
state that is saved with the run, so that a stop changes nothing. A value that is not finite never
enters a window: one NaN costs one step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from .recipe import Limits

Verdict = Literal["apply", "skip", "roll back"]
RECENT, RECENT_ROLLBACKS = 1000, 5000  # steps
BINS = 200  # of a run, each the mean loss of its steps, for the plateau
PLATEAU = 0.1  # of the slope of the run so far
LEAST_OF_BIN = 5  # steps: a run of fewer than 1,000 has too much noise to tell a plateau


@dataclass(frozen=True)
class Judgement:
    """What becomes of a step, and why.

    Attributes:
        verdict: "apply" the update, "skip" it, or "roll back" the run.
        reason: in words; empty where all is well.
        onset: the step with which it began, where the run rolls back.
    """

    verdict: Verdict
    reason: str = ""
    onset: int = 0


@dataclass
class Health:
    """The state: what was accepted lately, and what was not.

    Attributes:
        losses, norms: of the last accepted steps, oldest first.
        peace: steps since the phase began.
        bad, spikes: the last steps that were skipped, by their numbers.
        bad_in_row, spikes_in_row: up to now.
        raised: steps for which the level has been above.
        raised_from: the step at which that began.
        level_limit: what the level is compared with.
        bins: the loss of each 1/200 of the planned run: sum, and steps.
        plateau: whether one was announced.
    """

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    peace: int = 0
    bad: list[int] = field(default_factory=list)
    spikes: list[int] = field(default_factory=list)
    bad_in_row: int = 0
    spikes_in_row: int = 0
    raised: int = 0
    raised_from: int = 0
    level_limit: float = 0.0
    bins: list[list[float]] = field(default_factory=list)
    plateau: bool = False

    def begin_phase(self) -> None:
        """Another row length, rate or masking: other losses, which say nothing of the old."""
        self.losses, self.norms, self.peace, self.raised = [], [], 0, 0
        self.bad_in_row = self.spikes_in_row = 0

    def judge(self, step: int, loss: float, norm: float, limits: Limits) -> Judgement:
        """What becomes of a step: its number, mean loss, and the norm of its whole gradient."""
        self.peace += 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return self._not_finite(step, loss, norm, limits)
        self.bad_in_row = 0
        spike = self._spike(loss, norm, limits)
        if spike:
            self.spikes = [s for s in self.spikes if s > step - RECENT] + [step]
            self.spikes_in_row += 1
            if self.spikes_in_row >= limits.spikes:
                what = f"{self.spikes_in_row} spikes in a row, the last: {spike}"
                return Judgement("roll back", what, step - self.spikes_in_row + 1)
            if len(self.spikes) > limits.spikes_recently:
                what = f"{len(self.spikes)} spikes in {RECENT} steps"
                return Judgement("roll back", what, self.spikes[0])
            return Judgement("skip", spike)
        self.spikes_in_row = 0
        self.losses = [*self.losses, loss][-(limits.window + limits.level) :]
        self.norms = [*self.norms, norm][-limits.window :]
        return self._level(step, limits)

    def _not_finite(self, step: int, loss: float, norm: float, limits: Limits) -> Judgement:
        self.bad = [s for s in self.bad if s > step - RECENT] + [step]
        self.bad_in_row += 1
        what = f"the loss is {loss}, the gradient's norm {norm}"
        if self.bad_in_row >= limits.bad:
            return Judgement(
                "roll back", f"{what}, {self.bad_in_row} times in a row", step - self.bad_in_row + 1
            )
        if len(self.bad) >= limits.bad_recently:
            return Judgement("roll back", f"{what}, {len(self.bad)} times lately", self.bad[0])
        return Judgement("skip", what)

    def _spike(self, loss: float, norm: float, limits: Limits) -> str:
        if self.peace <= limits.least:
            return ""
        losses = self.losses[-limits.window :]
        for name, value, window in (("loss", loss, losses), ("norm", norm, self.norms)):
            if len(window) < limits.least:
                continue
            mean = fmean(window)
            limit = max(mean + limits.sigmas * _deviation(window), limits.factor * mean)
            if value > limit:
                return f"a spike: {name} {value:.4g} where at most {limit:.4g} was to be expected"
        return ""

    def _level(self, step: int, limits: Limits) -> Judgement:
        recent, before = self.losses[-limits.level :], self.losses[: -limits.level]
        if self.peace <= limits.least or len(before) < limits.least:
            return Judgement("apply")
        # Once raised it is measured against what was before the shift, not against the shift.
        if not self.raised:
            self.level_limit = fmean(before) + limits.level_sigmas * _deviation(before)
        if fmean(recent) <= self.level_limit:
            self.raised = 0
            return Judgement("apply")
        if not self.raised:
            self.raised_from = step - limits.level + 1
        self.raised += 1
        if self.raised < limits.level_steps:
            return Judgement("apply")
        self.raised = 0
        what = f"the loss has been above {self.level_limit:.4g} for {limits.level_steps} steps"
        return Judgement("roll back", what, self.raised_from)

    def note(self, share: float, loss: float) -> bool:
        """Remember an accepted loss by the share of the run that is done.

        Returns:
            Whether a plateau has just been reached; it is told once, until the loss falls again.
        """
        number = int(share * BINS)
        is_new = len(self.bins) <= number
        while len(self.bins) <= number:
            self.bins.append([0.0, 0.0])
        self.bins[number][0] += loss
        self.bins[number][1] += 1
        if not is_new or number == 0:
            return False
        done = [
            (i / BINS, sum_ / n) for i, (sum_, n) in enumerate(self.bins[:-1]) if n >= LEAST_OF_BIN
        ]
        before = self.plateau
        self.plateau = bool(done) and is_plateau(*zip(*done, strict=True))
        return self.plateau and not before


def too_many(rollbacks: Sequence[int], step: int, limits: Limits) -> bool:
    """Whether one more rollback, at a step, is one too many behind those at some steps."""
    recent = [s for s in rollbacks if s > step - RECENT_ROLLBACKS]
    return len(rollbacks) >= limits.rollbacks or len(recent) >= limits.rollbacks_recently


def is_plateau(shares: Sequence[float], losses: Sequence[float]) -> bool:
    """Whether the loss has stopped to fall.

    The slope over the last 5% of the planned run against that over the run so far.

    Args:
        shares: of the planned run that was done, for each bin; ascending.
        losses: the mean loss of each bin.
    """
    recent = [i for i, share in enumerate(shares) if share > shares[-1] - 0.05] if shares else []
    if len(recent) < 5 or len(shares) < 4 * len(recent):
        return False
    now = _slope(shares[recent[0] :], losses[recent[0] :])
    ever = _slope(shares, losses)
    return ever < 0 and now > PLATEAU * ever


def _deviation(values: Sequence[float]) -> float:
    mean = fmean(values)
    return math.sqrt(fmean((value - mean) ** 2 for value in values))


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    mean_x, mean_y = fmean(x), fmean(y)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / sum(
        (a - mean_x) ** 2 for a in x
    )
