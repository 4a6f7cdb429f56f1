"""Attention on a CUDA GPU: torch's flash kernel over packed rows.

The row goes in as it is, with where its documents start, and the window is the kernel's own: no
document is padded, moved or batched, and no mask exists (Dao 2023; torch.nn.attention.varlen).
Scores and softmax are float32. Its backward adds in an order of chance unless
torch.use_deterministic_algorithms is on, as it is in a pretraining run.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from . import banded
from .plan import LONG, AttentionPlan

BY_LENGTH = False
WIDTHS, WIDEST = 8, 256  # channels of a head: a multiple of it, and at most
EVERYTHING = -1  # the kernel's word for a window without an end
ERROR = 2  # torch's mode in which sums have a fixed order


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """It is for float16 and bfloat16 on an NVIDIA GPU from Ampere on."""
    if device.type != "cuda":
        return f"the device is {device.type}, not a CUDA GPU"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 and bfloat16, not {dtype}".replace("torch.", "")
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is none of NVIDIA's from Ampere on"
    if not torch.backends.cuda.is_flash_attention_available():
        return "this build of torch is without it"
    return None


def attend(
    q: Float[Tensor, "T N H"],
    k: Float[Tensor, "T N H"],
    v: Float[Tensor, "T N H"],
    plan: AttentionPlan,
    window: int | None,
) -> Float[Tensor, "T N H"]:
    """Attention of every token to what it sees; see `oracle.visible`."""
    if q.shape[-1] > WIDEST:
        return banded.attend(q, k, v, plan, window)
    packed, reach = plan.packed, EVERYTHING if window is None else window
    in_fixed_order = torch.get_deterministic_debug_mode() == ERROR and q.requires_grad
    if window is not None or not in_fixed_order or packed.max_seqlen < LONG:
        return _call(q, k, v, packed.cu_seqlens, packed.max_seqlen, reach)
    # Each head of each document is then left to so few of the GPU's units that one long document
    # holds up all others; by itself it gets more of them.
    sizes, starts, longest = zip(*plan.stretches, strict=True)
    queries, keys, values = (x.split(sizes) for x in (q, k, v))
    parts = zip(queries, keys, values, starts, longest, strict=True)
    return torch.cat([_call(*part, reach) for part in parts])


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
    odd = width % WIDTHS > 0
    if odd:
        q, k, v = (pad(x, (0, -width % WIDTHS)) for x in (q, k, v))
    y = varlen_attn(
        q, k, v, starts, starts, longest, longest, scale=width**-0.5, window_size=(reach, reach)
    )
    assert isinstance(y, Tensor)  # it is told to return nothing else
    return y[..., :width] if odd else y
