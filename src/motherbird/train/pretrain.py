"""A pretraining run: from a recipe and a prepared dataset to weights; see `process`."""

import contextlib
import os
from collections.abc import Callable, Generator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from ..data.loader import Cursor, Loader, RowFilter, masking_of
from ..data.micro_batch import MicroBatch
from ..data.prepared import PreparedDataset
from ..nn.devices import warn_if_emulated
from ..nn.heads import MaskedLM
from . import preflight, run_info, signals, state
from .distributed import join
from .evaluation import evaluate, held_out_batches
from .gradients import in_fixed_order
from .init_weights import load_checkpoint, load_initial_weights
from .objectives.masked_lm import MaskedLMObjective
from .optimizer import Optimizer
from .phase import Phase
from .process import Outcome, Process, RollBack, Session
from .recipe import Recipe
from .rollback import roll_back
from .run_info import RunInfo
from .run_log import RunLog
from .state import Checkpoint, Progress
from .step import FLOAT16_SCALE, Stepper, StepReport

Batches = Generator[tuple[list[MicroBatch], Cursor], None, None]


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
        session = Session(
            run, distributed, received, check_lock, max_steps, max_seconds,
            on_start, on_step, on_event,
        )  # fmt: skip
        process = _Pretraining(session, prepared)
        while True:
            try:
                process.open(distributed.broadcast_object(info))
                return process.resume()
            except RollBack as error:
                if distributed.is_main:
                    info = process.roll_back(error)


class _Pretraining(Process[MicroBatch]):
    """One process of a pretraining run."""

    model: MaskedLM

    def __init__(self, session: Session, prepared: PreparedDataset) -> None:
        super().__init__(session)
        self.prepared = prepared

    def open(self, info: RunInfo | None) -> None:
        """Read what the run is from run.json."""
        assert info is not None
        self.recipe, self.skips = info.parsed_recipe(self.run), info.skips
        self.config = info.parsed_config(self.run)
        self.saving = self.recipe.save

    def steps(self) -> int:
        """Return the number of steps of the recipe."""
        return self.recipe.steps()

    def roll_back(self, error: RollBack) -> RunInfo:
        """Roll the run back, on rank 0, and return its new run.json."""
        what = roll_back(self.run, self.recipe, error.verdict, error.progress)
        with contextlib.closing(RunLog(self.run, error.progress.step)) as events:
            events.event("roll back", error.progress.step, reason=what)
        self.session.on_event(what)
        return run_info.read(self.run)

    def initial_progress(self) -> Progress:
        """Return the state before the first step."""
        cursor = Cursor(self.recipe.seed, fingerprint=self.prepared.fingerprint)
        float16 = self.recipe.train.dtype == "float16"
        return Progress(cursor, scale=FLOAT16_SCALE if float16 else 1.0)

    def build(self, progress: Progress, found: Checkpoint | None) -> None:
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
        self.model = model
        self.broadcast(optimizer)
        dtype = self.recipe.dtype_on(self.distributed.device)
        if self.distributed.is_main:
            warn_if_emulated(dtype, self.distributed.device)
        self.stepper = Stepper(
            MaskedLMObjective(model), optimizer, self.distributed, dtype, seed=self.recipe.seed,
            tree=train.reduce == "tree", limits=self.recipe.health,
        )  # fmt: skip

    def begin_phase(self, progress: Progress) -> tuple[Batches, Callable[[Progress], float]]:
        """Set the phase's context, weight decay and held-out rows."""
        number = progress.cursor.phase
        self.phase = phase = self.recipe.phases[number]
        train, settings = self.recipe.train, self.recipe.evaluate
        lr = phase.lr_schedule(train.lr)
        decay = train.weight_decay if phase.weight_decay is None else phase.weight_decay
        self.model.model.set_context(self.recipe.config(self.config, number))
        self.stepper.optimizer.begin_phase(lr.peak, decay)
        rows = max(1, settings.tokens // phase.seq_len)
        self.held_out = held_out_batches(
            self.prepared, RowFilter(phase.seq_len, held_out=True), rows,
            self.recipe.micro_rows(phase, rows), settings.masking,
        )  # fmt: skip
        return self._batches(phase, progress.cursor), lambda now: lr.at(
            now.cursor.rows * phase.seq_len, phase.tokens
        )

    def _batches(self, phase: Phase, cursor: Cursor) -> Batches:
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

    def complete(self, report: StepReport) -> tuple[StepReport, Progress, bool]:
        """Evaluate on held-out rows at the end of a phase and where the recipe says so."""
        progress, every = report.progress, self.recipe.evaluate.every
        over = self.phase.is_over(progress.cursor.rows)
        evaluation = None
        if self.held_out and (over or (every and report.number % every == 0)):
            found = evaluate(self.model, self.held_out, self.stepper.dtype, self.distributed)
            evaluation = asdict(found)
        after = self._next_phase(progress) if over else progress
        return replace(report, phase=self.phase.name, evaluation=evaluation), after, over

    def _next_phase(self, progress: Progress) -> Progress:
        """Return the state after the last step of a phase."""
        progress.health.begin_phase()
        number = progress.cursor.phase + 1
        ends = [*progress.phase_ends, progress.step]
        if number == len(self.recipe.phases):
            return replace(progress, finished=True, phase_ends=ends)
        cursor = replace(progress.cursor, phase=number, consumed=0, skipped=0)
        return replace(progress, cursor=cursor, phase_ends=ends)

    def kept_steps(self, progress: Progress) -> list[int]:
        """Return the ends of phases, and a step before the onset of what may still be found."""
        limits = self.recipe.health
        oldest = limits.rollback_steps + limits.shift_window + limits.shift_steps
        before = [step for step in state.steps(self.run) if step <= progress.step - oldest][:1]
        return [*progress.phase_ends, *before]
