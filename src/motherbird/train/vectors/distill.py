"""Distillation: a student learns the vectors of a teacher, of which nothing else is used.

As in LEAF (Vujanic and Rueckstiess 2025), texts of all kinds are learned alike, without labels.
The student's vector is a linear map of its pooled token vectors; the map begins as the best one
(least squares) for the student as it is.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import nn

from ... import __version__, machine, strict
from ...core.config import EncoderConfig, Pooling
from ...core.measure import Metrics
from ...data.samples import sample_texts
from ...errors import counted
from ...models.dense import Dense
from ...models.embedder import Embedder
from ...nn.heads import pool
from ...nn.packed import Packed
from ...nn.vectors import VectorModel
from .. import run_log, state
from ..distributed import Distributed
from ..objectives import JointObjective
from ..objectives.texts import TextsBatch
from ..objectives.vectors import VectorsObjective
from ..predict import vectors_of
from ..process import Session
from ..rows import steps_per_epoch
from ..state import Best
from ..tuning_process import TuningProcess
from ..tuning_run import INFO, SILENT, Caller, restore_embeddings, run
from .initial import Start, find_start
from .recipe import Distillation
from .rows import TextRows
from .teacher import Teacher

HELD_OUT = 50  # every so many texts are not trained on
SAMPLE = 4096  # texts on which the linear map begins
RIDGE = 1e-3  # of the mean squared length of a student's vector
EPOCHS = 5
SCALE = 0.5  # root mean square of the linear map at the beginning


@dataclass(frozen=True, eq=False)
class DistillationPlan:
    """What a run learns from, before the first step."""

    recipe: Distillation
    start: Start
    teacher: Teacher
    texts: list[str]
    rows: TextRows  # of all texts, with the teacher's vectors once they are computed
    metric: str = "cosine"

    @property
    def config(self) -> EncoderConfig:
        """The configuration of the encoder."""
        return self.start.config

    @property
    def pooling(self) -> Pooling:
        """The pooling of the student."""
        return self.recipe.pooling or "mean"

    @property
    def epochs(self) -> int:
        """The number of epochs."""
        return self.recipe.epochs or EPOCHS

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps of an epoch."""
        return steps_per_epoch(len(self.part(held_out=False)), self.recipe.batch_size)

    @cached_property
    def tokens(self) -> NDArray[np.int32]:
        """The ids of all tokens that occur, ascending."""
        return self.rows.tokens()

    def part(self, *, held_out: bool) -> TextRows:
        """Return the texts that are trained on, or those that are held out."""
        chosen = [n for n in range(len(self.rows)) if (n % HELD_OUT == 0) == held_out]
        targets = self.rows.targets
        return TextRows(
            [self.rows.ids[n] for n in chosen],
            [1] * len(chosen),
            None if targets is None else targets[chosen],
        )

    def lines(self) -> list[str]:
        """Return what will be done as lines of text."""
        rows, start = self.rows, self.start
        begins = "the model" if start.static is None else "static vectors"
        layers, width = self.config.num_hidden_layers, self.config.hidden_size
        cut = f"; {rows.truncated:,} truncated" if rows.truncated else ""
        return [
            f"{len(rows):,} texts of {np.mean(rows.lengths):.0f} tokens on average{cut}; every "
            f"{HELD_OUT}th is held out",
            f"an encoder of {layers} layers of {width} starts from {begins}",
            f"{counted(self.epochs, 'epoch')} of {counted(self.steps_per_epoch, 'step')}, learning "
            f"rate {self.recipe.peak(self.config):.2g}",
        ]

    def key(self) -> dict[str, Any]:
        """Return what the result depends on, besides the machine."""
        settings = strict.plain(self.recipe)
        for name in ("timeout", "save_every"):
            settings.pop(name)
        return {
            "recipe": settings, "base": self.start.digest(), "teacher": self.teacher.digest(),
            "data": [self.rows.digest()],
        }  # fmt: skip


class DistillationProcess(TuningProcess[TextsBatch]):
    """A process of a distillation run."""

    model: VectorModel
    train: TextRows

    def __init__(self, session: Session, plan: DistillationPlan) -> None:
        super().__init__(session, plan)
        self.plan = plan
        self.train = plan.part(held_out=False).renumbered(plan.tokens)
        self.dev = plan.part(held_out=True).renumbered(plan.tokens)

    def initial_model(self) -> VectorModel:
        """Return the student, whose linear map is the best one for it."""
        plan, targets = self.plan, self.train.targets
        assert targets is not None
        encoder = plan.start.encoder(plan.recipe.seed)
        projection = nn.Linear(plan.config.hidden_size, targets.shape[1], bias=False)
        model = VectorModel(encoder, plan.pooling, projection)
        self.keep_embeddings(model)

        def pooled(packed: Packed) -> torch.Tensor:
            return pool(encoder(packed), packed, plan.pooling)

        own = vectors_of(model, pooled, self.train.ids[:SAMPLE], torch.float32)
        # Vectors have length 1, so that the scale only decides how fast the map changes.
        weight = linear_fit(own, targets[:SAMPLE])
        projection.weight = nn.Parameter(weight * SCALE / weight.square().mean().sqrt())
        return model

    def objective(self) -> JointObjective[TextsBatch]:
        """Return what the model is trained for."""
        return VectorsObjective(self.model, self.plan.recipe.cosines)

    def dev_metrics(self) -> Metrics:
        """Return the mean cosine with the teacher on held-out texts."""
        own = vectors_of(self.model, self.model, self.dev.ids, self.stepper.dtype)
        return {"cosine": float((own * self.dev.targets).sum(axis=1).mean())}


