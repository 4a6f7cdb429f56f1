"""What a model is trained for: one objective per file.

An objective owns the module that is trained, and computes the loss of a packed micro-batch. The
loss is a sum over terms (masked tokens, pairs, ...). A step divides it by the number of terms of
all micro-batches and ranks, which `Objective.weight` returns before anything is computed.
"""

from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from ...nn.packed import Packed


@runtime_checkable
class PackedBatch(Protocol):
    """A micro-batch of any objective."""

    @property
    def packed(self) -> Packed:
        """The documents that the model reads."""


Batch_contra = TypeVar("Batch_contra", bound=PackedBatch, contravariant=True)


@runtime_checkable
class Objective(Protocol[Batch_contra]):
    """A model and its loss."""

    @property
    def model(self) -> nn.Module:
        """The module that is trained."""

    def weight(self, batch: Batch_contra) -> int:
        """Return the number of loss terms of a micro-batch."""

    def loss(self, batch: Batch_contra) -> Float[Tensor, ""]:
        """Return the sum of the micro-batch's loss terms, with its graph."""
