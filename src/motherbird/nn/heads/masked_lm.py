"""The masked-LM head, with which encoders are pretrained."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from ...arrays import Float, Int
from ...core.config import EncoderConfig
from ...errors import InputError, counted
from ..cross_entropy import cross_entropy
from ..encoder import Encoder
from ..model import GraphBuilder
from ..packed import Packed, pack
from .base import HeadModel, as_integers, check_targets


class Example(NamedTuple):
    """A document with masked tokens: its ids, the masked positions, and the original ids there."""

    ids: Sequence[int]
    positions: Sequence[int]
    targets: Sequence[int]


class Decoder(nn.Module):
    """The output layer from D to V. The weight is the embedding's unless the two are untied."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        shape = (config.vocab_size, config.hidden_size)
        tied, bias = config.tie_word_embeddings, config.decoder_bias
        self.register_parameter("weight", None if tied else nn.Parameter(torch.empty(shape)))
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(config.vocab_size)) if bias else None
        )

    def forward(
        self, x: Float[Tensor, "rows D"], embedding: Float[Tensor, "V D"]
    ) -> Float[Tensor, "rows V"]:
        """Compute the logits, with the embedding's weight if the two are tied."""
        return linear(x, embedding if self.weight is None else self.weight, self.bias)


class MaskedLM(HeadModel[Example]):
    """An encoder with a masked-LM head: logits over the vocabulary for each token."""

    architecture = "ModernBertForMaskedLM"
    axis = "tokens"

    def __init__(self, encoder: Encoder | EncoderConfig, attention: str = "auto") -> None:
        super().__init__(encoder, attention)
        self.decoder = Decoder(self.model.config)
        self._init_weights()

    @property
    def size(self) -> int:
        """V, the number of logits of a token."""
        return self.model.config.vocab_size

    def forward(
        self, packed: Packed, positions: Int[Tensor, " rows"] | None = None
    ) -> Float[Tensor, "rows V"]:
        """Return the logits of all tokens, or of the tokens at some positions in the batch."""
        x = self.model(packed)
        if positions is not None:
            x = x[positions.to(x.device)]
        return self.decoder(self.head(x), self.model.embeddings.tok_embeddings.weight)

    def loss(  # type: ignore[override]
        self, packed: Packed, positions: Int[Tensor, " M"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, ""]:
        """Return the sum of the cross entropy in nats over M masked positions."""
        check_targets(targets, self.size, "masked token {}".format)
        x = self.head(self.model(packed)[positions.to(self.model.device)])
        own, tied = self.decoder.weight, self.model.embeddings.tok_embeddings.weight
        weight = tied if own is None else own
        return cross_entropy(x, weight, self.decoder.bias, targets.to(x.device))

    @classmethod
    def with_new_head(cls, encoder: Encoder, seed: int) -> "MaskedLM":
        """Put a new head on a trained encoder; its first logits are small.

        Embeddings are the output layer too, if the two are tied. Those that began as static vectors
        have a length of sqrt(D), so that logits would have a standard deviation of sqrt(D).
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = cls(encoder)
        if encoder.config.tie_word_embeddings:
            lengths = encoder.embeddings.tok_embeddings.weight.detach().norm(dim=1)
            made.head.norm.weight.data /= lengths.mean().clamp(min=1)
        return made

    @staticmethod
    def collate(rows: Sequence[Example]) -> tuple[Packed, Int[Tensor, " M"], Int[Tensor, " M"]]:
        """Pack documents; positions become those in the batch."""
        packed = pack([row.ids for row in rows])
        positions: list[int] = []
        targets: list[int] = []
        start = 0
        for number, (row, tokens) in enumerate(zip(rows, packed.lengths, strict=True)):
            where = f"document {number}"
            own = as_integers(row.positions, "position", where)
            if outside := [p for p in own if not 0 <= p < tokens]:
                what = f"position {outside[0]} is outside the document"
                raise InputError(what, where, f"use 0 to {tokens - 1}")
            targets += as_integers(row.targets, "target", where)
            positions += [start + position for position in own]
            if len(positions) != len(targets):
                counts = (
                    f"{counted(len(own), 'position')} and {counted(len(row.targets), 'target')}"
                )
                raise InputError(f"the document has {counts}", where, "pass a target for each")
            start += tokens
        at = torch.tensor(positions, dtype=torch.int64, device="cpu")
        return packed, at, torch.tensor(targets, dtype=torch.int64, device="cpu")

    def export(self, graph: GraphBuilder, states: str) -> str:
        """Build the head for every token."""
        return graph.decoder(graph.prediction_head(states))
