"""Contrastive training: bring the vectors of a question and of its answer together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from ...core.tokenizer import Tokenizer
from ...errors import InputError
from ...nn.encoder import Encoder
from ...nn.heads import pool
from ...nn.packed import Packed, pack


@dataclass(frozen=True)
class PairBatch:
    """Pairs of texts."""

    packed: Packed  # all questions, then all answers, in the same order
    pairs: int  # number of pairs


def pair_batch(
    tokenizer: Tokenizer, questions: Sequence[str], answers: Sequence[str], max_length: int
) -> PairBatch:
    """Tokenize and pack pairs; texts longer than ``max_length`` tokens are truncated."""
    if len(questions) != len(answers) or not questions:
        raise InputError(f"questions ({len(questions)}) and answers ({len(answers)}) are not pairs")
    ids = tokenizer.encode_batch([*questions, *answers])
    return PairBatch(pack([tokenizer.truncate(each, max_length) for each in ids]), len(questions))


@dataclass(frozen=True)
class ContrastiveObjective:
    """InfoNCE with in-batch negatives, in both directions (van den Oord et al. 2018).

    Question i belongs to answer i and to no other answer of the micro-batch.
    """

    model: Encoder  # the encoder; the vector of a text is the mean of its token vectors
    temperature: float = 0.05  # divides the cosine similarities

    def weight(self, batch: PairBatch) -> int:
        """Return the number of pairs."""
        return batch.pairs

    def loss(self, batch: PairBatch) -> Float[Tensor, ""]:
        """Return the sum over pairs of the cross entropy of the right answer, in nats."""
        vectors = normalize(pool(self.model(batch.packed), batch.packed, "mean").float(), dim=-1)
        with torch.autocast(vectors.device.type, enabled=False):
            scores = vectors[: batch.pairs] @ vectors[batch.pairs :].T / self.temperature
        right = torch.arange(batch.pairs, device=scores.device)
        both = [cross_entropy(s, right, reduction="sum") for s in (scores, scores.T)]
        return (both[0] + both[1]) / 2
