"""Distillation: a student learns the vectors of a teacher, of which nothing else is used.

As in LEAF (Vujanic and Rueckstiess 2025), texts of all kinds are learned alike, without labels.
The student's vector is a linear map of its pooled token vectors. The map begins as the best one
(least squares) for the student as it is. If the student begins as static vectors and the mean of
the teacher's vectors is near 0, the map begins as a rotation, which keeps their ranking.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ...arrays import Float32
from ...core.config import Pooling
from ...core.measure import Metrics
from ...data.samples import sample_texts
from ...errors import counted
from ...models.dense import Dense
from ...models.embedder import Embedder
from ...nn.heads import pool
from ...nn.packed import Packed
from ...nn.vectors import VectorModel
from ..distributed import Distributed
from ..objectives import JointObjective
from ..objectives.texts import TextsBatch
from ..objectives.vectors import VectorsObjective
from ..predict import vectors_of
from ..process import Session
from ..state import Best
from ..tuning_process import Trained
from ..tuning_run import SILENT, Caller, run, write_info
from . import card
from .initial import find_start, to_static
from .plan import VectorsPlan, VectorsProcess
from .recipe import Distillation
from .rows import text_rows
from .teacher import Teacher

HELD_OUT = 50  # one of so many texts is not trained on
SAMPLE = 4096  # texts on which the linear map begins
RIDGE = 1e-3  # of the mean squared length of a student's vector
EPOCHS = 5
CENTERED = 0.1  # mean cosine of two random texts for the teacher, below which a rotation is used
SCALE = 0.5  # root mean square of the linear map at the beginning


@dataclass(frozen=True, eq=False, kw_only=True)
class DistillationPlan(VectorsPlan):
    """What a run learns from, before the first step."""

    recipe: Distillation
    teacher: Teacher
    texts: list[str]  # those that are held out first
    metric: str = "cosine"

    @property
    def pooling(self) -> Pooling:
        """The pooling of the student."""
        return self.recipe.pooling or self.start.modules.get("pooling", "mean")

    @property
    def epochs(self) -> int:
        """The number of epochs."""
        return self.recipe.epochs or EPOCHS

    def with_targets(self, vectors: Float32[np.ndarray, "texts size"]) -> "DistillationPlan":
        """Return the plan with the teacher's vectors of the texts."""
        dev, train = np.split(vectors, [len(self.dev)])
        return replace(
            self, train=replace(self.train, targets=train), dev=replace(self.dev, targets=dev)
        )

    def lines(self) -> list[str]:
        """Return what will be done as lines of text."""
        start, cut = self.start, self.train.truncated
        begins = "the model" if start.static is None else "static vectors"
        layers, width = self.config.num_hidden_layers, self.config.hidden_size
        return [
            f"{len(self.train):,} texts of {np.mean(self.train.lengths):.0f} tokens on average"
            + (f", {cut:,} truncated" if cut else "")
            + f"; {len(self.dev):,} more are held out",
            f"an encoder of {layers} layers of {width} starts from {begins}",
            f"{counted(self.epochs, 'epoch')} of {counted(self.steps_per_epoch, 'step')}, learning "
            f"rate {self.recipe.peak(self.config):.2g}",
        ]

    def key(self) -> dict[str, Any]:
        """Return what the result depends on, besides the machine."""
        return super().key() | {"teacher": self.teacher.digest}


