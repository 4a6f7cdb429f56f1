"""Attention on a CUDA GPU: torch's flash attention for sequences of variable length.

The kernel takes the packed batch with its cumulative lengths and the window, without padding,
sorting or a mask (Dao 2023; torch.nn.attention.varlen). Scores and softmax are float32. The order
of additions in its backward pass is only fixed under torch.use_deterministic_algorithms, as in a
pretraining run.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from ...arrays import Int
from . import banded
from .plan import LONG, AttentionPlan, Heads

BY_LENGTH = False
HEAD_DIM_MULTIPLE, MAX_HEAD_DIM = 8, 256
UNLIMITED = -1  # the window of a global layer
ERROR = 2  # torch's debug mode in which additions have a fixed order


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return None for float16 and bfloat16 on NVIDIA GPUs from Ampere on."""
    if device.type != "cuda":
        return f"the device is {device.type}, not a CUDA GPU"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 and bfloat16, not {dtype}".replace("torch.", "")
    if torch.version.hip or torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is not an NVIDIA GPU of the Ampere generation or later"
    if not torch.backends.cuda.is_flash_attention_available():
        return "this build of torch does not include it"
    return None


def attend(q: Heads, k: Heads, v: Heads, plan: AttentionPlan, window: int | None) -> Heads:
    """Compute attention; see `oracle.visible` for which tokens see each other."""
    if q.shape[-1] > MAX_HEAD_DIM:
        return banded.attend(q, k, v, plan, window)
    packed, reach = plan.packed, UNLIMITED if window is None else window
    in_fixed_order = torch.get_deterministic_debug_mode() == ERROR and q.requires_grad
    if window is not None or not in_fixed_order or packed.max_seqlen < LONG:
        return _call(q, k, v, packed.cu_seqlens, packed.max_seqlen, reach)
    # In a fixed order, a head of a document uses so few multiprocessors that one long document
    # delays all others. In a call of its own it uses more of them.
    sizes, starts, longest = zip(*plan.spans, strict=True)
    queries, keys, values = (x.split(sizes) for x in (q, k, v))
    parts = zip(queries, keys, values, starts, longest, strict=True)
    return torch.cat([_call(*part, reach) for part in parts])


def _call(
    q: Heads, k: Heads, v: Heads, starts: Int[Tensor, " S_plus_1"], longest: int, reach: int
) -> Heads:
    from torch.nn.attention.varlen import varlen_attn  # importing it takes seconds

    head_dim = q.shape[-1]
    padding = -head_dim % HEAD_DIM_MULTIPLE
    if padding:
        q, k, v = (pad(x, (0, padding)) for x in (q, k, v))
    y = varlen_attn(
        q, k, v, starts, starts, longest, longest, scale=head_dim**-0.5, window_size=(reach, reach)
    )
    assert isinstance(y, Tensor)  # no other output was requested
    return y[..., :head_dim] if padding else y
