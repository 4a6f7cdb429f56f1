"""Attention on any device that torch supports.

Global layers compute each group of documents of equal length in one call. Local layers split the
whole batch into blocks of queries, each with a band of keys: their cost is linear in T, and there
is no T by T mask. Both use torch's scaled_dot_product_attention, which keeps scores and softmax in
float32 for bfloat16 inputs.
"""

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

from .plan import BLOCK, AttentionPlan, Heads

BY_LENGTH = True


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return None: it runs wherever torch does."""
    return None


def attend(q: Heads, k: Heads, v: Heads, plan: AttentionPlan, window: int | None) -> Heads:
    """Compute attention; see `oracle.visible` for which tokens see each other."""
    # If no document is longer than the window, a local layer sees what a global one does.
    if window is None or plan.packed.max_seqlen <= window + 1:
        return _by_document(q, k, v, plan)
    return _by_block(q, k, v, plan, window)


def _by_document(q: Heads, k: Heads, v: Heads, plan: AttentionPlan) -> Heads:
    outputs = []
    sizes = [documents * length for documents, length in plan.equal_length_groups]
    for (documents, length), *qkv in zip(
        plan.equal_length_groups, q.split(sizes), k.split(sizes), v.split(sizes), strict=True
    ):
        heads_first = (x.unflatten(0, (documents, length)).transpose(1, 2) for x in qkv)
        y = scaled_dot_product_attention(*heads_first)  # (documents, N, length, H)
        outputs.append(y.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)


def _by_block(q: Heads, k: Heads, v: Heads, plan: AttentionPlan, window: int) -> Heads:
    tail = -len(q) % BLOCK
    queries = pad(q, (0, 0, 0, 0, 0, tail)).unflatten(0, (-1, BLOCK)).transpose(1, 2)
    # Overlapping views, (blocks, N, keys, H); only the padded ends are copied.
    keys, values = (
        pad(x, (0, 0, 0, 0, window, tail + window))
        .unfold(0, BLOCK + 2 * window, BLOCK)
        .transpose(2, 3)
        for x in (k, v)
    )
    y = scaled_dot_product_attention(
        queries, keys, values, attn_mask=plan.band(window, q.dtype)
    )  # (blocks, N, BLOCK, H)
    return y.transpose(1, 2).flatten(0, 1)[: len(q)]
