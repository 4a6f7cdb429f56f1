"""Fine-tuning: predict labels of documents or tokens, or a number."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from ...arrays import Float, Shaped
from ...core.measure import Kind
from ...nn.heads import IGNORED, SequenceClassifier, TokenClassifier
from ...nn.packed import Packed


@dataclass(frozen=True, eq=False)
class LabelledBatch:
    """Documents and what to predict for them."""

    packed: Packed
    # the index of a label (S,), 1 for each label that is true (S, C), a number (S, 1), or the index
    # of the label of each token (T,), `IGNORED` for tokens without one
    targets: Shaped[Tensor, "..."]
    counts: bool = True  # False for one without a loss, so that every rank has as many as others


@dataclass(frozen=True, eq=False)
class LabelsObjective:
    """Cross entropy ("single", "tags"), binary cross entropy ("multi") or squared error ("number").

    They are those of transformers' heads. ``weights`` (C,) multiply the terms of each label; their
    mean over the training data is 1.
    """

    model: SequenceClassifier | TokenClassifier
    kind: Kind
    weights: Float[Tensor, " C"] | None = None

    def weight(self, batch: LabelledBatch) -> int:
        """Return the number of documents, or of what is predicted for them."""
        if not batch.counts:
            return 0
        if self.kind == "tags":
            return int((batch.targets != IGNORED).sum())
        return batch.targets.numel()

    def loss(self, batch: LabelledBatch) -> Float[Tensor, ""]:
        """Return the sum of the loss over all terms."""
        logits = self.model(batch.packed).float()
        targets = batch.targets.to(logits.device)
        with torch.autocast(logits.device.type, enabled=False):
            return batch.counts * self._sum(logits, targets)

    def _sum(self, logits: Float[Tensor, "rows C"], targets: Tensor) -> Float[Tensor, ""]:
        if self.kind == "number":
            return mse_loss(logits, targets, reduction="sum")
        if self.kind == "multi":
            return binary_cross_entropy_with_logits(logits, targets, self.weights, reduction="sum")
        return cross_entropy(logits, targets, self.weights, ignore_index=IGNORED, reduction="sum")
