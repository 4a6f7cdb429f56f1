"""A process of a fine-tuning run on labels."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..core.measure import Metrics
from ..nn.heads import IGNORED
from . import lora
from .examples import Examples
from .objectives import Objective
from .objectives.labels import LabelledBatch, LabelsObjective
from .predict import logits_of
from .process import Session
from .tuning_plan import HeadModel, Plan, initial_model
from .tuning_process import TuningProcess


class LabelsProcess(TuningProcess[LabelledBatch]):
    """A process of a fine-tuning run on labels."""

    less: ClassVar[str] = (
        "use a shorter --max-length, --set gradient_checkpointing=true or lora_rank=16"
    )
    model: HeadModel
    train: Examples

    def __init__(self, session: Session, plan: Plan) -> None:
        super().__init__(session, plan)
        self.plan, self.recipe = plan, plan.recipe
        self.train = plan.train.renumbered(plan.tokens)
        self.dev = plan.dev.renumbered(plan.tokens)

    def initial_model(self) -> HeadModel:
        """Return the model before the first step."""
        model = initial_model(self.plan)
        self.keep_embeddings(model)
        if self.recipe.lora_rank:
            self.lora = lora.add(model, self.recipe.lora_rank, self.recipe.seed)
        return model

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

    def dev_metrics(self) -> Metrics:
        """Evaluate the model on dev."""
        logits = logits_of(self.model, self.dev, self.stepper.dtype)
        return self.plan.measure(self.plan.parts.dev, self.plan.dev, logits)
