"""Distillation: learn the vectors of a teacher."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from ...arrays import Float
from .texts import TextsBatch, TextsObjective


@dataclass(frozen=True, eq=False)
class VectorsObjective(TextsObjective):
    """1 - the cosine with the teacher's vector, and the squared error of the cosines of pairs.

    All pairs of texts of a step are to have the cosine that the teacher's vectors have.
    """

    cosines: float  # weight of the mean squared error of the cosines of pairs

    def sum_over_rows(
        self, batches: Sequence[TextsBatch], vectors: Sequence[Float[Tensor, "_rows size"]]
    ) -> Float[Tensor, ""]:
        """Return the sum of the loss over all texts."""
        own = torch.cat(list(vectors))
        targets = [batch.targets for batch in batches]
        wanted = torch.cat([each for each in targets if each is not None]).to(own.device)
        loss = 1 - (own * wanted).sum(dim=1).mean()
        if self.cosines:
            loss = loss + self.cosines * mse_loss(own @ own.T, wanted @ wanted.T)
        return loss * len(own)
