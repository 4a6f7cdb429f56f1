"""Sequence classification: logits for each document."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...arrays import Float, Int
from ..model import GraphBuilder
from ..packed import Packed, pack
from .base import as_integers, check_targets, pool
from .classifier import Classifier


class Example(NamedTuple):
    """A document's token ids and the index of its label."""

    ids: Sequence[int]
    label: int


class SequenceClassifier(Classifier[Example]):
    """An encoder with a classifier on the pooled document ("cls" or "mean", see the config)."""

    architecture = "ModernBertForSequenceClassification"
    axis = "documents"

    def forward(self, packed: Packed) -> Float[Tensor, "S C"]:
        """Return the logits of each document."""
        return self.classify(self.pooled(packed))

    def pooled(self, packed: Packed) -> Float[Tensor, "S D"]:
        """Return the vector of each document, which the head takes."""
        states = self.model(packed)
        return pool(states, packed, self.model.config.classifier_pooling).to(states.dtype)

    def loss(  # type: ignore[override]
        self, packed: Packed, targets: Int[Tensor, " S"]
    ) -> Float[Tensor, ""]:
        """Return the sum of the cross entropy in nats over the documents."""
        check_targets(targets, self.size, "document {}".format)
        logits = self(packed).float()
        return cross_entropy(logits, targets.to(logits.device), reduction="sum")

    @staticmethod
    def collate(rows: Sequence[Example]) -> tuple[Packed, Int[Tensor, " S"]]:
        """Pack documents, with their labels."""
        labels = [as_integers([row.label], "label", f"document {n}") for n, row in enumerate(rows)]
        return pack([row.ids for row in rows]), torch.tensor(labels, device="cpu").flatten()

    def export(self, graph: GraphBuilder, states: str) -> str:
        """Build pooling, head and classifier."""
        pooled = graph.pool(states, self.model.config.classifier_pooling)
        return graph.linear(graph.prediction_head(pooled), "classifier")
