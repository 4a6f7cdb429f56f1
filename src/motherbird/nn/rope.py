"""Rotary position embeddings (paper 2.1.1; Su et al. 2021), rotating halves as in GPT-NeoX.

Channel k of a head is rotated together with channel k + H/2. `pairs_together` reorders the rows of
published weights so that the two are next to each other, and a rotation is one multiplication of
complex numbers. Scores do not change, because Q and K are reordered alike. Global and local layers
have different thetas. The tables are complex64 for every dtype of the model, and are computed once
per batch from the positions.
"""

from typing import Any, cast

import torch
from torch import Tensor

from ..arrays import Complex, Float, Int, Shaped
from .autograd import first_order

ROWS = 256  # tokens that are rotated at once, so that they stay in the cache


def tables(
    positions: Int[Tensor, " T"], theta: float, head_dim: int
) -> Complex[Tensor, "T 1 half"]:
    """Return cos + i sin of the angles position * theta^(-2k/H), for k from 0 to H/2 - 1.

    Computed in float32 by the same steps as in transformers, so that both give the same bits.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    inverse_frequencies = 1.0 / (theta**exponents)
    angles = positions.float()[:, None, None] * inverse_frequencies
    return torch.complex(angles.cos(), angles.sin())


def pairs_together(weight: Shaped[Tensor, "N_H ..."], head_dim: int) -> Shaped[Tensor, "N_H ..."]:
    """Reorder rows so that rows k and k + H/2 of every head are next to each other."""
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def rotate(
    x: Float[Tensor, "T N H"], rotary: Complex[Tensor, "T 1 half"]
) -> Float[Tensor, "T N H"]:
    """Rotate every pair of adjacent channels by the token's angle.

    Computed in float32 or wider; the result has the dtype of ``x``. In memory, heads are the outer
    dimension, as attention reads them.
    """
    return cast(Tensor, _Rotate.apply(x, rotary))  # type: ignore[no-untyped-call]


class _Rotate(torch.autograd.Function):
    """Has its own backward pass, because autograd's would keep float32 copies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rotary: Tensor) -> Tensor:
        ctx.save_for_backward(rotary)
        return _rotate_pairs(x, rotary)

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _rotate_pairs(grads[0], ctx.saved_tensors[0].conj()), None


def _rotate_pairs(
    x: Float[Tensor, "T N H"], rotary: Complex[Tensor, "T 1 half"]
) -> Float[Tensor, "T N H"]:
    tokens, heads, width = x.shape
    y = x.new_empty((heads, tokens, width)).transpose(0, 1)
    rows = ROWS if x.device.type == "cpu" else tokens
    for part, angles, out in zip(x.split(rows), rotary.split(rows), y.split(rows), strict=True):
        wide = part.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
        pairs = torch.view_as_complex(wide.view(*part.shape[:-1], -1, 2))
        out.copy_(torch.view_as_real(pairs * angles).view(part.shape))
    return y
