"""Rotary position embeddings (paper 2.1.1; Su et al. 2021), half rotation as in GPT-NeoX.

Channel k of a head turns with channel k + H/2. Published weights keep the two half a head apart;
`pairs_together` reorders the rows of such a weight so that the product puts them side by side, and
a rotation is one multiplication of complex numbers. Scores do not notice: Q and K are reordered
alike. Every layer kind has its own theta. The tables are complex64 whatever the model's dtype, and
are made once a batch from the positions, so ``.to(dtype)`` cannot touch them.
"""

from typing import Any, cast

import torch
from jaxtyping import Complex, Float, Int, Shaped
from torch import Tensor

ROWS = 256  # tokens that are rotated at a time: they stay in the cache


def tables(
    positions: Int[Tensor, " T"], theta: float, head_dim: int
) -> Complex[Tensor, "T 1 half"]:
    """Cosines + i sines of the angles position * theta^(-2k/H) for k in 0..H/2, for every head.

    Computed in float32 by the same steps as transformers, so that both give the same bits.
    """
    exponents = torch.arange(0, head_dim, 2, device=positions.device).float() / head_dim
    inverse_frequencies = 1.0 / (theta**exponents)
    angles = positions.float()[:, None, None] * inverse_frequencies
    return torch.complex(angles.cos(), angles.sin())


def pairs_together(weight: Shaped[Tensor, "N_H ..."], head_dim: int) -> Shaped[Tensor, "N_H ..."]:
    """Rows k and k + H/2 of every head side by side."""
    return weight.unflatten(0, (-1, 2, head_dim // 2)).transpose(1, 2).flatten(0, 2)


def rotate(
    x: Float[Tensor, "T N H"], rotary: Complex[Tensor, "T 1 half"]
) -> Float[Tensor, "T N H"]:
    """Turn every pair of neighbouring channels by the token's angle.

    The arithmetic is float32 (or wider), the result has the dtype of ``x``. Heads are outermost in
    its memory, which is how attention reads it.
    """
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _turn(x, rotary)
    return cast(Tensor, _Rotate.apply(x, rotary))  # type: ignore[no-untyped-call]


class _Rotate(torch.autograd.Function):
    """Its own backward, the other way round: autograd's would hold every step in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rotary: Tensor) -> Tensor:
        ctx.save_for_backward(rotary)
        return _turn(x, rotary)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _turn(grads[0], ctx.saved_tensors[0].conj()), None


def _turn(x: Float[Tensor, "T N H"], rotary: Complex[Tensor, "T 1 half"]) -> Float[Tensor, "T N H"]:
    tokens, heads, width = x.shape
    y = x.new_empty((heads, tokens, width)).transpose(0, 1)
    rows = ROWS if x.device.type == "cpu" else tokens
    for part, turn, out in zip(x.split(rows), rotary.split(rows), y.split(rows), strict=True):
        wide = part.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
        pairs = torch.view_as_complex(wide.view(*part.shape[:-1], -1, 2))
        out.copy_(torch.view_as_real(pairs * turn).view(part.shape))
    return y
