"""Several tasks of one model in one run: each row of a step has the loss of its task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import mse_loss, normalize

from ...arrays import Float
from ...nn.heads import pool
from ...nn.vectors import MultitaskModel
from .texts import TextsBatch, TextsObjective


@dataclass(frozen=True, eq=False)
class Part:
    """A loss of the rows of a task.

    Attributes:
        weight: factor of the loss.
        objective: of vectors; None for the loss of masked tokens, or of the scores of pairs.
        per_token: whether it takes the vectors of tokens, not of texts.
    """

    weight: float
    objective: TextsObjective | None = None
    per_token: bool = False


@dataclass(frozen=True, eq=False)
class MultitaskObjective:
    """The sum over rows of the losses of their tasks; see `objectives.JointObjective`.

    Vectors of tokens are computed once for all losses of a row. The weight of masked tokens is that
    of each of them, not of a row. The loss of scores is their squared error.
    """

    model: MultitaskModel
    tasks: Sequence[Sequence[Part]]  # the losses of each task

    def weight(self, batch: TextsBatch) -> int:
        """Return the number of rows."""
        return len(batch.sizes) * batch.counts

    def own_loss(self, batch: TextsBatch) -> Callable[[], Tensor] | None:
        """Return what computes the loss of a micro-batch of masked tokens or pairs, or None."""
        part = self.tasks[batch.task][0]
        if part.objective is not None:
            return None
        return partial(self._own_loss, batch, part.weight * batch.counts)

    def _own_loss(self, batch: TextsBatch, factor: float) -> Tensor:
        if batch.masked is not None:
            return factor * self.model.masked_loss(batch.packed, *batch.masked)
        assert batch.targets is not None
        scores = self.model.scores(batch.packed)
        return factor * mse_loss(scores, batch.targets.to(scores.device), reduction="sum")

    def joint_loss(
        self, batches: Sequence[TextsBatch], vectors: Sequence[Float[Tensor, "_tokens size"]]
    ) -> Float[Tensor, ""]:
        """Return the sum of the losses over all rows, given the vectors of tokens."""
        loss = torch.zeros((), device=vectors[0].device)
        for number, parts in enumerate(self.tasks):
            pairs = [pair for pair in zip(batches, vectors, strict=True) if pair[0].task == number]
            if not pairs:
                continue
            own, tokens = map(list, zip(*pairs, strict=True))
            for part in parts:
                assert part.objective is not None
                found = [
                    normalize(x if part.per_token else pool(x, batch.packed, "mean"), dim=-1)
                    for batch, x in zip(own, tokens, strict=True)
                ]
                loss = loss + part.weight * part.objective.joint_loss(own, found)
        return loss
