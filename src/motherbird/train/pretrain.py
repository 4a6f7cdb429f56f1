"""A pretraining run: from a recipe and prepared text to weights, exact over any number of stops.

What a step does depends on (recipe, data, step) alone: rows, masks and dropout are keyed, batch
size and learning rate are functions of rows, gradients are added in a fixed order. So the state
that is saved is small (`state.Progress`) beside weights and moments, and going on from it is the
same as never having stopped, bit for bit, on the same machine and software.
"""

import contextlib
import json
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from .. import machine, strict
from ..core.checkpoint import DTYPES, fastest_dtype
from ..core.dropout import keyed
from ..core.heads import MaskedLM
from ..data.loader import Batch, Cursor, Loader, MicroBatch, masking_of
from ..data.prepared import Prepared
from ..errors import DamagedError, DivergedError, InputError, OutputExistsError
from ..files import locked
from . import health as doctor
from . import journal, state
from .evaluation import Evaluation, HeldOut
from .gradients import Leaf, Threads, of_step, side_by_side
from .health import Health, Judgement
from .optimizer import Optimizer
from .recipe import Phase, Recipe, differences, from_json
from .start import config_of_run, first_weights, model_of
from .state import Checkpoint, Progress, Run, Saver
from .world import World, join

log = logging.getLogger(__name__)

DROPOUT = 3  # what a draw is for: the loader has 1 and 2
SCALE, SCALE_STEPS = 2.0**16, 2000  # of float16's loss: at first, and good steps until it doubles
CHECK_EVERY = 100  # steps, after which weights and moments are looked at


@dataclass(frozen=True)
class Slice:
    """When this process stops, though the run may not be over.

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
        step, steps: taken and planned, of the whole run.
        phase: its name.
        loss, lr: of the step.
        tokens: of the step, of all ranks.
        seconds: that it took.
        wait: of these, for data.
        save: of these, for saving.
        lengths: of the documents of this rank.
        masked: of this rank.
        evaluation: if there was one.
    """

    step: int
    steps: int
    phase: str
    loss: float
    lr: float
    tokens: int
    seconds: float
    wait: float
    save: float
    lengths: Sequence[int]
    masked: int
    evaluation: Evaluation | None


@dataclass(frozen=True)
class Outcome:
    """How a process' part of a run ended.

    Attributes:
        progress: where the run stands, saved.
        signal: the signal that stopped it, or None.
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
        OSError, NoRoomError: the state could not be saved, three times or at the end.
    """
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(join(device, recipe.train.timeout))
        recipe.check_world(world.size)
        prepared = Prepared(data)
        check_data(recipe, prepared)
        check_lock: Callable[[], None] = lambda: None  # noqa: E731
        if world.first:
            check_lock = stack.enter_context(_own(run))
            about = _begin(recipe, prepared, run)
        else:
            about = None
        signals = stack.enter_context(_signals())
        stack.enter_context(_float32())
        threads = stack.enter_context(side_by_side(world.device))
        work = _Work(
            prepared, run, world, threads, signals, part or Slice(), check_lock, on_tick, on_event
        )
        while True:  # once, and again behind every rollback
            outcome = work.go_on(_told(about, world))
            if outcome is not None:
                return outcome
            about = state.read_run(run) if world.first else None


def check_data(recipe: Recipe, prepared: Prepared) -> None:
    """Refuse data that a recipe cannot be run on.

    Raises:
        InputError: a row length or source is missing; with what to do.
    """
    for phase in recipe.phases:
        prepared.rows(
            phase.seq_len, sources=phase.sources, least_tokens=phase.least_tokens
        )


@contextlib.contextmanager
def _own(run: Path) -> Iterator[Callable[[], None]]:
    """Hold the run's lock; a folder that holds something else is refused."""
    if run.is_symlink() or (run.exists() and not run.is_dir()):
        raise OutputExistsError("the output exists and is not a folder", str(run), "name another")
    if run.exists() and not (run / state.RUN).exists():
        foreign = {p.name for p in run.iterdir()} - {"LOCK"}
        if any(not name.startswith(".run.json") for name in foreign):
            raise OutputExistsError(
                "the output folder is not empty and not a run", str(run), "name a new folder"
            )
    with locked(run / "LOCK") as check:
        yield check


