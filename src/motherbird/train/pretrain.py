"""A pretraining run: from a recipe and a prepared dataset to weights, exact over any stops.

What a step does depends on (recipe, data, step) alone: rows, masks and dropout are keyed, batch
size and learning rate are functions of rows, and gradients are summed in a fixed order. So the
saved state is small (`state.Progress`) besides weights and optimizer state, and resuming from it
gives the same bits as never having stopped, on the same machine and software.
"""

import contextlib
import math
import os
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import machine
from ..data.loader import Cursor, Loader, RowFilter, masking_of
from ..data.micro_batch import MicroBatch
from ..data.prepared import PreparedDataset
from ..nn.devices import warn_if_emulated
from ..nn.heads import MaskedLM
from . import preflight, run_info, signals, state
from .distributed import Distributed, join
from .evaluation import evaluate, held_out_batches
from .gradients import in_fixed_order
from .health import Verdict
from .init_weights import load_checkpoint, load_initial_weights
from .loop import run_steps
from .objectives.masked_lm import MaskedLMObjective
from .optimizer import Optimizer
from .phase import Phase
from .recipe import Recipe
from .rollback import roll_back
from .run_info import RunInfo
from .run_log import TIMES, RunLog
from .state import Checkpoint, Progress, Saver
from .step import FLOAT16_SCALE, Stepper, StepReport

CHECK_EVERY = 100  # steps between checks that weights and optimizer state are finite


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    progress: Progress  # the saved state
    signal: int | None  # number of the signal that stopped it, or None


