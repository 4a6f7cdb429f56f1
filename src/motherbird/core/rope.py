"""Rotary position embeddings (paper 2.1.1; Su et al. 2021), half rotation as in GPT-NeoX.

Channel k of a head turns with channel k + H/2. Published weights keep the two half a head apart;
`pairs_together` reorders the rows of such a weight so that the product puts them side by side, and
a rotation is one multiplication of complex numbers. Scores do not notice: Q and K are reordered
alike. Every layer kind has its own theta. The tables are complex64 whatever the model's dtype, and
are made once a batch from the positions, so ``.to(dtype)`` cannot touch them.
"""

import torch
from jaxtyping import Complex, Float, Int, Shaped
from torch import Tensor

ROWS = 256  # tokens that are rotated at a time where no gradient is wanted: they stay in the cache


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
    if torch.is_grad_enabled() and x.requires_grad:
        return _turn(x, rotary).to(x.dtype)
    tokens, heads, width = x.shape
    y = x.new_empty((heads, tokens, width)).transpose(0, 1)
    rows = ROWS if x.device.type == "cpu" else tokens
    if tokens <= rows:
        return y.copy_(_turn(x, rotary))
    for part, turn, out in zip(x.split(rows), rotary.split(rows), y.split(rows), strict=True):
        out.copy_(_turn(part, turn))
    return y


def _turn(x: Float[Tensor, "T N H"], rotary: Complex[Tensor, "T 1 half"]) -> Float[Tensor, "T N H"]:
    wide = x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()
    pairs = torch.view_as_complex(wide.view(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * rotary).view(x.shape)