def _begin(recipe: Recipe, prepared: Prepared, run: Path) -> Run:
    """What run.json says, after it was compared with what was asked for; written if new."""
    given = strict.plain(recipe)
    if not (run / state.RUN).exists():
        config = model_of(recipe, prepared)
        about = Run(
            given, given, asdict(config), prepared.fingerprint, [], [],
            machine.describe(torch.get_num_threads()), str(prepared.directory),
        )  # fmt: skip
        state.write_run(run, about)
        return about
    about = state.read_run(run)
    changed = sorted(differences(about.given, given))
    if changed:
        raise InputError(
            f"the recipe is not the one that this run began with: {'; '.join(changed[:5])}",
            str(run),
            "give the same, or another --out; motherbird runs rewind changes a run on purpose",
        )
    if about.data != prepared.fingerprint:
        raise InputError(
            "the prepared text is not the one that this run began with",
            str(prepared.directory),
            "give the same folder, or another --out",
        )
    now = machine.describe(torch.get_num_threads())
    for key in ("cpu", "threads", "python", "versions"):
        if now[key] != about.made_with[key]:
            log.warning(
                "%s was %s when the run began and is %s now: it goes on, not bit for bit",
                key, about.made_with[key], now[key],
            )  # fmt: skip
    return about


def _told(about: Run | None, world: World) -> Run:
    """What rank 0 knows, on every rank."""
    if world.size == 1:
        assert about is not None
        return about
    text = world.tell("" if about is None else json.dumps(asdict(about)))
    return Run(**json.loads(text))


