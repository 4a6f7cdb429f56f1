"""What a model is trained for: one objective per file.

An objective owns the module that is trained, and computes the loss of a packed micro-batch. The
loss is a sum over terms (masked tokens, pairs, ...). A step divides it by the number of terms of
all micro-batches and ranks, which `Objective.weight` returns before anything is computed.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from ...arrays import Float
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


@runtime_checkable
class JointObjective(Protocol[Batch_contra]):
    """A model, and a loss of the vectors of all micro-batches of a step of a process.

    The loss of a text depends on other texts, such as the answers to other questions. So the
    vectors of all micro-batches are computed first, then the loss and its gradient for each vector,
    and then the backward pass of each micro-batch (Gao et al. 2021, "Scaling deep contrastive
    learning batch size under memory limited setup").
    """

    @property
    def model(self) -> nn.Module:
        """The module that is trained: from the documents of a batch to rows of vectors."""

    def weight(self, batch: Batch_contra) -> int:
        """Return the number of loss terms of a micro-batch."""

    def own_loss(self, batch: Any) -> Callable[[], Tensor] | None:
        """Return what computes the loss of a micro-batch that does not depend on others, or None.

        Such a micro-batch is not among those of `joint_loss`.
        """

    def joint_loss(
        self, batches: Sequence[Any], vectors: Sequence[Float[Tensor, "_rows size"]]
    ) -> Float[Tensor, ""]:
        """Return the sum of the loss terms of all micro-batches, given the vectors of each."""
