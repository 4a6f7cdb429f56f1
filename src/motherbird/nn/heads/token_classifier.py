"""Token classification: logits for each token."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...arrays import Float, Int
from ...errors import InputError, counted
from ..model import GraphBuilder
from ..packed import Packed, pack
from .base import IGNORED, as_integers, check_targets
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
        check_targets(
            targets, self.size, ignored=True,
            where=lambda row: f"document {packed.documents[row]}, token {packed.positions[row]}",
        )  # fmt: skip
        logits = self(packed).float()
        targets = targets.to(logits.device)
        return cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")

    @staticmethod
    def collate(rows: Sequence[Example]) -> tuple[Packed, Int[Tensor, " T"]]:
        """Pack documents, with the labels of their tokens."""
        packed = pack([row.ids for row in rows])
        labels: list[int] = []
        for number, (row, tokens) in enumerate(zip(rows, packed.lengths, strict=True)):
            own = as_integers(row.labels, "label", f"document {number}")
            if len(own) != tokens:
                what = (
                    f"the document has {counted(tokens, 'token')} and {counted(len(own), 'label')}"
                )
                how = f"pass a label for each token, {IGNORED} for none"
                raise InputError(what, f"document {number}", how)
            labels += own
        return packed, torch.tensor(labels, device="cpu")

    def export(self, graph: GraphBuilder, states: str) -> str:
        """Build head and classifier."""
        return graph.linear(graph.prediction_head(states), "classifier")
