"""A process of a training run: it trains, evaluates, logs, saves, and resumes exactly.

What a step does depends on (recipe, data, step) alone: data, masks and dropout are keyed, learning
rate and batch size are functions of what was trained on, and gradients are summed in a fixed order.
So the saved state is small (`state.Progress`) besides weights and optimizer state, and resuming
from it gives the same bits as never having stopped, on the same machine and software.

What differs between kinds of runs is in the subclasses of `Process`: `pretrain`, `finetune`.
"""

import contextlib
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic

from torch import nn

from .. import machine
from ..data.loader import Cursor
from ..errors import NoMemoryError
from . import preflight, signals, state
from .distributed import Distributed
from .health import Verdict
from .loop import run_steps
from .optimizer import Optimizer
from .recipe import Save
from .run_log import TIMES, RunLog
from .state import Checkpoint, Progress, Saver
from .step import Batch, Stepper, StepReport

CHECK_EVERY = 100  # steps between checks that weights and optimizer state are finite


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    progress: Progress  # the saved state
    signal: int | None  # number of the signal that stopped it, or None


@dataclass(frozen=True)
class Session:
    """What a process is given besides the run itself."""

    run: Path  # directory of the run
    distributed: Distributed  # this process among all ranks
    signals: signals.Signals  # the signals that it receives
    check_lock: Callable[[], None]  # verifies on rank 0 that no other process uses the run
    max_steps: int | None = None  # stop after this many steps of this process
    max_seconds: float | None = None  # stop after this time
    # called on rank 0 at the start and after a rollback, with the number of steps
    on_start: Callable[[Stepper[Any], int], None] = lambda stepper, steps: None
    # called on rank 0 after every step
    on_step: Callable[[StepReport], None] = lambda report: None
    # called on rank 0 with a description of anything unusual
    on_event: Callable[[str], None] = lambda text: None


class RollBack(Exception):
    """The run cannot continue from its current state."""

    def __init__(self, verdict: Verdict, progress: Progress) -> None:
        super().__init__(verdict.reason)
        self.verdict, self.progress = verdict, progress


