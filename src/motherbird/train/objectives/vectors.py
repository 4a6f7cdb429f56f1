"""Distillation: learn the vectors of a teacher."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import mse_loss

from ...nn.vectors import VectorModel
from .texts import TextsBatch, counted, nothing


@dataclass(frozen=True, eq=False)
class VectorsObjective:
    """1 - the cosine with the teacher's vector, and the squared error of the cosines of pairs.

    All pairs of texts of a step are to have the cosine that the teacher's vectors have.
    """

    model: VectorModel
    cosines: float  # weight of the mean squared error of the cosines of pairs

    def weight(self, batch: TextsBatch) -> int:
        """Return the number of texts."""
        return len(batch.sizes) * batch.counts

    def joint_loss(
        self, batches: Sequence[TextsBatch], vectors: Sequence[Float[Tensor, "_rows size"]]
    ) -> Float[Tensor, ""]:
        """Return the sum of the loss over all texts."""
        found = counted(batches, vectors)
        if not found:
            return nothing(vectors)
        own = torch.cat(found)
        targets = [batch.targets for batch in batches if batch.counts]
        wanted = torch.cat([each for each in targets if each is not None]).to(own.device)
        loss = 1 - (own * wanted).sum(dim=1).mean()
        if self.cosines:
            loss = loss + self.cosines * mse_loss(own @ own.T, wanted @ wanted.T)
        return loss * len(own) + nothing(vectors)
