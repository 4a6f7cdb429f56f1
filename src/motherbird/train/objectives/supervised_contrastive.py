"""Supervised contrastive training (Khosla et al. 2020): bring texts of one label together."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from ...arrays import Float
from ...nn.heads import SequenceClassifier
from .labels import LabelledBatch


@dataclass(frozen=True, eq=False)
class SupervisedContrastiveObjective:
    """Cross entropy of the texts with the same label, among all others of the micro-batch.

    The vector of a text is that which the classifier takes, scaled to length 1.
    """

    model: SequenceClassifier
    temperature: float = 0.3  # divides the cosine similarities

    def weight(self, batch: LabelledBatch) -> int:
        """Return the number of texts."""
        return len(batch.targets)

    def loss(self, batch: LabelledBatch) -> Float[Tensor, ""]:
        """Return the sum over texts of the mean cross entropy of those with the same label.

        A text whose label no other one has adds nothing.
        """
        vectors = normalize(self.model.head(self.model.pooled(batch.packed)).float(), dim=-1)
        targets = batch.targets.to(vectors.device)
        itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
        with torch.autocast(vectors.device.type, enabled=False):
            scores = (vectors @ vectors.T / self.temperature).masked_fill(itself, float("-inf"))
            probabilities = log_softmax(scores, dim=1).masked_fill(itself, 0.0)
        same = (targets[:, None] == targets) & ~itself
        return -((probabilities * same).sum(1) / same.sum(1).clamp(min=1)).sum()