class _Signals:
    """Which signal came; the second one ends the process at once."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.number = number


@contextlib.contextmanager
def _signals() -> Iterator[_Signals]:
    """SIGTERM and Ctrl-C let the step finish and the state be saved."""
    signals = _Signals()
    kinds = (signal.SIGTERM, signal.SIGINT)
    try:
        before = {kind: signal.signal(kind, signals) for kind in kinds}
    except ValueError:  # not in the main thread: the caller's own affair
        yield signals
        return
    try:
        yield signals
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """Weights are made in float32, whatever the caller's default is."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@dataclass
class _Work:
    """What a process works with; `go_on` is the loop."""

    prepared: Prepared
    run: Path
    world: World
    threads: Threads
    signals: _Signals
    part: Slice
    check_lock: Callable[[], None]
    on_tick: Callable[[Tick], None]
    on_event: Callable[[str], None]

    def __post_init__(self) -> None:
        self.start = time.monotonic()
        self.taken = 0  # steps of this process

    def go_on(self, about: Run) -> Outcome | None:
        """From the newest checkpoint to the end of the run or of this part; None: rolled back."""
        self.recipe = from_json(about.recipe, str(self.run / state.RUN))
        self.base = config_of_run(about, self.run)
        self.steps = self.recipe.steps()
        self.skips = about.skips
        found = self._newest() if self.world.first else None
        progress = self._where(found)
        dtype = self.recipe.train.dtype
        self.dtype = fastest_dtype(self.world.device) if dtype == "auto" else DTYPES[dtype]
        self.saver = Saver(self.run)
        self._build(progress, found)
        log_of_run = journal.Journal(self.run, progress.step) if self.world.first else None
        self.journal = log_of_run
        try:
            self._event("start", progress.step, world=self.world.size,
                        threads=torch.get_num_threads(), dtype=str(self.dtype)[6:])  # fmt: skip
            if found is None and self.world.first:
                self._save(progress)
                self.saver.finish(last=True)
            return self._phases(progress)
        finally:
            with contextlib.suppress(Exception):  # what failed first is what is told
                self.saver.finish()
            if log_of_run is not None:
                log_of_run.close()

    # --- where the run stands

    def _newest(self) -> Checkpoint | None:
        state.clean(self.run)
        found = state.newest(self.run, quarantine=True)
        if found is None and journal.read(self.run):
            raise DamagedError(
                "the run has no checkpoint left",
                str(self.run),
                "copy one back from elsewhere, or begin a new run in another folder",
            )
        return found

    def _where(self, found: Checkpoint | None) -> Progress:
        cursor = Cursor(self.recipe.seed, fingerprint=self.prepared.fingerprint)
        scale = SCALE if self.recipe.train.dtype == "float16" else 1.0
        progress = Progress(cursor, scale=scale)
        if found is not None:
            progress = found.progress
        if self.world.size > 1:
            text = json.dumps(asdict(progress))
            progress = strict.build(Progress, json.loads(self.world.tell(text)), "rank 0")
        return progress

    def _build(self, progress: Progress, found: Checkpoint | None) -> None:
        """Model and optimizer as they were."""
        config = self.recipe.config(self.base, progress.cursor.phase)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            self.model = MaskedLM(config)
        saved: dict[str, Tensor] = {}
        if found is not None:
            saved = found.tensors()
            weights = {n[6:]: t for n, t in saved.items() if n.startswith("model.")}
            own = self.model.state_dict()
            if weights.keys() != own.keys() or any(
                weights[n].shape != own[n].shape or weights[n].dtype != own[n].dtype for n in own
            ):
                raise DamagedError("its tensors are not those of the model", str(found.directory))
            self.model.load_state_dict(weights)
        elif self.world.first:
            first_weights(self.model, self.recipe, self.prepared)
        self.model.to(self.world.device).train()
        self.optimizer = Optimizer(self.model, self.recipe.train.optimizer)
        moments = {n[10:]: t for n, t in saved.items() if n.startswith("optimizer.")}
        self.optimizer.restore(moments if found is not None else None, progress.updates)
        self.parameters = list(self.optimizer.named.values())
        self.world.share([p.data for p in self.parameters])
        self.world.share(list(self.optimizer.state().values()))

    def _tensors(self) -> dict[str, Tensor]:
        weights = {f"model.{n}": t.detach() for n, t in self.model.state_dict().items()}
        return weights | {f"optimizer.{n}": t for n, t in self.optimizer.state().items()}

    # --- the loop

    def _phases(self, progress: Progress) -> Outcome | None:
        while not progress.finished:
            phase = self.recipe.phases[progress.cursor.phase]
            self._enter(phase, progress.cursor.phase)
            loader = self._loader(phase, progress.cursor)
            with contextlib.closing(iter(loader)) as batches:
                result = self._steps(phase, progress, batches)
            if result is None:
                return None
            progress, stopped = result
            if stopped:
                break
        # Every process of a run ends with its state on the disk.
        if self.world.first:
            self._save(progress)
            self.saver.finish(last=True)
            self._event("finish" if progress.finished else "stop", progress.step,
                        signal=self.signals.number)  # fmt: skip
        return Outcome(progress, self.signals.number)

    def _enter(self, phase: Phase, number: int) -> None:
        config = self.recipe.config(self.base, number)
        self.model.model.become(config)
        decay = phase.weight_decay
        self.rate = phase.rate(self.recipe.train.lr)
        self.optimizer.begin_phase(
            self.rate.peak, self.recipe.train.weight_decay if decay is None else decay
        )
        evaluate = self.recipe.evaluate
        self.held_out = HeldOut(
            self.prepared, phase.seq_len, evaluate.rows,
            self.recipe.micro_rows(phase, evaluate.rows), evaluate.masking,
        )  # fmt: skip

    def _loader(self, phase: Phase, cursor: Cursor) -> Loader:
        rate = self.recipe.train.masking if phase.masking is None else phase.masking
        skips = [(s["first"], s["last"]) for s in self.skips if s["phase"] == cursor.phase]
        return Loader(
            self.prepared, phase.choice, cursor, masking_of(self.prepared, rate),
            lambda rows: phase.batch.at(rows, phase.seq_len),
            rank=self.world.rank, world=self.world.size, workers=self.recipe.train.workers,
            skips=skips,
        )  # fmt: skip

    def _steps(
        self, phase: Phase, progress: Progress, batches: Iterator[Batch]
    ) -> tuple[Progress, bool] | None:
        """Steps up to the end of the phase or of this part; None: the run has to roll back."""
        number = progress.cursor.phase
        judge = progress.health
        save_seconds = 0.0
        while True:
            if self._stops():
                return progress, True
            began = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - began
            rows = batch.cursor.rows - progress.cursor.rows
            lr = self.rate.at(progress.cursor.rows * phase.seq_len, phase.tokens)
            counts = self.world.gather([len(batch.places), len(batch.ids)])
            masked, tokens = (int(sum(column)) for column in zip(*counts, strict=True))
            micro = list(batch.micro_batches(self.recipe.micro_rows(phase, rows)))
            leaves = self._leaves(micro, progress, masked)
            losses, gradients = of_step(
                self.parameters, leaves, self.threads, self.world,
                tree=self.recipe.train.reduce == "tree",
            )  # fmt: skip
            loss = sum(losses) / progress.scale
            step = progress.step + 1
            norm = self._unscale(gradients, progress.scale)
            judgement, progress = self._judge(judge, step, loss, norm, progress)
            if judgement.verdict == "apply":
                self.optimizer.step(lr, gradients)
                progress = replace(progress, updates=progress.updates + 1)
            del gradients
            progress = replace(
                progress, cursor=batch.cursor, step=step, tokens=progress.tokens + tokens,
                masked=progress.masked + masked, loss=loss if math.isfinite(loss) else None,
                world=self.world.size,
            )  # fmt: skip
            self.taken += 1
            if judgement.verdict == "roll back":
                self._note(judgement, progress, number)
                self._roll_back(judgement, progress)
                return None
            over = phase.is_over(batch.cursor.rows)
            if judgement.verdict == "apply" and judge.note(step / self.steps, loss):
                self._plateau(step)
            evaluation = self._evaluation(step, over)
            if over:
                judge.begin_phase()
                progress = self._next_phase(progress)
            line = {
                "step": step, "phase": phase.name, "consumed": batch.cursor.consumed,
                "tokens": tokens, "masked": masked, "loss": progress.loss, "lr": lr,
                "norm": norm if math.isfinite(norm) else None, "verdict": judgement.verdict,
            }  # fmt: skip
            if evaluation is not None:
                line["evaluation"] = asdict(evaluation)
            if progress.scale != 1.0:
                line["scale"] = progress.scale
            every = self.recipe.save.every
            saving = time.perf_counter()
            if (over and not progress.finished) or (every and step % every == 0 and not over):
                if not self._finite_everywhere():
                    self._roll_back(Judgement("roll back", "weights are not finite", step), progress)
                    return None
                if self.world.first:
                    self._save(progress)
            elif step % CHECK_EVERY == 0 and not self._finite_everywhere():
                self._roll_back(Judgement("roll back", "weights are not finite", step), progress)
                return None
            save_seconds = time.perf_counter() - saving
            seconds = time.perf_counter() - began
            if self.journal is not None:
                self.journal.step(
                    {**line, "seconds": round(seconds, 6), "wait": round(waited, 6),
                     "save": round(save_seconds, 6)}
                )  # fmt: skip
            self._note(judgement, progress, number)
            if self.world.first:
                self.on_tick(
                    Tick(step, self.steps, phase.name, loss, lr, tokens, seconds, waited,
                         save_seconds, batch.lengths.tolist(), len(batch.places), evaluation)
                )  # fmt: skip
            if over:
                return progress, progress.finished

    def _stops(self) -> bool:
        """Whether any rank wants this part to end before the next step."""
        part = self.part
        mine = (
            self.signals.number is not None
            or (part.steps is not None and self.taken >= part.steps)
            or (part.seconds is not None and time.monotonic() - self.start >= part.seconds)
        )
        wanted = self.world.gather([float(self.signals.number or 0), float(mine)])
        if self.signals.number is None and (number := int(max(n for n, _ in wanted))):
            self.signals.number = number
        return any(stop for _, stop in wanted)

    def _leaves(self, micro: list[MicroBatch], progress: Progress, masked: int) -> list[Leaf]:
        first = self.world.rank * len(micro)
        device = self.world.device
        share = progress.scale / max(1, masked)

        def leaf(number: int, batch: MicroBatch) -> Tensor:
            key = (DROPOUT, progress.cursor.seed, progress.step, number)
            fast = self.dtype != torch.float32
            with (
                keyed(device, key),
                torch.autocast(device.type, self.dtype, enabled=fast, cache_enabled=False),
            ):
                return self.model.loss(batch.packed, batch.places, batch.targets) * share

        return [
            (lambda n=first + i, b=batch: leaf(n, b))  # type: ignore[misc]
            for i, batch in enumerate(micro)
        ]

    def _unscale(self, gradients: list[Tensor], scale: float) -> float:
        """Take the loss's scale off; the norm of the whole gradient."""
        if scale != 1.0:
            torch._foreach_mul_(gradients, 1 / scale)
        norms = torch._foreach_norm(gradients)
        return math.sqrt(math.fsum(norm**2 for norm in torch.stack(list(norms)).tolist()))

    def _judge(
        self, judge: Health, step: int, loss: float, norm: float, progress: Progress
    ) -> tuple[Judgement, Progress]:
        """What becomes of the step; float16's scale moves by what it finds."""
        if self.dtype == torch.float16:
            if not (math.isfinite(loss) and math.isfinite(norm)) and progress.scale > 1:
                smaller = replace(progress, scale=progress.scale / 2, good=0)
                return Judgement("skip", "float16 overflowed; the scale is halved"), smaller
            good = progress.good + 1
            if good == SCALE_STEPS:
                progress = replace(progress, scale=progress.scale * 2, good=0)
            else:
                progress = replace(progress, good=good)
        return judge.judge(step, loss, norm, self.recipe.health), progress

    def _next_phase(self, progress: Progress) -> Progress:
        number = progress.cursor.phase + 1
        ends = [*progress.phase_ends, progress.step]
        if number == len(self.recipe.phases):
            return replace(progress, finished=True, phase_ends=ends)
        cursor = replace(progress.cursor, phase=number, consumed=0, skipped=0)
        return replace(progress, cursor=cursor, phase_ends=ends)

    def _evaluation(self, step: int, over: bool) -> Evaluation | None:
        every = self.recipe.evaluate.every
        if not self.held_out or not (over or (every and step % every == 0)):
            return None
        return self.held_out.evaluate(self.model, self.dtype, self.threads, self.world)

    # --- what happens beside

    def _event(self, event: str, step: int, **more: Any) -> None:
        if self.journal is not None:
            self.journal.event(event, step, **more)

    def _note(self, judgement: Judgement, progress: Progress, phase: int) -> None:
        if judgement.verdict == "apply":
            return
        self._event(judgement.verdict, progress.step, reason=judgement.reason)
        if self.world.first:
            self.on_event(f"step {progress.step}: {judgement.verdict}: {judgement.reason}")

    def _plateau(self, step: int) -> None:
        how = f"motherbird runs rewind {self.run} --to-step STEP --set train.lr=X"
        self._event("plateau", step)
        if self.world.first:
            self.on_event(f"step {step}: the loss has stopped to fall; consider {how}")

    def _finite_everywhere(self) -> bool:
        """Weights and moments, on every rank."""
        tensors = [*self.parameters, *self.optimizer.state().values()]
        total = sum(norm.item() for norm in torch._foreach_norm(tensors))
        return all(math.isfinite(value) for [value] in self.world.gather([total]))

    def _save(self, progress: Progress) -> None:
        self.check_lock()
        failed = self.saver.finish()
        if failed:
            self._event("save failed", progress.step, reason=failed)
        if state.folder(self.run, progress.step).exists():
            return
        save = self.recipe.save
        with contextlib.suppress(OSError):
            state.retain(self.run, save.keep, save.keep_every, {*progress.phase_ends})
        self.saver.begin(progress, self._tensors())

    def _roll_back(self, judgement: Judgement, progress: Progress) -> None:
        """Leave out what went wrong: written down before anything goes on."""
        if not self.world.first:
            return
        limits = self.recipe.health
        self.saver.finish()
        about = state.read_run(self.run)
        before = [s["step"] for s in about.skips]
        if doctor.too_many(before, progress.step, limits):
            raise DivergedError(
                f"the run rolled back {len(before)} times and went wrong again at step "
                f"{progress.step} ({judgement.reason})",
                str(self.run),
                f"lower the rate: motherbird runs rewind {self.run} --to-step "
                f"{state.steps(self.run)[0]} --set train.lr={self.rate.peak / 2:g}",
            )
        target = state.newest(self.run, before=judgement.onset - limits.back, quarantine=True)
        if target is None:  # the run is younger, or its older checkpoints are gone
            left = [s for s in state.steps(self.run) if s < judgement.onset]
            target = state.newest(self.run, before=min(left), quarantine=True) if left else None
        if target is None:
            raise DivergedError(
                f"{judgement.reason}, and there is no checkpoint before it",
                str(self.run),
                "lower train.lr, or save more often (save.every)",
            )
        skip = self._skip(judgement, progress, target.progress)
        state.write_run(self.run, replace(about, skips=[*about.skips, skip]))
        for step in state.steps(self.run):
            if step > target.progress.step:
                state.set_aside(self.run, state.folder(self.run, step), "rolled-back")
        self._event("rolled back", progress.step, to=target.progress.step, skip=skip)
        self.on_event(f"back to step {target.progress.step}, leaving out {skip['batches']} batches")

    def _skip(self, judgement: Judgement, progress: Progress, back: Progress) -> dict[str, Any]:
        """The stretch of the order from shortly before the onset to now, within the limits."""
        limits = self.recipe.health
        phase = progress.cursor.phase
        if progress.cursor.consumed == 0:  # it happened with the last step of a phase
            phase -= 1
        shape = self.recipe.phases[phase]
        first = max(back.step, judgement.onset - limits.back)
        places = [
            (line["step"], line["consumed"])
            for line in journal.read(self.run)
            if line["phase"] == shape.name
        ]
        begin = max((c for s, c in places if s <= first), default=0)
        if back.cursor.phase == phase:
            begin = max(begin, back.cursor.consumed)
        end = max([progress.cursor.consumed, *(c for _, c in places)], default=begin)
        size = shape.batch.at(begin, shape.seq_len)
        batches = min(limits.skip_most, max(limits.skip_least, -(-(end - begin) // size)))
        return {
            "phase": phase, "first": begin, "last": begin + batches * size, "batches": batches,
            "step": progress.step, "to": back.step, "why": judgement.reason,
        }  # fmt: skip
