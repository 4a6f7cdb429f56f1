"""What is done about losses that are not finite, loss spikes, and shifts of the loss.

A verdict is a function of values that all ranks share and of a state that is saved with the run. So
all ranks act alike, and a stop changes nothing. A value that is not finite never enters a window,
so one NaN costs one step.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from .recipe import Limits

Action = Literal["apply", "skip", "roll back"]
RECENT, RECENT_ROLLBACKS = 1000, 5000  # steps


@dataclass(frozen=True)
class Verdict:
    """What to do after a step's gradient is known."""

    action: Action  # "apply" the update, "skip" it, or "roll back" the run
    reason: str = ""  # what is wrong; empty if nothing is
    onset: int = 0  # the step at which it began, for a rollback


@dataclass
class Health:
    """The recent losses and norms of a run, and the recent skipped steps."""

    # of the last accepted steps, oldest first
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    phase_steps: int = 0  # steps since the phase began
    # numbers of the recently skipped steps, by their cause
    nonfinite: list[int] = field(default_factory=list)
    spikes: list[int] = field(default_factory=list)
    # number of skipped steps in a row until now, by their cause
    nonfinite_in_row: int = 0
    spikes_in_row: int = 0
    shifted: int = 0  # steps for which the mean loss has been above `shift_limit`
    shifted_from: int = 0  # the step at which that began
    shift_limit: float = 0.0  # what the mean loss is compared with

    def begin_phase(self) -> None:
        """Forget the old phase: another row length, rate or masking rate gives other losses."""
        self.losses, self.norms, self.phase_steps, self.shifted = [], [], 0, 0
        self.nonfinite_in_row = self.spikes_in_row = 0

    def judge(self, step: int, loss: float, norm: float, limits: Limits) -> Verdict:
        """Return the verdict on a step with a mean loss and the L2 norm of its whole gradient."""
        self.phase_steps += 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return self._not_finite(step, loss, norm, limits)
        self.nonfinite_in_row = 0
        spike = self._spike(loss, norm, limits)
        if spike:
            self.spikes = [s for s in self.spikes if s > step - RECENT] + [step]
            self.spikes_in_row += 1
            if self.spikes_in_row >= limits.spikes:
                what = f"repeated spikes ({self.spikes_in_row} in a row), the last: {spike}"
                return Verdict("roll back", what, step - self.spikes_in_row + 1)
            if len(self.spikes) > limits.recent_spikes:
                what = f"{len(self.spikes)} spikes in {RECENT} steps"
                return Verdict("roll back", what, self.spikes[0])
            return Verdict("skip", spike)
        self.spikes_in_row = 0
        self.losses = [*self.losses, loss][-(limits.window + limits.shift_window) :]
        self.norms = [*self.norms, norm][-limits.window :]
        return self._shift(step, limits)

    def _not_finite(self, step: int, loss: float, norm: float, limits: Limits) -> Verdict:
        self.nonfinite = [s for s in self.nonfinite if s > step - RECENT] + [step]
        self.nonfinite_in_row += 1
        what = f"the loss is {loss} and the gradient norm is {norm}"
        if self.nonfinite_in_row >= limits.nonfinite:
            count = self.nonfinite_in_row
            return Verdict("roll back", f"{what} ({count} in a row)", step - count + 1)
        if len(self.nonfinite) >= limits.recent_nonfinite:
            count = len(self.nonfinite)
            return Verdict("roll back", f"{what} ({count} recently)", self.nonfinite[0])
        return Verdict("skip", what)

    def _spike(self, loss: float, norm: float, limits: Limits) -> str:
        if self.phase_steps <= limits.min_steps:
            return ""
        losses = self.losses[-limits.window :]
        for name, value, window in (("loss", loss, losses), ("norm", norm, self.norms)):
            if len(window) < limits.min_steps:
                continue
            mean = fmean(window)
            limit = max(mean + limits.sigmas * _deviation(window), limits.factor * mean)
            if value > limit:
                return f"a spike: {name} {value:.4g}, expected at most {limit:.4g}"
        return ""

    def _shift(self, step: int, limits: Limits) -> Verdict:
        size = limits.shift_window
        recent, before = self.losses[-size:], self.losses[:-size]
        if self.phase_steps <= limits.min_steps or len(before) < limits.min_steps:
            return Verdict("apply")
        # Once shifted, the mean is compared with the window before the shift, not with itself.
        if not self.shifted:
            self.shift_limit = fmean(before) + limits.shift_sigmas * _deviation(before)
        if fmean(recent) <= self.shift_limit:
            self.shifted = 0
            return Verdict("apply")
        if not self.shifted:
            self.shifted_from = step - size + 1
        self.shifted += 1
        if self.shifted < limits.shift_steps:
            return Verdict("apply")
        self.shifted = 0
        what = f"the loss has been above {self.shift_limit:.4g} since step {self.shifted_from}"
        return Verdict("roll back", what, self.shifted_from)


def too_many_rollbacks(rollbacks: Sequence[int], step: int, limits: Limits) -> bool:
    """Return whether a rollback at ``step`` is one too many after those at ``rollbacks``."""
    recent = [s for s in rollbacks if s > step - RECENT_ROLLBACKS]
    return len(rollbacks) >= limits.rollbacks or len(recent) >= limits.recent_rollbacks


def _deviation(values: Sequence[float]) -> float:
    mean = fmean(values)
    return math.sqrt(fmean((value - mean) ** 2 for value in values))
