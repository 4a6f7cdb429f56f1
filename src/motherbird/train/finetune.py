"""Fine-tuning: from labelled texts to a model directory, exact over any stops; see `process`.

The state of the run is in a hidden directory next to the output, which appears when the run is
finished: the model of the best epoch, finetune.json with settings and metrics, and the log.
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__, machine
from ..core import hf_config
from ..core.hf_config import HeadConfig
from ..core.measure import Metrics, best_thresholds, temperature
from ..data.loader import Cursor
from ..errors import DivergedError, InputError, NoMemoryError, OutputExistsError, StoppedError
from ..files import UNFINISHED, read_json_object, resumable_directory
from ..nn import checkpoint
from ..nn.devices import DTYPES, fastest_dtype, warn_if_emulated
from ..nn.heads import IGNORED
from . import lora, run_log, signals, state, tuning_card, tuning_report
from .distributed import join
from .examples import steps_per_epoch, training_batches
from .gradients import in_fixed_order
from .objectives.labels import LabelledBatch, LabelsObjective
from .optimizer import Optimizer
from .predict import logits_of
from .process import Process, RollBack, Session
from .recipe import Save
from .state import Best, Checkpoint, Progress
from .step import FLOAT16_SCALE, Stepper, StepReport
from .threads import executor_for
from .tuning import FineTuning
from .tuning_memory import fit_memory
from .tuning_plan import HeadModel, Parts, Plan, initial_model, plan

log = logging.getLogger(__name__)

INFO = "finetune.json"
LEAST_TOKENS = 64  # of a micro-batch
DEV = 0.1  # fraction of the training data that is set aside where there is no dev data


class FineTuningProcess(Process[LabelledBatch]):
    """A process of a fine-tuning run."""

    needs_checkpoints = True  # the best one is the result
    model: HeadModel

    def __init__(self, session: Session, plan: Plan) -> None:
        super().__init__(session)
        self.plan, self.recipe = plan, plan.recipe
        self.train = plan.train.renumbered(plan.tokens)
        self.dev = plan.dev.renumbered(plan.tokens)
        self.saving = Save(every=plan.recipe.save_every, keep=1)

    def steps(self) -> int:
        """Return the number of steps if the run does not end early."""
        return self.plan.epochs * steps_per_epoch(len(self.plan.train), self.recipe.batch_size)

    def initial_progress(self) -> Progress:
        """Return the state before the first step."""
        scale = FLOAT16_SCALE if self.recipe.dtype == "float16" else 1.0
        return Progress(Cursor(self.recipe.seed), scale=scale)

    def build(self, progress: Progress, found: Checkpoint | None) -> None:
        """Create or restore model and optimizer on rank 0, and send them to the other ranks."""
        plan, recipe, device = self.plan, self.recipe, self.distributed.device
        model = initial_model(plan)
        embedding = model.model.embeddings.tok_embeddings
        embedding.weight = nn.Parameter(embedding.weight.detach()[plan.tokens])
        embedding.sparse = device.type == "cpu"  # gradients of the rows of a micro-batch only
        if recipe.lora_rank:
            self.lora = lora.add(model, recipe.lora_rank, recipe.seed)
        model.model.gradient_checkpointing = recipe.gradient_checkpointing
        optimizer_state: dict[str, Tensor] | None = None
        if found is not None:
            tensors, optimizer_state = found.weights_and_optimizer_state()
            model.load_state_dict(tensors)
        self.model = model.to(device).train()
        layers = plan.config.num_hidden_layers
        optimizer = Optimizer(
            self.model, recipe.optimizer, lambda name: recipe.layer_scale(name, layers)
        )
        optimizer.restore(optimizer_state, progress.updates)
        self.broadcast(optimizer)
        dtype = fastest_dtype(device) if recipe.dtype == "auto" else DTYPES[recipe.dtype]
        if self.distributed.is_main:
            warn_if_emulated(dtype, device)
        objective = LabelsObjective(self.model, plan.train.kind, self._class_weights())
        self.stepper = Stepper(objective, optimizer, self.distributed, dtype, seed=recipe.seed)

    def _class_weights(self) -> Tensor | None:
        """Return a weight for each label, so that all labels count alike."""
        plan = self.plan
        if not self.recipe.class_weights:
            return None
        size = len(plan.labels)
        targets = np.concatenate([np.atleast_1d(target) for target in plan.train.targets])
        counts = np.bincount(targets[targets != IGNORED], minlength=size)
        weights = counts.sum() / (size * np.maximum(counts, 1))
        return torch.tensor(weights, dtype=torch.float32, device=self.distributed.device)

    def begin_phase(
        self, progress: Progress
    ) -> tuple[
        Generator[tuple[list[LabelledBatch], Cursor], None, None], Callable[[Progress], float]
    ]:
        """Return the steps of an epoch, which is a phase of the run, from the cursor on."""
        recipe, count = self.recipe, len(self.plan.train)
        total = self.plan.epochs * count
        lr = recipe.schedule(self.plan.config, total)
        self.stepper.optimizer.begin_phase(lr.peak, recipe.weight_decay)
        batches = training_batches(
            self.train, progress.cursor, recipe.batch_size,
            progress.micro_tokens or recipe.micro_tokens,
            self.distributed, self.stepper.threads.count,
        )  # fmt: skip
        return batches, lambda now: lr.at(now.cursor.phase * count + now.cursor.consumed, total)

    def less_memory(self, progress: Progress, error: NoMemoryError) -> Progress:
        """Halve the micro-batches."""
        tokens = (progress.micro_tokens or self.recipe.micro_tokens) // 2
        if tokens < LEAST_TOKENS or self.distributed.world_size > 1:
            how = "use a shorter --max-length, --set gradient_checkpointing=true or lora_rank=16"
            raise NoMemoryError(error.what, str(self.run), how) from error
        if self.distributed.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("out of memory: the step is repeated with micro-batches of %d tokens", tokens)
        return replace(progress, micro_tokens=tokens)

    def complete(self, report: StepReport) -> tuple[StepReport, Progress, bool]:
        """Evaluate on dev after every epoch, and end the run where it does not improve."""
        progress, cursor = report.progress, report.progress.cursor
        epoch = cursor.phase + 1
        report = replace(report, phase=f"epoch {epoch}")
        if cursor.consumed < len(self.plan.train):
            return report, progress, False
        metrics = self.distributed.broadcast_object(self._dev_metrics())
        value = metrics[self.plan.metric]
        best = progress.best
        if best is None or best.value is None or (value is not None and value > best.value):
            best = Best(progress.step, epoch, value)
        patience = self.recipe.patience
        over = epoch == self.plan.epochs or bool(patience and epoch - best.epoch >= patience)
        progress = replace(
            progress, best=best, finished=over, phase_ends=[*progress.phase_ends, progress.step],
            cursor=replace(cursor, phase=epoch, consumed=0),
        )  # fmt: skip
        return replace(report, evaluation=metrics), progress, True

    def _dev_metrics(self) -> Metrics:
        if not self.distributed.is_main:
            return {}
        logits = logits_of(self.model, self.dev, self.stepper.dtype)
        return self.plan.measure(self.plan.parts.dev, self.plan.dev, logits)

    def kept_steps(self, progress: Progress) -> list[int]:
        """Return the best step."""
        return [] if progress.best is None else [progress.best.step]


def finetune(
    recipe: FineTuning,
    parts: Parts,
    out: Path,
    *,
    device: str | None = None,
    max_steps: int | None = None,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_start: Callable[[Stepper[LabelledBatch], int], None] = lambda stepper, steps: None,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> dict[str, Any]:
    """Fine-tune a model, or resume it, and write the best one.

    Args:
        recipe: defines the run.
        parts: what it trains and is evaluated on.
        out: directory of the model; if it is that of the same run, nothing is computed.
        device: see `distributed.join`.
        max_steps: stop after this many steps of this process.
        on_plan: called on rank 0 with what will be done, before the first step.
        on_start: called on rank 0 at the start, with the number of steps.
        on_step: called on rank 0 after every step.

    Returns:
        The content of finetune.json.

    Raises:
        InputError: model, texts or directory cannot be used.
        DivergedError: the loss is not finite.
        StoppedError: a signal or ``max_steps`` stopped it; its state is saved.
    """
    with contextlib.ExitStack() as stack:
        distributed = stack.enter_context(join(device, recipe.timeout))
        made = distributed.in_turns(lambda: plan(recipe, parts))
        made = fit_memory(made, distributed.device, executor_for(distributed.device).count)
        key = made.key()
        finished = distributed.in_turns(lambda: _finished(out, key))
        if (finished := distributed.broadcast_object(finished)) is not None:
            return finished
        work = out  # only rank 0 uses it
        if distributed.is_main:
            on_plan(made)
            _check_unfinished(out, key)
            work = stack.enter_context(resumable_directory(out, "model", key))
        received = stack.enter_context(signals.deferred())
        stack.enter_context(in_fixed_order(distributed.device))
        session = Session(
            work, distributed, received, lambda: None, max_steps, on_start=on_start, on_step=on_step
        )
        process = FineTuningProcess(session, made)
        try:
            progress = process.resume().progress
        except RollBack as error:
            raise DivergedError(str(error), str(out), "use a lower learning rate") from error
        if not progress.finished:
            what = f"stopped at step {progress.step}, the state is saved"
            raise StoppedError(what, str(out), "the same command resumes", received.number or 0)
        assert progress.best is not None
        info = _write(process, progress.best, work, out, key) if distributed.is_main else {}
        return distributed.broadcast_object(info)


def _finished(out: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """Return finetune.json of a finished run of the same recipe and data, or None for a new run."""
    check_output(out)
    if not (out / INFO).is_file():
        return None
    found = read_json_object(out / INFO)
    if {name: found.get(name) for name in key} == key:
        return found
    what = "the output is the model of another run"
    raise OutputExistsError(what, str(out), "choose another directory, or delete this one")


def _check_unfinished(out: Path, key: dict[str, Any]) -> None:
    """Raise InputError if there is unfinished work of another run, which would be removed."""
    work = out.absolute().parent / f".{out.name}{UNFINISHED}"
    if state.steps(work) and read_json_object(work / "plan.json") != key:
        how = "repeat its command, choose another --out, or delete the directory"
        raise InputError("there is an unfinished run of other settings or data", str(work), how)


def check_output(out: Path) -> None:
    """Raise OutputExistsError if something other than a fine-tuned model is at a path."""
    if (
        out.exists()
        and not (out / INFO).is_file()
        and not (out.is_dir() and not any(out.iterdir()))
    ):
        how = "choose another directory, or delete this one"
        raise OutputExistsError("the output exists", str(out), how)


def _write(
    process: FineTuningProcess, best: Best, work: Path, out: Path, key: dict[str, Any]
) -> dict[str, Any]:
    """Write the model of the best epoch with its metrics, and return finetune.json."""
    made, model = process.plan, process.model
    model.load_state_dict(state.find(work, best.step).weights_and_optimizer_state()[0])
    if made.recipe.lora_rank:
        lora.merge(process.lora)
    model.eval()
    kind, evaluated = made.train.kind, made.evaluated()
    logits = {
        name: logits_of(model, examples.renumbered(made.tokens), process.stepper.dtype)
        for name, (_, examples) in evaluated.items()
    }
    scale = temperature(kind, made.parts.dev.labels, logits["dev"], made.labels)
    scaled = {name: [row / scale for row in rows] for name, rows in logits.items()}
    thresholds: dict[str, float] = {}
    if made.recipe.thresholds:
        thresholds = best_thresholds(made.parts.dev.labels, scaled["dev"], made.labels)
    results = {
        name: made.measure(*evaluated[name], rows, thresholds) for name, rows in scaled.items()
    }
    seconds = sum(line["seconds"] for line in run_log.read(work))
    info: dict[str, Any] = {
        **results, "epoch": best.epoch, "seconds": round(seconds, 1), "temperature": scale,
        "thresholds": thresholds, "documents": {"train": len(made.train), "dev": len(made.dev)},
        "truncated": made.train.truncated, **key, "motherbird": __version__,
        "machine": {
            **machine.describe(process.stepper.threads.count),
            "device": str(process.distributed.device),
        },
    }  # fmt: skip

    def write_more(directory: Path) -> None:
        hf_config.write_head(directory, HeadConfig(model.labels, kind, scale, thresholds))
        text = json.dumps(info, indent=1, ensure_ascii=False) + "\n"
        (directory / INFO).write_text(text, encoding="utf-8")
        shutil.copyfile(work / run_log.LOG, directory / run_log.LOG)
        name = out.absolute().name
        tuning_card.write(directory, name, made, info)
        tuning_report.write(directory, name, made, info, logits, work)

    whole = initial_model(made).model.embeddings.tok_embeddings.weight.detach()
    embedding = model.model.embeddings.tok_embeddings
    whole[made.tokens] = embedding.weight.detach().cpu()
    embedding.weight = nn.Parameter(whole)
    checkpoint.save(model, out, write_more=write_more)
    return info
