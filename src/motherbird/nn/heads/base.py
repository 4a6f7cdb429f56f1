"""What a model with a head declares, and the layers that heads share."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...core.config import EncoderConfig, Pooling
from .. import init
from ..encoder import ACTIVATIONS, Encoder, Norm
from ..model import Model
from ..packed import Packed

Example = TypeVar("Example", bound=tuple[Any, ...])
IGNORED = -100  # a target that does not count, as in torch and transformers


def pool(x: Float[Tensor, "T D"], packed: Packed, how: Pooling) -> Float[Tensor, "S D"]:
    """Pool token vectors to one vector per document: the first token's ("cls"), or the mean.

    Returns:
        float32 (or wider), whatever the dtype of ``x``.
    """
    starts = packed.cu_seqlens.to(x.device, torch.int64)
    wide = torch.promote_types(x.dtype, torch.float32)
    if how == "cls":
        return x[starts[:-1]].to(wide)
    lengths = starts.diff()
    sums = torch.zeros(len(lengths), x.shape[1], dtype=wide, device=x.device)
    sums = sums.index_add(0, packed.documents.to(x.device), x.to(wide))
    return sums / lengths[:, None]


class PredictionHead(nn.Module):
    """Dense layer, activation and norm: the layers that all heads of the family start with."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.dense = nn.Linear(size, size, bias=config.classifier_bias)
        self.activation = ACTIVATIONS[config.classifier_activation]
        self.norm = Norm(config)

    def forward(self, x: Float[Tensor, "rows D"]) -> Float[Tensor, "rows D"]:
        """Apply the layers to each row."""
        return self.norm(self.activation(self.dense(x)))


class HeadModel(Model, Generic[Example]):
    """Base class of the models with a head: one file each, listed in `motherbird.nn.heads.HEADS`.

    Args:
        encoder: an encoder, or a configuration to build one from.
        attention: the attention kernel of an encoder that is built; see `Encoder`.
    """

    output = "logits"

    def __init__(self, encoder: Encoder | EncoderConfig, attention: str = "auto") -> None:
        super().__init__()
        if isinstance(encoder, EncoderConfig):
            encoder = Encoder(encoder, attention)
        self.model = encoder
        self.head = PredictionHead(encoder.config)

    def _init_weights(self) -> None:
        """Initialize the head, on the encoder's device and in its dtype."""
        init.init_weights(self, self.model.config)
        self.to(self.model.device, self.model.final_norm.weight.dtype)

    @property
    def encoder(self) -> Encoder:
        """The encoder under the head."""
        return self.model

    def loss(self, packed: Packed, *targets: Tensor) -> Float[Tensor, ""]:
        """Return the sum of the loss over a batch of `collate`."""
        raise NotImplementedError

    @staticmethod
    def collate(rows: Sequence[Example]) -> tuple[Packed, *tuple[Tensor, ...]]:
        """Make the arguments of `loss` from rows of data."""
        raise NotImplementedError