def linear_fit(
    x: Float32[np.ndarray, "n D"], y: Float32[np.ndarray, "n d"]
) -> Float32[torch.Tensor, "d D"]:
    """Return the matrix W with the smallest error of x W^T, with a small penalty."""
    wide = x.astype(np.float64)
    square = wide.T @ wide
    penalty = RIDGE * np.trace(square) / len(square) * np.eye(len(square))
    found = np.linalg.solve(square + penalty, wide.T @ y.astype(np.float64))
    return torch.from_numpy(np.ascontiguousarray(found.T).astype(np.float32))


def distill_dense(
    recipe: Distillation,
    data: list[str],
    out: Path,
    *,
    vectors: Path | None = None,
    on_texts: Callable[[int, int], None] = lambda done, total: None,
    caller: Caller = SILENT,
) -> dict[str, Any]:
    """Train a student, or resume it, and write it as `Embedder.save` does.

    Args:
        recipe: defines the run.
        data: files of texts; see `data.samples.sample_texts`.
        out: directory of the model; if it is that of the same run, nothing is computed.
        vectors: directory in which the teacher's vectors are kept for other runs; by default they
            are kept until the model is written.
        on_texts: called on rank 0 with the number of texts whose teacher's vectors exist, and the
            number of all.
        caller: who is told what the run does; its device is the teacher's too.

    Returns:
        The content of finetune.json: "dev" has the mean cosine with the teacher.

    Raises:
        InputError: a model, the texts or the directory cannot be used.
        DivergedError: the loss is not finite.
        StoppedError: a signal or ``max_steps`` stopped it; its state is saved.
    """

    def make(distributed: Distributed) -> DistillationPlan:
        return distributed.in_turns(lambda: plan(recipe, data, caller.device))

    def with_targets(
        made: DistillationPlan, distributed: Distributed, work: Path
    ) -> DistillationPlan:
        found = None
        if distributed.is_main:
            done = 0

            def count(texts: int) -> None:
                nonlocal done
                done += texts
                on_texts(done, len(made.texts))

            found = made.teacher.vectors(made.texts, vectors or work / "teacher", count)
        targets = distributed.broadcast_object(found)
        return replace(made, rows=replace(made.rows, targets=targets))

    return run(
        make, DistillationProcess, _write, out, recipe.timeout, caller,
        prepare=with_targets, signs=("checkpoints", "teacher"),
    )  # fmt: skip


def plan(recipe: Distillation, data: list[str], device: str | None = None) -> DistillationPlan:
    """Load the teacher and what the student starts from, and choose and tokenize the texts."""
    start = find_start(recipe.model, recipe.preset)
    teacher = Teacher(recipe.teacher, device)
    texts = sample_texts(data, recipe.texts, recipe.seed, recipe.columns)
    longest = start.config.max_position_embeddings
    limit = min(recipe.max_length or longest, longest)
    whole = start.tokenizer.encode_batch(texts)
    ids = [np.array(start.tokenizer.truncate(each, limit), np.int32) for each in whole]
    truncated = sum(len(each) > limit for each in whole)
    rows = TextRows(ids, [1] * len(ids), truncated=truncated)
    return DistillationPlan(recipe, start, teacher, texts, rows)


def _write(
    process: DistillationProcess, best: Best, work: Path, out: Path, key: dict[str, Any]
) -> dict[str, Any]:
    """Write the student of the best epoch, and return finetune.json."""
    made, model = process.plan, process.model
    model.load_state_dict(state.find(work, best.step).weights_and_optimizer_state()[0])
    model = model.cpu().eval()
    metrics = process.dev_metrics()
    lines = list(run_log.read(work))
    info: dict[str, Any] = {
        "dev": metrics, "epoch": best.epoch,
        "seconds": round(sum(line["seconds"] for line in lines), 1),
        "curve": [line["evaluation"]["cosine"] for line in lines if "evaluation" in line],
        "documents": {"train": len(process.train), "dev": len(process.dev)},
        "truncated": made.rows.truncated, "teacher_name": Path(made.recipe.teacher).name, **key,
        "motherbird": __version__, "machine": machine.describe(process.stepper.threads.count),
    }  # fmt: skip
    restore_embeddings(model.encoder, made.start.encoder(made.recipe.seed), made.tokens)
    assert model.projection is not None
    dense = Dense(model.projection.weight.detach().numpy())

    def write_more(directory: Path) -> None:
        text = json.dumps(info, indent=1, ensure_ascii=False) + "\n"
        (directory / INFO).write_text(text, encoding="utf-8")
        shutil.copyfile(work / run_log.LOG, directory / run_log.LOG)

    Embedder(model.encoder, made.pooling, dense=[dense]).save(out, write_more)
    return info
