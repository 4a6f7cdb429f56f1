"""A pretraining run: from a recipe and prepared text to weights, exact over any number of stops.

What a step does depends on (recipe, data, step) alone: rows, masks and dropout are keyed, batch
size and learning rate are functions of rows, gradients are added in a fixed order. So the state
that is saved is small (`state.Progress`) beside weights and moments, and going on from it is the
same as never having stopped, bit for bit, on the same machine and software.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import machine, strict
from ..core.config import EncoderConfig
from ..data.loader import Batch, Cursor, Loader, RowFilter, masking_of
from ..data.prepared import PreparedDataset
from ..errors import DamagedError
from ..nn.heads import MaskedLM
from . import preflight, run_log, signals, state
from .distributed import World, join
from .evaluation import Evaluation, HeldOut
from .gradients import Threads, in_fixed_order, side_by_side
from .health import Judgement
from .init_weights import config_of_run, first_weights
from .optimizer import Optimizer
from .phase import Phase
from .recipe import Recipe, from_json
from .rollback import roll_back
from .state import Checkpoint, Progress, Run, Saver
from .step import SCALE, Step, Stepper

CHECK_EVERY = 100  # steps, after which weights and moments are looked at
# Steps after which freed memory is given back: documents of ever new lengths leave it in pieces,
# some 50 MB a step at nano geometry (docs/log.md).
TRIM_EVERY = 10


@dataclass(frozen=True)
class Slice:
    """When a process stops, though its run may not be over.

    Attributes:
        steps: that it takes at most.
        seconds: after which it stops.
    """

    steps: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Tick:
    """What there is to show after a step.

    Attributes:
        step: what it came to.
        steps: of the whole run.
        phase: its name.
        seconds: that it took.
        wait: of these, for data.
        save: of these, for saving.
        lengths: tokens of each document of this rank.
        masked: tokens of this rank that were predicted.
        evaluation: if there was one.
        config, dtype: of the model, and of its products.
        device, threads: of this rank.
    """

    step: Step
    steps: int
    phase: str
    seconds: float
    wait: float
    save: float
    lengths: Sequence[int]
    masked: int
    evaluation: Evaluation | None
    config: EncoderConfig
    dtype: torch.dtype
    device: str
    threads: int


@dataclass(frozen=True)
class Outcome:
    """How a process' part of a run ended.

    Attributes:
        progress: where the run stands, saved.
        signal: that stopped it, or None.
    """

    progress: Progress
    signal: int | None


def pretrain(
    recipe: Recipe,
    data: Path,
    run: Path,
    *,
    device: str | None = None,
    part: Slice | None = None,
    on_tick: Callable[[Tick], None] = lambda tick: None,
    on_event: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Begin a run, or go on with it where it was.

    Args:
        recipe: what the run is.
        data: a prepared set.
        run: its folder; new, or of the same recipe and data.
        device: where to compute; see `world.join`.
        part: when to stop before the end.
        on_tick: told of every step, on rank 0.
        on_event: told of what happens beside, on rank 0.

    Raises:
        InputError: recipe, data or folder cannot be used as they are, or another process is at it.
        DamagedError: no checkpoint of the run verifies.
        DivergedError: it rolled back too often.
        WorkerError: rows cannot be read, or another rank or a data worker is lost.
        OSError, NoRoomError: the state could not be saved: three times, at the start or at the end.
    """
    run = Path(os.path.abspath(run))
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(join(device, recipe.train.timeout))
        recipe.check_world(world.size)
        prepared = PreparedDataset(data)
        preflight.check_data(recipe, prepared)
        about: Run | None = None
        check_lock: Callable[[], None] = lambda: None  # noqa: E731
        if world.first:
            check_lock = stack.enter_context(preflight.own(run))
            about = preflight.begin(recipe, prepared, run, world.device)
        noted = stack.enter_context(signals.held())
        threads = stack.enter_context(side_by_side(world.device))
        stack.enter_context(in_fixed_order(world.device))
        process = _Process(
            prepared, run, world, threads, noted, part or Slice(), check_lock, on_tick, on_event
        )
        while True:
            try:
                return process.go_on(_told(about, world))
            except _RollBack as back:
                if world.first:
                    about = process.roll_back(back)


