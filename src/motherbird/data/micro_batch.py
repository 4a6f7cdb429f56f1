"""The rows that one forward pass of training computes, as torch tensors."""

from dataclasses import dataclass

import torch

from ..arrays import Int
from ..nn.packed import Packed


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """The input of one forward pass."""

    packed: Packed  # masked documents
    positions: Int[torch.Tensor, " M"]  # indices of the masked tokens
    targets: Int[torch.Tensor, " M"]  # their original ids