class Process(ABC, Generic[Batch]):
    """One process of a run. The state that changes with every step is `Progress`.

    Attributes:
        saving: when checkpoints are written, and which are kept.
        model: the model that is trained; set by `build`.
        stepper: takes the steps; set by `build`.
    """

    saving: Save
    # whether a checkpoint that cannot be written ends the run, and not only the first and the last
    needs_checkpoints: ClassVar[bool] = False
    model: nn.Module
    stepper: Stepper[Batch]

    def __init__(self, session: Session) -> None:
        self.session = session
        self.run, self.distributed = session.run, session.distributed
        self.started = time.monotonic()
        self.steps_taken = 0
        self.run_log: RunLog | None = None

    # --- what differs between kinds of runs

    @abstractmethod
    def steps(self) -> int:
        """Return the number of steps of the whole run."""

    @abstractmethod
    def initial_progress(self) -> Progress:
        """Return the state before the first step."""

    @abstractmethod
    def build(self, progress: Progress, found: Checkpoint | None) -> None:
        """Set `model` and `stepper`, with the weights of a checkpoint or the initial ones.

        Only rank 0 has the checkpoint.
        """

    @abstractmethod
    def begin_phase(
        self, progress: Progress
    ) -> tuple[Generator[tuple[Sequence[Batch], Cursor], None, None], Callable[[Progress], float]]:
        """Return this rank's micro-batches of every step of a phase, and the learning rate.

        Each step has the cursor after it.
        """

    @abstractmethod
    def complete(self, report: StepReport) -> tuple[StepReport, Progress, bool]:
        """Evaluate after a step where it is due.

        Returns:
            The report with phase and evaluation, the state that the next step begins with, and
            whether to save it, whatever the number of the step.
        """

    @abstractmethod
    def kept_steps(self, progress: Progress) -> Iterable[int]:
        """Return the steps whose checkpoints are kept."""

    def less_memory(self, progress: Progress, error: NoMemoryError) -> Progress:
        """Return the state with which to repeat a step for which memory did not suffice."""
        raise error

    # --- the process

    def resume(self) -> Outcome:
        """Train from the newest checkpoint to the end of the run, or until stopped."""
        self.save_seconds = 0.0
        self.saver = Saver(self.run)
        found = preflight.newest(self.run) if self.distributed.is_main else None
        own = self.initial_progress() if found is None else found.progress
        progress = self.distributed.broadcast_object(own)
        self.saved = progress  # the state of the newest checkpoint
        self.build(progress, found)
        if self.distributed.is_main:
            self.run_log = RunLog(self.run, progress.step)
            self.session.on_start(self.stepper, self.steps())
        try:
            self.event(
                "start", progress.step, world_size=self.distributed.world_size,
                threads=self.stepper.threads.count, device=str(self.distributed.device),
                dtype=str(self.stepper.dtype).removeprefix("torch."), commit=machine.commit(),
            )  # fmt: skip
            if progress.step == 0:  # a run with a log and no checkpoint would count as lost
                self._save(progress)
                self.saver.finish(required=True)
                self.distributed.broadcast_object(None)  # the other ranks wait, with a long timeout
            stopped = False
            while not progress.finished and not stopped:
                progress, stopped = self._train_phase(progress)
            if not self.stepper.is_finite():
                raise RollBack(_not_finite(progress.step), progress)
            self._save(progress)
            self.saver.finish(required=True)
            event = "finish" if progress.finished else "stop"
            self.event(event, progress.step, signal=self.session.signals.number)
            return Outcome(progress, self.session.signals.number)
        finally:
            with contextlib.suppress(Exception):  # the first error is the one that is reported
                self.saver.finish()
            if self.run_log is not None:
                self.run_log.close()

    def broadcast(self, optimizer: Optimizer) -> None:
        """Send the weights and the optimizer state of rank 0 to the other ranks."""
        self.distributed.broadcast([p.data for p in self.model.parameters()])
        self.distributed.broadcast(list(optimizer.state().values()))

    def _train_phase(self, progress: Progress) -> tuple[Progress, bool]:
        """Train to the end of the phase, or until stopped; return whether it was stopped."""
        number = progress.cursor.phase
        batches, lr = self.begin_phase(progress)
        steps = run_steps(self.stepper, batches, progress, lr, lambda now: self._stops())
        try:
            with contextlib.closing(batches):
                for report in steps:
                    progress = self._after_step(report)
                    if progress.cursor.phase != number or progress.finished:
                        return progress, False
        except NoMemoryError as error:
            progress = self.less_memory(progress, error)
            self.event("less memory", progress.step, micro_tokens=progress.micro_tokens)
            return progress, False
        return progress, True

    def _stops(self) -> bool:
        """Return whether any rank wants to stop before the next step."""
        session, elapsed = self.session, time.monotonic() - self.started
        number = session.signals.number
        own = (
            number is not None
            or (session.max_steps is not None and self.steps_taken >= session.max_steps)
            or (session.max_seconds is not None and elapsed >= session.max_seconds)
        )
        gathered = self.distributed.all_gather([float(own), float(number or 0)])
        received = int(max(each[1] for each in gathered))
        if received:  # never reset to None: a signal may have arrived in the meantime
            session.signals.number = received
        return any(each[0] for each in gathered)

    def _after_step(self, report: StepReport) -> Progress:
        """Evaluate, log and save where due, and return the state that the next step begins with."""
        self.steps_taken += 1
        action, reason = report.verdict.action, report.verdict.reason
        if action == "roll back":
            raise RollBack(report.verdict, report.progress)
        report, progress, due = self.complete(report)
        if action != "apply":
            self.event(action, report.number, reason=reason)
            if self.distributed.is_main:
                self.session.on_event(f"step {report.number}: {action}: {reason}")
        seconds = time.perf_counter() - report.started
        report = replace(report, seconds=seconds, save=self.save_seconds)
        self._log(report)
        saving = time.perf_counter()
        self._save_if_due(report.number, due, progress)
        self.save_seconds = time.perf_counter() - saving
        if self.distributed.is_main:
            seconds = time.perf_counter() - report.started
            self.session.on_step(replace(report, seconds=seconds, save=self.save_seconds))
        return progress

    # --- files

    def event(self, event: str, step: int, **more: Any) -> None:
        """Log an event."""
        if self.run_log is not None:
            self.run_log.event(event, step, **more)

    def _log(self, report: StepReport) -> None:
        if self.run_log is None:
            return
        progress = report.progress
        line: dict[str, Any] = {
            "step": report.number, "phase": report.phase, "consumed": progress.cursor.consumed,
            "tokens": report.tokens, "masked": report.weight, "loss": progress.loss,
            "lr": report.lr, "norm": report.norm if math.isfinite(report.norm) else None,
            "verdict": report.verdict.action,
        }  # fmt: skip
        if report.evaluation is not None:
            line["evaluation"] = report.evaluation
        if progress.scale != 1.0:
            line["scale"] = progress.scale
        self.run_log.step(line | {name: round(getattr(report, name), 6) for name in TIMES})

    def _save_if_due(self, step: int, due: bool, progress: Progress) -> None:
        every = self.saving.every
        due = due or (every > 0 and step % every == 0)
        if (due or step % CHECK_EVERY == 0) and not self.stepper.is_finite():
            raise RollBack(_not_finite(step), progress)
        if due:
            self._save(progress)

    def _save(self, progress: Progress) -> None:
        if not self.distributed.is_main:
            return
        self.session.check_lock()
        failed = self.saver.finish(required=self.needs_checkpoints)
        if failed:
            self.event("save failed", progress.step, reason=failed)
        if state.folder(self.run, progress.step).exists():
            return
        with contextlib.suppress(OSError):  # tried again after the next save
            kept = {*self.kept_steps(progress), *self.kept_steps(self.saved)}
            state.retain(self.run, self.saving.keep, self.saving.keep_every, kept)
        if self.run_log is not None:
            self.run_log.sync()
        self.saver.begin(progress, self.stepper.tensors())
        self.saved = progress


def _not_finite(step: int) -> Verdict:
    return Verdict("roll back", "weights or optimizer state are not finite", step)