class DistillationProcess(VectorsProcess):
    """A process of a distillation run."""

    def __init__(self, session: Session, plan: DistillationPlan) -> None:
        super().__init__(session, plan)
        self.plan = plan

    def initial_model(self) -> VectorModel:
        """Return the student with any linear map."""
        plan, targets = self.plan, self.train.targets
        assert targets is not None
        encoder = plan.start.encoder(plan.recipe.seed)
        projection = nn.Linear(plan.config.hidden_size, targets.shape[1], bias=False)
        model = VectorModel(encoder, plan.pooling, projection)
        self.keep_embeddings(model)
        return model

    def begin(self, model: Trained) -> None:
        """Give the student the best linear map or rotation for it as it is."""
        plan, targets = self.plan, self.train.targets
        assert targets is not None
        assert isinstance(model, VectorModel)
        assert model.projection is not None

        def pooled(packed: Packed) -> torch.Tensor:
            return pool(model.encoder(packed), packed, plan.pooling)

        own = vectors_of(model, pooled, self.train.ids[:SAMPLE], torch.float32)
        wanted, static = targets[:SAMPLE], plan.start.static
        around_zero = np.square(wanted.mean(axis=0)).sum() < CENTERED
        if static is not None and plan.pooling == "mean" and around_zero:
            basis = to_static(own.shape[1], static.table.shape[1], plan.recipe.seed)
            weight = rotation_fit(own, wanted, basis.astype(np.float32))
        else:
            weight = linear_fit(own, wanted)
        model.projection.weight = nn.Parameter(scaled(weight))

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


def scaled(weight: Float32[torch.Tensor, "d D"]) -> Float32[torch.Tensor, "d D"]:
    """Scale a map; vectors have length 1, so that it only decides how fast the map changes."""
    return weight * SCALE / weight.square().mean().sqrt()


def rotation_fit(
    x: Float32[np.ndarray, "n D"], y: Float32[np.ndarray, "n d"], basis: Float32[np.ndarray, "k D"]
) -> Float32[torch.Tensor, "d D"]:
    """Return the W that turns the part of x within a basis as close to y as a rotation can."""
    part = (x @ basis.T).astype(np.float64)
    u, _, vt = np.linalg.svd(y.astype(np.float64).T @ part, full_matrices=False)
    return torch.from_numpy((u @ vt @ basis).astype(np.float32))


def distill_dense(
    recipe: Distillation,
    data: list[str],
    out: Path,
    *,
    vectors: Path | None = None,
    sources: dict[str, str] | None = None,
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
        sources: where the texts are from, and the command, for the card.
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
        return distributed.in_turns(lambda: plan(recipe, data, sources or {}, caller.device))

    def prepare(made: DistillationPlan, distributed: Distributed, work: Path) -> DistillationPlan:
        found = np.zeros((0, made.teacher.size), np.float32)
        if distributed.is_main:
            done = 0

            def count(texts: int) -> None:
                nonlocal done
                done += texts
                on_texts(done, len(made.texts))

            found = made.teacher.vectors(made.texts, vectors or work / "teacher", count)
        return made.with_targets(distributed.broadcast_object(found))

    return run(
        make, DistillationProcess, _write, out, recipe.timeout, caller,
        prepare=prepare, signs=("checkpoints", "teacher"),
    )  # fmt: skip


def plan(
    recipe: Distillation, data: list[str], sources: dict[str, str], device: str | None = None
) -> DistillationPlan:
    """Load the teacher and what the student starts from, and choose and tokenize the texts."""
    start = find_start(recipe.model, recipe.preset)
    teacher = Teacher(recipe.teacher, device)
    texts = sample_texts(data, recipe.texts, recipe.seed, recipe.columns)
    longest = start.config.max_position_embeddings
    limit = min(recipe.max_length or longest, longest)

    held_out = -(-len(texts) // HELD_OUT)
    dev, train = (
        text_rows(start.tokenizer, some, limit) for some in (texts[:held_out], texts[held_out:])
    )
    return DistillationPlan(
        recipe=recipe, start=start, teacher=teacher, texts=texts, train=train, dev=dev,
        sources=sources,
    )  # fmt: skip


def _write(
    process: DistillationProcess, best: Best, work: Path, out: Path, key: dict[str, Any]
) -> dict[str, Any]:
    """Write the student of the best epoch, and return finetune.json."""
    made, model = process.plan, process.model
    info = process.finish(made, best, work, key)
    assert model.projection is not None
    dense = Dense(model.projection.weight.detach().numpy())

    student = Embedder(
        model.encoder, made.pooling, max_length=made.recipe.max_length, dense=[dense]
    )

    def write_more(directory: Path) -> None:
        write_info(directory, info, work)
        card.write(directory, out.absolute().name, made, info, student)

    student.save(out, write_more)
    return info
