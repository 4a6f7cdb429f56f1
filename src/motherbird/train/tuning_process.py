"""A process of a fine-tuning run: an epoch is a phase, and the best epoch on dev is kept."""

import logging
from collections.abc import Callable, Generator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..core.measure import Metrics
from ..data.loader import Cursor
from ..errors import NoMemoryError
from ..nn.devices import DTYPES, fastest_dtype, warn_if_emulated
from ..nn.heads import IGNORED
from . import lora
from .examples import training_batches
from .objectives import Objective
from .objectives.labels import LabelledBatch, LabelsObjective
from .optimizer import Optimizer
from .predict import logits_of
from .process import Process, Session
from .recipe import Save
from .state import Best, Checkpoint, Progress
from .step import FLOAT16_SCALE, Stepper, StepReport
from .tuning_plan import HeadModel, Plan, initial_model

log = logging.getLogger(__name__)

LEAST_TOKENS = 64  # of a micro-batch


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
        return self.plan.epochs * self.plan.steps_per_epoch

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
        self.stepper = Stepper(
            self.objective(), optimizer, self.distributed, dtype, seed=recipe.seed
        )

    def objective(self) -> Objective[LabelledBatch]:
        """Return what the model is trained for."""
        return LabelsObjective(self.model, self.plan.train.kind, self._class_weights())

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
        return self.batches(progress), lambda now: lr.at(
            now.cursor.phase * count + now.cursor.consumed, total
        )

    def batches(
        self, progress: Progress
    ) -> Generator[tuple[list[LabelledBatch], Cursor], None, None]:
        """Return this rank's micro-batches of the steps of an epoch, and the cursor after each."""
        return training_batches(
            self.train, progress.cursor, self.recipe.batch_size,
            progress.micro_tokens or self.recipe.micro_tokens,
            self.distributed, self.stepper.threads.count,
        )  # fmt: skip

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
