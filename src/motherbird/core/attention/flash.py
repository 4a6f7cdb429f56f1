"""Attention on a CUDA GPU: torch's flash kernel over packed rows, one call a layer.

The row goes in as it is, with where its documents start, and the window is the kernel's own: no
document is padded, moved or batched, and no mask exists (Dao 2023; torch.nn.attention.varlen).
Scores and softmax are float32. Its backward adds in an order of chance unless
torch.use_deterministic_algorithms is on, as it is in `train.pretrain`.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from .plan import Plan

IN_ORDER = False
LANES = 8  # channels of a head come in multiples of it
EVERYTHING = -1  # the kernel's word for a window without an end
# Tokens from which a document has a call of its own where sums have a fixed order: the kernel then
# gives each head of each document to so few units that one long document would hold up all others.
ALONE = 2048


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """It is for float16 and bfloat16 on an NVIDIA GPU from Ampere on."""
    if device.type != "cuda":
        return f"the device is {device.type}, not a CUDA GPU"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 and bfloat16, not {dtype}".replace("torch.", "")
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is none of NVIDIA's from Ampere on"
    return None


def attend(
    q: Float[Tensor, "T N H"],
    k: Float[Tensor, "T N H"],
    v: Float[Tensor, "T N H"],
    plan: Plan,
    window: int | None,
) -> Float[Tensor, "T N H"]:
    """Attention of every token to what it sees; see `oracle.visible`."""
    packed = plan.packed
    if window is not None:
        return _call(q, k, v, packed.cu_seqlens, packed.max_seqlen, window)
    in_fixed_order = torch.are_deterministic_algorithms_enabled() and q.requires_grad
    if not in_fixed_order or packed.max_seqlen < ALONE:
        return _call(q, k, v, packed.cu_seqlens, packed.max_seqlen, EVERYTHING)
    stretches = plan.stretches(ALONE)
    queries, keys, values = (x.split([size for size, _, _ in stretches]) for x in (q, k, v))
    return torch.cat([
        _call(queries[i], keys[i], values[i], starts, longest, EVERYTHING)
        for i, (_, starts, longest) in enumerate(stretches)
    ])  # fmt: skip


def _call(
    q: Float[Tensor, "T N H"],
    k: Float[Tensor, "T N H"],
    v: Float[Tensor, "T N H"],
    starts: Int[Tensor, " S_plus_1"],
    longest: int,
    reach: int,
) -> Float[Tensor, "T N H"]:
    from torch.nn.attention.varlen import varlen_attn  # imports a compiler, which takes seconds

    width = q.shape[-1]
    odd = width % LANES > 0
    if odd:
        q, k, v = (pad(x, (0, -width % LANES)) for x in (q, k, v))
    y = varlen_attn(
        q, k, v, starts, starts, longest, longest, scale=width**-0.5, window_size=(reach, reach)
    )
    assert isinstance(y, Tensor)  # it is told to return nothing else
    return y[..., :width] if odd else y
