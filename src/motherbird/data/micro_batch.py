"""The rows that one forward pass of training computes, as torch tensors."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from ..nn.packed import Packed


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """The input of one forward pass."""

    packed: Packed  # masked documents
    positions: Int[torch.Tensor, " M"]  # indices of the masked tokens
    targets: Int[torch.Tensor, " M"]  # their original ids

    @classmethod
    def from_arrays(
        cls,
        ids: Int[np.ndarray, " T"],
        cu_seqlens: Int[np.ndarray, " S_plus_1"],
        positions: Int[np.ndarray, " M"],
        targets: Int[np.ndarray, " M"],
    ) -> "MicroBatch":
        """Make the tensors of packed token ids."""
        packed = Packed.from_arrays(ids, cu_seqlens)
        return cls(packed, torch.from_numpy(positions), torch.from_numpy(targets))
