"""Several tasks of one model in one run: each row of a step has the loss of its task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ...arrays import Float
from ...nn.heads import pool
from ...nn.vectors import MultitaskModel
from .texts import TextsBatch, TextsObjective


@dataclass(frozen=True, eq=False)
class Part:
    """A loss of the rows of a task.

    Attributes:
        weight: factor of the loss.
        objective: of vectors; None for the loss of masked tokens.
        per_token: whether it takes the vectors of tokens, not of texts.
    """

    weight: float
    objective: TextsObjective | None = None
    per_token: bool = False


@dataclass(frozen=True, eq=False)
class MultitaskObjective:
    """The sum over rows of the losses of their tasks; see `objectives.JointObjective`.

    Vectors of tokens are computed once for all losses of a row. The weight of masked tokens is that
    of each of them, not of a row.
    """

    model: MultitaskModel
    tasks: Sequence[Sequence[Part]]  # the losses of each task

    def weight(self, batch: TextsBatch) -> int:
        """Return the number of rows."""
        return len(batch.sizes) * batch.counts

    def own_loss(self, batch: TextsBatch) -> Callable[[], Tensor] | None:
        """Return what computes the loss of a micro-batch of masked tokens, or None."""
        if batch.masked is None:
            return None
        [part] = self.tasks[batch.task]
        return partial(self._masked, batch, part.weight * batch.counts)

    def _masked(self, batch: TextsBatch, factor: float) -> Tensor:
        assert batch.masked is not None
        return factor * self.model.masked_loss(batch.packed, *batch.masked)

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
