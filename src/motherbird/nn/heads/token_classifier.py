"""Token classification: logits for each token."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..model import GraphBuilder
from ..packed import Packed, pack
from .base import IGNORED
from .classifier import Classifier


class Example(NamedTuple):
    """A document's token ids and the index of each token's label, or `IGNORED`."""

    ids: Sequence[int]
    labels: Sequence[int]


class TokenClassifier(Classifier[Example]):
    """An encoder with a classifier on each token."""

    architecture = "ModernBertForTokenClassification"
    axis = "tokens"

    def forward(self, packed: Packed) -> Float[Tensor, "T C"]:
        """Return the logits of each token."""
        return self.classify(self.model(packed))

    def loss(  # type: ignore[override]
        self, packed: Packed, targets: Int[Tensor, " T"]
    ) -> Float[Tensor, ""]:
        """Return the sum of the cross entropy in nats over the tokens that have a label."""
        logits = self(packed).float()
        targets = targets.to(logits.device)
        return cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")

    @staticmethod
    def collate(rows: Sequence[Example]) -> tuple[Packed, Int[Tensor, " T"]]:
        """Pack documents, with the labels of their tokens."""
        labels = [label for row in rows for label in row.labels]
        return pack([row.ids for row in rows]), torch.tensor(labels)

    def export(self, graph: GraphBuilder, states: str) -> str:
        """Build head and classifier."""
        return graph.linear(graph.prediction_head(states), "classifier")
