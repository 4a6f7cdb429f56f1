"""Contrastive training: bring the vectors of a query and of its answer together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from ...arrays import Float
from .texts import TextsBatch, TextsObjective, queries_and_documents


@dataclass(frozen=True, eq=False)
class ContrastiveObjective(TextsObjective):
    """InfoNCE with in-batch negatives (van den Oord et al. 2018).

    The first document of a row answers its query. All other documents of the step count as wrong
    answers, except those of the same text. It is the multiple-negatives ranking loss of
    sentence-transformers; with ``dimensions``, the sum over them, as in Matryoshka representation
    learning (Kusupati et al. 2022).
    """

    temperature: float = 0.05  # divides the cosine similarities
    dimensions: tuple[int, ...] = ()  # numbers of first dimensions; empty: only all of them
    symmetric: bool = False  # the mean with the cross entropy of the right query of each answer

    def sum_over_rows(
        self, batches: Sequence[TextsBatch], vectors: Sequence[Float[Tensor, "_rows size"]]
    ) -> Float[Tensor, ""]:
        """Return the sum over queries of the cross entropy of the right answer, in nats."""
        own = torch.cat(list(vectors))
        texts = queries_and_documents(batches, own.device)
        allowed = texts.others.clone()
        allowed[torch.arange(len(texts.right)), texts.right] = True
        losses = []
        for size in self.dimensions or (own.shape[1],):
            part = normalize(own[:, :size], dim=1)
            scores = part[texts.queries] @ part[texts.documents].T / self.temperature
            scores = scores.masked_fill(~allowed, float("-inf"))
            losses.append(cross_entropy(scores, texts.right, reduction="sum"))
            if self.symmetric:
                number = torch.arange(len(texts.right), device=own.device)
                back = scores[:, texts.right].T
                losses[-1] = (losses[-1] + cross_entropy(back, number, reduction="sum")) / 2
        return torch.stack(losses).sum()