def _told(about: Run | None, world: World) -> Run:
    """What rank 0 knows, on every rank."""
    text = world.tell("" if about is None else json.dumps(asdict(about)))
    return Run(**json.loads(text))


def _not_finite(step: int) -> Judgement:
    return Judgement("roll back", "a weight or a moment is not finite", step)


class _RollBack(Exception):
    """The run cannot go on from where it is."""

    def __init__(self, judgement: Judgement, progress: Progress) -> None:
        super().__init__(judgement.reason)
        self.judgement, self.progress = judgement, progress


@dataclass
class _Process:
    """A process' part of a run. What changes with every step is `Progress`, handed on."""

    prepared: PreparedDataset
    run: Path
    world: World
    threads: Threads
    signals: signals.Signals
    part: Slice
    check_lock: Callable[[], None]
    on_tick: Callable[[Tick], None]
    on_event: Callable[[str], None]

    def __post_init__(self) -> None:
        self.start = time.monotonic()
        self.taken = 0  # steps
        self.journal: run_log.RunLog | None = None

    def go_on(self, about: Run) -> Outcome:
        """From the newest checkpoint to the end of the run, or of this part."""
        self.recipe = from_json(about.recipe, str(self.run / state.RUN))
        self.base = config_of_run(about, self.run)
        self.steps = self.recipe.steps()
        self.skips = about.skips
        self.save_seconds = 0.0
        self.saver = Saver(self.run)
        found = preflight.newest(self.run) if self.world.first else None
        progress = self._where(found)
        self.stepper = self._stepper(progress, found)
        if self.world.first:
            self.journal = run_log.RunLog(self.run, progress.step)
        try:
            self._event(
                "start", progress.step, world=self.world.size, threads=self.threads.count,
                dtype=str(self.stepper.dtype).removeprefix("torch."),
                device=str(self.world.device), commit=machine.commit(),
            )  # fmt: skip
            if progress.step == 0:  # a log without a checkpoint would be a run that has lost all
                self._save(progress)
                self.saver.finish(must=True)
                self.world.tell("saved")  # the others wait with patience
            while not progress.finished and not self._stops():
                progress = self._phase(progress)
            if not self.stepper.is_finite():
                raise _RollBack(_not_finite(progress.step), progress)
            self._save(progress)
            self.saver.finish(must=True)
            over = "finish" if progress.finished else "stop"
            self._event(over, progress.step, signal=self.signals.number)
            return Outcome(progress, self.signals.number)
        finally:
            with contextlib.suppress(Exception):  # what failed first is what is told
                self.saver.finish()
            if self.journal is not None:
                self.journal.close()

    def roll_back(self, back: _RollBack) -> Run:
        """What run.json says behind it, on rank 0."""
        what = roll_back(self.run, self.recipe, back.judgement, back.progress)
        events = run_log.RunLog(self.run, back.progress.step)
        events.event("roll back", back.progress.step, reason=what)
        events.close()
        self.on_event(what)
        return state.read_run(self.run)

    # --- where the run stands

    def _where(self, found: Checkpoint | None) -> Progress:
        cursor = Cursor(self.recipe.seed, fingerprint=self.prepared.fingerprint)
        scale = SCALE if self.recipe.train.dtype == "float16" else 1.0
        progress = Progress(cursor, scale=scale) if found is None else found.progress
        text = self.world.tell(json.dumps(asdict(progress)))
        return strict.build(Progress, json.loads(text), "rank 0")

    def _stepper(self, progress: Progress, found: Checkpoint | None) -> Stepper:
        """Model and optimizer as they were; rank 0 has them from the disk, the others from it."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            model = MaskedLM(self.recipe.config(self.base, progress.cursor.phase))
        moments: dict[str, Tensor] | None = None
        if found is not None:
            moments = _load(model, found)
        elif self.world.first:
            first_weights(model, self.recipe, self.prepared)
        model.to(self.world.device).train()
        optimizer = Optimizer(model, self.recipe.train.optimizer)
        optimizer.restore(moments, progress.updates)
        self.world.share([p.data for p in model.parameters()])
        self.world.share(list(optimizer.state().values()))
        return Stepper(model, optimizer, self.recipe, self.world, self.threads)

    # --- the loop

    def _phase(self, progress: Progress) -> Progress:
        """Steps up to the end of the phase, or of this part."""
        number = progress.cursor.phase
        phase = self.recipe.phases[number]
        self.stepper.enter(phase, self.recipe.config(self.base, number))
        evaluate = self.recipe.evaluate
        rows = max(1, evaluate.tokens // phase.seq_len)
        micro = self.recipe.micro_rows(phase, rows)
        choice = RowFilter(phase.seq_len, held_out=True)
        held_out = HeldOut(self.prepared, choice, rows, micro, evaluate.masking)
        batches = self._loader(phase, progress.cursor).__iter__()
        with contextlib.closing(batches):
            while progress.cursor.phase == number and not progress.finished and not self._stops():
                progress = self._step(phase, progress, batches, held_out)
        return progress

    def _step(
        self, phase: Phase, progress: Progress, batches: Iterator[Batch], held_out: HeldOut
    ) -> Progress:
        """A step and what belongs to it: evaluation, log, checkpoint."""
        began = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - began
        progress, step = self.stepper.take(batch, progress)
        self.taken += 1
        if step.judgement.verdict == "roll back":
            raise _RollBack(step.judgement, progress)
        over = phase.is_over(progress.cursor.rows)
        evaluation = self._evaluation(step.number, over, held_out)
        self._note(step, progress)
        consumed = progress.cursor.consumed
        if over:
            progress = self._next_phase(progress)
        times = {"seconds": time.perf_counter() - began, "wait": waited, "save": self.save_seconds}
        self._log(step, phase, consumed, progress, evaluation, times)
        saving = time.perf_counter()
        self._keep(step.number, over, progress)
        self.save_seconds = time.perf_counter() - saving
        if step.number % TRIM_EVERY == 0:
            machine.release_memory()
        if self.world.first:
            seconds = time.perf_counter() - began
            self.on_tick(
                Tick(step, self.steps, phase.name, seconds, waited, self.save_seconds,
                     batch.lengths.tolist(), len(batch.positions), evaluation,
                     self.stepper.model.model.config, self.stepper.dtype,
                     self.world.device.type, self.threads.count)
            )  # fmt: skip
        return progress

    def _loader(self, phase: Phase, cursor: Cursor) -> Loader:
        rate = self.recipe.masking(phase)
        skips = [(s["first"], s["last"]) for s in self.skips if s["phase"] == cursor.phase]
        return Loader(
            self.prepared, phase.choice, cursor, masking_of(self.prepared, rate),
            lambda rows: phase.batch.at(rows, phase.seq_len),
            rank=self.world.rank, world_size=self.world.size, workers=self.recipe.train.workers,
            skips=skips,
        )  # fmt: skip

    def _stops(self) -> bool:
        """Whether any rank wants this part to end before the next step."""
        part, number = self.part, self.signals.number
        mine = (
            number is not None
            or (part.steps is not None and self.taken >= part.steps)
            or (part.seconds is not None and time.monotonic() - self.start >= part.seconds)
        )
        wanted = self.world.gather([float(mine), float(number or 0)])
        other = int(max(each[1] for each in wanted))
        if other:  # never back to None: one may have come meanwhile
            self.signals.number = other
        return any(each[0] for each in wanted)

    def _next_phase(self, progress: Progress) -> Progress:
        """The state behind the last step of a phase."""
        progress.health.begin_phase()
        number = progress.cursor.phase + 1
        ends = [*progress.phase_ends, progress.step]
        if number == len(self.recipe.phases):
            return replace(progress, finished=True, phase_ends=ends)
        cursor = replace(progress.cursor, phase=number, consumed=0, skipped=0)
        return replace(progress, cursor=cursor, phase_ends=ends)

    def _evaluation(self, step: int, over: bool, held_out: HeldOut) -> Evaluation | None:
        every = self.recipe.evaluate.every
        if not held_out or not (over or (every and step % every == 0)):
            return None
        return held_out.evaluate(self.stepper.model, self.stepper.dtype, self.threads, self.world)

    # --- what is written down

    def _log(
        self, step: Step, phase: Phase, consumed: int, progress: Progress,
        evaluation: Evaluation | None, times: dict[str, float],
    ) -> None:  # fmt: skip
        if self.journal is None:
            return
        line: dict[str, Any] = {
            "step": step.number, "phase": phase.name, "consumed": consumed,
            "tokens": step.tokens, "masked": step.masked, "loss": progress.loss, "lr": step.lr,
            "norm": step.norm if math.isfinite(step.norm) else None,
            "verdict": step.judgement.verdict,
        }  # fmt: skip
        if evaluation is not None:
            line["evaluation"] = asdict(evaluation)
        if progress.scale != 1.0:
            line["scale"] = progress.scale
        self.journal.step(line | {name: round(seconds, 6) for name, seconds in times.items()})

    def _event(self, event: str, step: int, **more: Any) -> None:
        if self.journal is not None:
            self.journal.event(event, step, **more)

    def _note(self, step: Step, progress: Progress) -> None:
        """Tell of a step that was skipped, and of a plateau."""
        judgement = step.judgement
        if judgement.verdict == "apply":
            if not progress.health.note(step.number / self.steps, step.loss):
                return
            key = self.recipe.key_of("lr", progress.cursor.phase)
            how = f"motherbird runs rewind {self.run} --to-step STEP --set {key}=..."
            event, reason = "plateau", f"the loss has stopped to fall; the paper's remedy: {how}"
        else:
            event, reason = judgement.verdict, judgement.reason
        self._event(event, step.number, reason=reason)
        if self.world.first:
            self.on_event(f"step {step.number}: {event}: {reason}")

    def _keep(self, step: int, over: bool, progress: Progress) -> None:
        """Save where it is due, and never what is not finite."""
        every = self.recipe.save.every
        due = over or (every > 0 and step % every == 0)
        if (due or step % CHECK_EVERY == 0) and not self.stepper.is_finite():
            raise _RollBack(_not_finite(step), progress)
        if due:
            self._save(progress)

    def _save(self, progress: Progress) -> None:
        if not self.world.first or state.folder(self.run, progress.step).exists():
            return
        self.check_lock()
        failed = self.saver.finish()
        if failed:
            self._event("save failed", progress.step, reason=failed)
        keep, limits = self.recipe.save, self.recipe.health
        # A rollback needs one from before whatever may come to light now.
        late = progress.step - (limits.back + limits.level + limits.level_steps)
        before = [step for step in state.steps(self.run) if step <= late][:1]
        with contextlib.suppress(OSError):  # the next save tries again
            state.retain(self.run, keep.keep, keep.keep_every, {*progress.phase_ends, *before})
        if self.journal is not None:
            self.journal.sync()
        self.saver.begin(progress, self.stepper.tensors())


def _load(model: MaskedLM, found: Checkpoint) -> dict[str, Tensor]:
    """Give a model its weights; the moments are returned.

    Raises:
        DamagedError: they are not those of this model.
    """
    saved = found.tensors()
    weights = {n.removeprefix("model."): t for n, t in saved.items() if n.startswith("model.")}
    own = {name: (tensor.shape, tensor.dtype) for name, tensor in model.state_dict().items()}
    if {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()} != own:
        raise DamagedError("its tensors are not those of the model", str(found.directory))
    model.load_state_dict(weights)
    prefix = "optimizer."
    return {n.removeprefix(prefix): t for n, t in saved.items() if n.startswith(prefix)}
