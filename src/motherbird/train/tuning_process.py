"""A process of a run that trains a model further: an epoch is a phase, and the best one is kept."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..core.config import EncoderConfig
from ..core.measure import Metrics
from ..data.loader import Cursor
from ..errors import NoMemoryError
from ..nn.devices import DTYPES, fastest_dtype, warn_if_emulated
from ..nn.heads import HeadModel
from ..nn.vectors import MultitaskModel, VectorModel
from .objectives import JointObjective, Objective
from .optimizer import Optimizer
from .process import Process, Session
from .recipe import Save
from .rows import Rows, training_batches
from .state import Best, Checkpoint, Progress
from .step import FLOAT16_SCALE, Batch, Stepper, StepReport
from .tuning import Tuning

log = logging.getLogger(__name__)

Trained = HeadModel[Any] | VectorModel | MultitaskModel
LEAST_TOKENS = 64  # of a micro-batch


@runtime_checkable
class TuningPlan(Protocol):
    """What a run trains on and with, before the first step."""

    @property
    def recipe(self) -> Tuning:
        """The settings."""

    @property
    def config(self) -> EncoderConfig:
        """The configuration of the encoder."""

    @property
    def tokens(self) -> NDArray[np.int32]:
        """The ids of all tokens that occur, ascending; only these have embeddings in training."""

    @property
    def epochs(self) -> int:
        """The largest number of epochs."""

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps of an epoch."""

    @property
    def metric(self) -> str:
        """The metric on dev by which the best epoch is chosen; more is better."""

    def key(self) -> dict[str, Any]:
        """Return what the result depends on, besides the machine: two runs of one key are equal."""


class TuningProcess(Process[Batch]):
    """A process of a run that trains a model further.

    Attributes:
        train: the rows that it trains on, with ids that are positions in the tokens of the plan.
    """

    needs_checkpoints = True  # the best one is the result
    # what to do if memory does not suffice for the smallest micro-batch
    less: ClassVar[str] = "use a shorter max_length, or --set gradient_checkpointing=true"
    model: Trained
    train: Rows[Batch]

    def __init__(self, session: Session, plan: TuningPlan) -> None:
        super().__init__(session)
        self._plan, self._recipe = plan, plan.recipe
        self.saving = Save(every=plan.recipe.save_every, keep=1)

    @abstractmethod
    def initial_model(self) -> Trained:
        """Return the model before the first step."""

    def begin(self, model: Trained) -> None:
        """Change the model before the first step, on the CPU; called on rank 0."""

    @abstractmethod
    def objective(self) -> Objective[Batch] | JointObjective[Batch]:
        """Return what the model is trained for."""

    @abstractmethod
    def dev_metrics(self) -> Metrics:
        """Evaluate the model on dev; called on rank 0."""

    def steps(self) -> int:
        """Return the number of steps if the run does not end early."""
        return self._plan.epochs * self._plan.steps_per_epoch

    def initial_progress(self) -> Progress:
        """Return the state before the first step."""
        scale = FLOAT16_SCALE if self._recipe.dtype == "float16" else 1.0
        return Progress(Cursor(self._recipe.seed), scale=scale)

    def build(self, progress: Progress, found: Checkpoint | None) -> None:
        """Create or restore model and optimizer on rank 0, and send them to the other ranks."""
        recipe, device = self._recipe, self.distributed.device
        model = self.initial_model()
        model.encoder.gradient_checkpointing = recipe.gradient_checkpointing
        optimizer_state: dict[str, Tensor] | None = None
        if found is not None:
            tensors, optimizer_state = found.weights_and_optimizer_state()
            model.load_state_dict(tensors)
        elif self.distributed.is_main:
            self.begin(model)
        self.model = model.to(device).train()
        layers = self._plan.config.num_hidden_layers
        optimizer = Optimizer(
            self.model, recipe.optimizer, lambda name: recipe.layer_scale(name, layers)
        )
        optimizer.restore(optimizer_state, progress.updates)
        self.broadcast(optimizer)
        dtype = fastest_dtype(device) if recipe.dtype == "auto" else DTYPES[recipe.dtype]
        if self.distributed.is_main:
            warn_if_emulated(dtype, device)
        self.stepper = Stepper(
            self.objective(), optimizer, self.distributed, dtype, seed=recipe.seed,
            micro_tokens=progress.micro_tokens or recipe.micro_tokens,
        )  # fmt: skip

    def keep_embeddings(self, model: Trained) -> None:
        """Keep the embeddings of tokens that occur; on a CPU, their gradients are sparse."""
        embedding = model.encoder.embeddings.tok_embeddings
        embedding.weight = nn.Parameter(embedding.weight.detach()[self._plan.tokens])
        embedding.sparse = self.distributed.device.type == "cpu"

    def begin_phase(
        self, progress: Progress
    ) -> tuple[Generator[tuple[list[Batch], Cursor], None, None], Callable[[Progress], float]]:
        """Return the steps of an epoch, which is a phase of the run, from the cursor on."""
        recipe, count = self._recipe, len(self.train)
        total = self._plan.epochs * count
        lr = recipe.schedule(self._plan.config, total)
        self.stepper.optimizer.begin_phase(lr.peak, recipe.weight_decay)
        return self.batches(progress), lambda now: lr.at(
            now.cursor.phase * count + now.cursor.consumed, total
        )

    def batches(self, progress: Progress) -> Generator[tuple[list[Batch], Cursor], None, None]:
        """Return this rank's micro-batches of the steps of an epoch, and the cursor after each."""
        return training_batches(
            self.train, progress.cursor, self._recipe.batch_size,
            progress.micro_tokens or self._recipe.micro_tokens,
            self.distributed, self.stepper.threads.count,
        )  # fmt: skip

    def less_memory(self, progress: Progress, error: NoMemoryError) -> Progress:
        """Halve the micro-batches."""
        tokens = (progress.micro_tokens or self._recipe.micro_tokens) // 2
        if tokens < LEAST_TOKENS or self.distributed.world_size > 1:
            raise NoMemoryError(error.what, str(self.run), self.less) from error
        if self.distributed.device.type == "cuda":
            torch.cuda.empty_cache()
        log.warning("out of memory: the step is repeated with micro-batches of %d tokens", tokens)
        self.stepper.micro_tokens = tokens
        return replace(progress, micro_tokens=tokens)

    def complete(self, report: StepReport) -> tuple[StepReport, Progress, bool]:
        """Evaluate on dev after every epoch, and end the run where it does not improve."""
        progress, cursor = report.progress, report.progress.cursor
        epoch = cursor.phase + 1
        report = replace(report, phase=f"epoch {epoch}")
        if cursor.consumed < len(self.train):
            return report, progress, False
        own = self.dev_metrics() if self.distributed.is_main else {}
        metrics = self.distributed.broadcast_object(own)
        value = metrics[self._plan.metric]
        best = progress.best
        if best is None or best.value is None or (value is not None and value > best.value):
            best = Best(progress.step, epoch, value)
        patience = self._recipe.patience
        over = epoch == self._plan.epochs or bool(patience and epoch - best.epoch >= patience)
        progress = replace(
            progress, best=best, finished=over, phase_ends=[*progress.phase_ends, progress.step],
            cursor=replace(cursor, phase=epoch, consumed=0),
        )  # fmt: skip
        return replace(report, evaluation=metrics), progress, True

    def kept_steps(self, progress: Progress) -> list[int]:
        """Return the best step."""
        return [] if progress.best is None else [progress.best.step]