def pretrain(
    recipe: Recipe,
    data: Path,
    run: Path,
    *,
    device: str | None = None,
    max_steps: int | None = None,
    max_seconds: float | None = None,
    on_start: Callable[[Stepper[MicroBatch], int], None] = lambda stepper, steps: None,
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_event: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Start a run, or resume it.

    Args:
        recipe: defines the run.
        data: directory of a prepared dataset.
        run: directory of the run; a new one, or one of the same recipe and data.
        device: see `distributed.join`.
        max_steps: stop after this many steps of this process.
        max_seconds: stop after this time.
        on_start: called on rank 0 at the start and after a rollback, with the number of steps.
        on_step: called on rank 0 after every step.
        on_event: called on rank 0 with a description of anything unusual.

    Raises:
        InputError: recipe, data or directory cannot be used, or another process is using the run.
        DamagedError: the run has checkpoints, but none verifies.
        DivergedError: the run was rolled back too often.
        WorkerError: rows cannot be read, or another rank or a data worker is lost.
        OSError, NoRoomError: the first or last checkpoint, or three in a row, could not be written.
    """
    run = Path(os.path.abspath(run))
    with contextlib.ExitStack() as stack:
        distributed = stack.enter_context(join(device, recipe.train.timeout))
        recipe.check_world_size(distributed.world_size)
        prepared = distributed.in_turns(lambda: preflight.open_dataset(data, recipe, distributed))
        info: RunInfo | None = None
        check_lock: Callable[[], None] = lambda: None  # noqa: E731
        if distributed.is_main:
            check_lock = stack.enter_context(preflight.lock_run(run))
            info = preflight.begin(recipe, prepared, run, distributed.device)
        received = stack.enter_context(signals.deferred())
        stack.enter_context(in_fixed_order(distributed.device))
        process = _Process(
            prepared, run, distributed, received, max_steps, max_seconds, check_lock,
            on_start, on_step, on_event,
        )  # fmt: skip
        while True:
            try:
                return process.resume(distributed.broadcast_object(info))
            except _RollBack as error:
                if distributed.is_main:
                    info = process.roll_back(error)


class _RollBack(Exception):
    """The run cannot continue from its current state."""

    def __init__(self, verdict: Verdict, progress: Progress) -> None:
        super().__init__(verdict.reason)
        self.verdict, self.progress = verdict, progress


@dataclass
class _Process:
    """One process of a run. The state that changes with every step is `Progress`."""

    prepared: PreparedDataset
    run: Path
    distributed: Distributed
    signals: signals.Signals
    max_steps: int | None
    max_seconds: float | None
    check_lock: Callable[[], None]
    on_start: Callable[[Stepper[MicroBatch], int], None]
    on_step: Callable[[StepReport], None]
    on_event: Callable[[str], None]

    def __post_init__(self) -> None:
        self.started = time.monotonic()
        self.steps_taken = 0
        self.run_log: RunLog | None = None

    def resume(self, info: RunInfo | None) -> Outcome:
        """Train from the newest checkpoint to the end of the run, or until stopped."""
        assert info is not None
        self.recipe, self.skips = info.parsed_recipe(self.run), info.skips
        self.config = info.parsed_config(self.run)
        self.save_seconds = 0.0
        self.saver = Saver(self.run)
        found = preflight.newest(self.run) if self.distributed.is_main else None
        progress = self.distributed.broadcast_object(self._progress(found))
        self.stepper = self._stepper(progress, found)
        if self.distributed.is_main:
            self.run_log = RunLog(self.run, progress.step)
            self.on_start(self.stepper, self.recipe.steps())
        try:
            self._event(
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
                raise _RollBack(_not_finite(progress.step), progress)
            self._save(progress)
            self.saver.finish(required=True)
            event = "finish" if progress.finished else "stop"
            self._event(event, progress.step, signal=self.signals.number)
            return Outcome(progress, self.signals.number)
        finally:
            with contextlib.suppress(Exception):  # the first error is the one that is reported
                self.saver.finish()
            if self.run_log is not None:
                self.run_log.close()

    def roll_back(self, error: _RollBack) -> RunInfo:
        """Roll the run back, on rank 0, and return its new run.json."""
        what = roll_back(self.run, self.recipe, error.verdict, error.progress)
        with contextlib.closing(RunLog(self.run, error.progress.step)) as events:
            events.event("roll back", error.progress.step, reason=what)
        self.on_event(what)
        return run_info.read(self.run)

    # --- state

    def _progress(self, found: Checkpoint | None) -> Progress:
        if found is not None:
            return found.progress
        cursor = Cursor(self.recipe.seed, fingerprint=self.prepared.fingerprint)
        float16 = self.recipe.train.dtype == "float16"
        return Progress(cursor, scale=FLOAT16_SCALE if float16 else 1.0)

    def _stepper(self, progress: Progress, found: Checkpoint | None) -> Stepper[MicroBatch]:
        """Create or restore model and optimizer on rank 0, and send them to the other ranks."""
        train = self.recipe.train
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            model = MaskedLM(self.recipe.config(self.config, progress.cursor.phase))
        optimizer_state: dict[str, Tensor] | None = None
        if found is not None:
            optimizer_state = load_checkpoint(model, found)
        elif self.distributed.is_main:
            load_initial_weights(model, self.recipe, self.prepared)
        model.to(self.distributed.device).train()
        optimizer = Optimizer(model, train.optimizer)
        optimizer.restore(optimizer_state, progress.updates)
        self.distributed.broadcast([p.data for p in model.parameters()])
        self.distributed.broadcast(list(optimizer.state().values()))
        self.model = model
        dtype = self.recipe.dtype_on(self.distributed.device)
        if self.distributed.is_main:
            warn_if_emulated(dtype, self.distributed.device)
        return Stepper(
            MaskedLMObjective(model), optimizer, self.distributed, dtype, seed=self.recipe.seed,
            tree=train.reduce == "tree", limits=self.recipe.health,
        )  # fmt: skip

    # --- training

    def _train_phase(self, progress: Progress) -> tuple[Progress, bool]:
        """Train to the end of the phase, or until stopped; return whether it was stopped."""
        number = progress.cursor.phase
        phase = self.recipe.phases[number]
        train, settings = self.recipe.train, self.recipe.evaluate
        lr = phase.lr_schedule(train.lr)
        decay = train.weight_decay if phase.weight_decay is None else phase.weight_decay
        self.model.model.set_context(self.recipe.config(self.config, number))
        self.stepper.optimizer.begin_phase(lr.peak, decay)
        rows = max(1, settings.tokens // phase.seq_len)
        held_out = held_out_batches(
            self.prepared, RowFilter(phase.seq_len, held_out=True), rows,
            self.recipe.micro_rows(phase, rows), settings.masking,
        )  # fmt: skip
        with contextlib.closing(self._batches(phase, progress.cursor)) as batches:
            for report in run_steps(
                self.stepper,
                batches,
                progress,
                lambda now: lr.at(now.cursor.rows * phase.seq_len, phase.tokens),
                lambda now: self._stops(),
            ):
                progress = self._after_step(report, phase, held_out)
                if progress.cursor.phase != number or progress.finished:
                    return progress, False
        return progress, True

    def _batches(
        self, phase: Phase, cursor: Cursor
    ) -> Generator[tuple[list[MicroBatch], Cursor], None, None]:
        """Yield this rank's micro-batches of every step, and the cursor after it."""
        loader = Loader(
            self.prepared, phase.row_filter, cursor,
            masking_of(self.prepared, self.recipe.masking(phase)),
            lambda rows: phase.batch_size.at(rows, phase.seq_len),
            rank=self.distributed.rank, world_size=self.distributed.world_size,
            workers=self.recipe.train.workers,
            skips=[(s["first"], s["last"]) for s in self.skips if s["phase"] == cursor.phase],
        )  # fmt: skip
        with contextlib.closing(iter(loader)) as batches:
            for batch in batches:
                rows = self.recipe.micro_rows(phase, batch.cursor.rows - cursor.rows)
                cursor = batch.cursor
                yield list(batch.micro_batches(rows)), cursor

    def _stops(self) -> bool:
        """Return whether any rank wants to stop before the next step."""
        number, elapsed = self.signals.number, time.monotonic() - self.started
        own = (
            number is not None
            or (self.max_steps is not None and self.steps_taken >= self.max_steps)
            or (self.max_seconds is not None and elapsed >= self.max_seconds)
        )
        gathered = self.distributed.all_gather([float(own), float(number or 0)])
        received = int(max(each[1] for each in gathered))
        if received:  # never reset to None: a signal may have arrived in the meantime
            self.signals.number = received
        return any(each[0] for each in gathered)

    def _after_step(
        self, report: StepReport, phase: Phase, held_out: Sequence[MicroBatch]
    ) -> Progress:
        """Evaluate, log and save where due, and return the state that the next step begins with."""
        self.steps_taken += 1
        progress = report.progress
        if report.verdict.action == "roll back":
            raise _RollBack(report.verdict, progress)
        over = phase.is_over(progress.cursor.rows)
        every = self.recipe.evaluate.every
        evaluation = None
        if held_out and (over or (every and report.number % every == 0)):
            evaluation = evaluate(self.model, held_out, self.stepper.dtype, self.distributed)
        action, reason = report.verdict.action, report.verdict.reason
        if action != "apply":
            self._event(action, report.number, reason=reason)
            if self.distributed.is_main:
                self.on_event(f"step {report.number}: {action}: {reason}")
        if over:
            progress = self._next_phase(progress)
        seconds = time.perf_counter() - report.started
        report = replace(
            report, phase=phase.name, evaluation=evaluation, seconds=seconds, save=self.save_seconds
        )
        self._log(report)
        saving = time.perf_counter()
        self._save_if_due(report.number, over, progress)
        self.save_seconds = time.perf_counter() - saving
        if self.distributed.is_main:
            seconds = time.perf_counter() - report.started
            self.on_step(replace(report, seconds=seconds, save=self.save_seconds))
        return progress

    def _next_phase(self, progress: Progress) -> Progress:
        """Return the state after the last step of a phase."""
        progress.health.begin_phase()
        number = progress.cursor.phase + 1
        ends = [*progress.phase_ends, progress.step]
        if number == len(self.recipe.phases):
            return replace(progress, finished=True, phase_ends=ends)
        cursor = replace(progress.cursor, phase=number, consumed=0, skipped=0)
        return replace(progress, cursor=cursor, phase_ends=ends)

    # --- files

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
            line["evaluation"] = asdict(report.evaluation)
        if progress.scale != 1.0:
            line["scale"] = progress.scale
        self.run_log.step(line | {name: round(getattr(report, name), 6) for name in TIMES})

    def _event(self, event: str, step: int, **more: Any) -> None:
        if self.run_log is not None:
            self.run_log.event(event, step, **more)

    def _save_if_due(self, step: int, over: bool, progress: Progress) -> None:
        every = self.recipe.save.every
        due = over or (every > 0 and step % every == 0)
        if (due or step % CHECK_EVERY == 0) and not self.stepper.is_finite():
            raise _RollBack(_not_finite(step), progress)
        if due:
            self._save(progress)

    def _save(self, progress: Progress) -> None:
        if not self.distributed.is_main:
            return
        self.check_lock()
        failed = self.saver.finish()
        if failed:
            self._event("save failed", progress.step, reason=failed)
        if state.folder(self.run, progress.step).exists():
            return
        keep, limits = self.recipe.save, self.recipe.health
        # Keep one that is older than the onset of anything that may still be found.
        oldest = limits.rollback_steps + limits.shift_window + limits.shift_steps
        before = [step for step in state.steps(self.run) if step <= progress.step - oldest][:1]
        with contextlib.suppress(OSError):  # tried again after the next save
            state.retain(self.run, keep.keep, keep.keep_every, {*progress.phase_ends, *before})
        if self.run_log is not None:
            self.run_log.sync()
        self.saver.begin(progress, self.stepper.tensors())


def _not_finite(step: int) -> Verdict:
    return Verdict("roll back", "weights or optimizer state are not finite", step)
