"""Rotary position embeddings (paper 2.1.1; Su et al. 2021), half rotation as in GPT-NeoX.

Every layer kind has its own theta. The tables are float32 whatever the model's dtype, and are made
once a batch from the positions, so ``.to(dtype)`` cannot touch them.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Rotary(NamedTuple):
    """Cosines and sines of the angle of each token and pair of channels, float32."""

    cos: Float[Tensor, "T 1 half_H"]
    sin: Float[Tensor, "T 1 half_H"]


def tables(positions: Int[Tensor, " T"], theta: float, head_dim: int) -> Rotary:
    """Angles position * theta^(-2k/H) for k in 0..H/2.

    Computed in float32 by the same steps as transformers, so that both give the same bits.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    inverse_frequencies = 1.0 / (theta**exponents)
    angles = positions.float()[:, None] * inverse_frequencies
    return Rotary(angles.cos()[:, None], angles.sin()[:, None])


def rotate(x: Float[Tensor, "T N H"], rotary: Rotary) -> Float[Tensor, "T N H"]:
    """Turn channel k and channel k + H/2 of every head by the token's angle.

    The arithmetic is float32 (or wider), the result has the dtype of ``x``.
    """
    cos, sin = rotary
    first, second = x.to(torch.promote_types(x.dtype, cos.dtype)).chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)
