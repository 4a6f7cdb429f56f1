"""What a model with a head declares, and the layers that heads share."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ...arrays import Float, Int
from ...core.arguments import check_list, check_type
from ...core.config import EncoderConfig, Pooling
from ...errors import InputError
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


def as_integers(values: Any, name: str, where: str) -> list[int]:
    """Return the labels, positions or targets of a document, or raise InputError."""
    found = []
    for number, value in enumerate(check_list(values, f"{name}s of {where}", "integers")):
        try:
            found.append(operator.index(value))
        except TypeError as error:
            what = f"{value!r} is not an integer"
            raise InputError(what, f"{where}, {name} {number}") from error
    return found


def check_targets(
    targets: Int[Tensor, " rows"], size: int, where: Callable[[int], str], *, ignored: bool = False
) -> None:
    """Raise InputError if a target is not an index of a logit.

    torch skips rows with -100 where that is not meant, and takes other negative numbers for indices
    from the end, or ends the process on a GPU.

    Args:
        targets: the index of the right logit of each row.
        size: the number of logits.
        where: what the error calls a row.
        ignored: whether `IGNORED` is allowed.
    """
    wrong = (targets < 0) | (targets >= size)
    if ignored:
        wrong &= targets != IGNORED
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        none = f", or {IGNORED} for none" if ignored else ""
        what = f"the target {int(targets[row])} is out of range"
        raise InputError(what, where(row), f"use 0 to {size - 1}{none}")


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
        how = f"load a model with a head with {type(self).__name__}.load"
        self.model = check_type(encoder, "the encoder", Encoder, how)
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
        """Return the sum of the loss over a batch of `collate`.

        Raises:
            InputError: a target is not an index of a logit.
        """
        raise NotImplementedError

    @staticmethod
    def collate(rows: Sequence[Example]) -> tuple[Packed, *tuple[Tensor, ...]]:
        """Make the arguments of `loss` from rows of data.

        Raises:
            InputError: see `pack`, or what belongs to the ids of a document does not match them.
        """
        raise NotImplementedError
