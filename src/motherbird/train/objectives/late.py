"""Late interaction (ColBERT): the score of a document is the sum over the tokens of the query.

The score of a token of the query is its largest cosine with a token of the document (MaxSim).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from ...arrays import Float
from .texts import TextsBatch, TextsObjective, queries_and_documents


@dataclass(frozen=True, eq=False)
class LateObjective(TextsObjective):
    """Contrastive loss of MaxSim, or the divergence from the scores of a teacher.

    Without scores, it is the cross entropy of the first document of a row among all documents of
    the step (ColBERTv2). With scores, it is the KL divergence between the softmax of the teacher's
    and of the model's scores over the documents of a row; ``scaled``: each scaled to 0..1 before,
    as in JaColBERTv2.5 (Clavie 2024). Tokens of documents with ``skipped`` ids have no vector.
    """

    temperature: float = 1.0  # divides the scores
    scaled: bool = True
    skipped: tuple[int, ...] = ()

    def sum_over_rows(
        self, batches: Sequence[TextsBatch], vectors: Sequence[Float[Tensor, "_tokens size"]]
    ) -> Float[Tensor, ""]:
        """Return the sum of the loss over queries."""
        lengths = [n for batch in batches for n in batch.packed.lengths]
        tokens = list(torch.cat(list(vectors)).split(lengths))
        scores = [scores for batch in batches for scores in batch.scores]
        texts = queries_and_documents(batches, vectors[0].device)
        queries, documents = texts.queries.tolist(), texts.documents.tolist()
        if self.skipped:
            skipped = torch.tensor(self.skipped)
            ids = torch.cat([batch.packed.ids.cpu() for batch in batches]).split(lengths)
            for n in documents:
                tokens[n] = tokens[n][~torch.isin(ids[n], skipped).to(tokens[n].device)]
        if not scores:
            own = maxsim([tokens[n] for n in queries], [tokens[n] for n in documents])
            allowed = texts.others.clone()
            allowed[torch.arange(len(queries)), texts.right] = True
            own = (own / self.temperature).masked_fill(~allowed, float("-inf"))
            loss = cross_entropy(own, texts.right, reduction="sum")
        else:
            ends = [*queries[1:], len(tokens)]
            losses = [
                self._divergence(
                    maxsim([tokens[first]], tokens[first + 1 : end])[0],
                    torch.from_numpy(wanted).to(vectors[0]),
                )
                for first, end, wanted in zip(queries, ends, scores, strict=True)
            ]
            loss = torch.stack(losses).sum()
        return loss

    def _divergence(self, own: Float[Tensor, " m"], wanted: Float[Tensor, " m"]) -> Tensor:
        """Return the divergence of the scores of a row from those of a teacher."""
        both = [_scaled(scores) if self.scaled else scores for scores in (own, wanted)]
        first, second = (log_softmax(scores / self.temperature, dim=0) for scores in both)
        # The gradient of the divergence falls with the square of the temperature.
        return kl_div(first, second, log_target=True, reduction="sum") * self.temperature**2


def maxsim(
    queries: Sequence[Float[Tensor, "_tokens size"]],
    documents: Sequence[Float[Tensor, "_tokens size"]],
) -> Float[Tensor, "n m"]:
    """Return the score of each document for each query."""
    cosines = torch.cat(list(queries)) @ torch.cat(list(documents)).T
    largest = [part.max(dim=1).values for part in cosines.split([*map(len, documents)], dim=1)]
    of_tokens = torch.stack(largest, dim=1)
    return torch.stack([part.sum(dim=0) for part in of_tokens.split([*map(len, queries)])])


def _scaled(scores: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """Scale scores to 0..1."""
    low = scores.min()
    return (scores - low) / (scores.max() - low).clamp(min=1e-6)
