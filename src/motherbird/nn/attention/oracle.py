"""The reference attention, dense and in float32, for tests and for reading.

`visible` defines which tokens see each other; every kernel is tested against it.
"""

import torch
from torch import Tensor

from ...arrays import Bool
from ..packed import Packed
from .plan import AttentionPlan, Heads

BY_LENGTH = False


def visible(packed: Packed, window: int | None) -> Bool[Tensor, "T T"]:
    """Return whether query i (row) sees key j (column).

    A token sees the tokens of its own document, and in a local layer only those at a distance of at
    most ``window``: with window 64, 129 tokens in the middle of a long document.
    """
    same = packed.documents[:, None] == packed.documents[None, :]
    if window is None:
        return same
    near = (packed.positions[:, None] - packed.positions[None, :]).abs() <= window
    return same & near


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return None: the oracle runs everywhere."""
    return None


def attend(q: Heads, k: Heads, v: Heads, plan: AttentionPlan, window: int | None) -> Heads:
    """Compute softmax attention as its formula says; memory grows with T * T."""
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        scores = torch.einsum("qnh,knh->nqk", q.to(wide), k.to(wide)) * q.shape[-1] ** -0.5
        scores = scores.masked_fill(~visible(plan.packed, window), float("-inf"))
        return torch.einsum("nqk,knh->qnh", scores.softmax(dim=-1), v.to(wide)).to(q.dtype)
