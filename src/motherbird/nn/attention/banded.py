"""The product's attention, on any device that torch has.

Global layers run document by document, neighbouring documents of one length together. Local layers
cut the whole row into blocks of queries that see a band of keys: their cost is linear in T and no
T by T mask exists anywhere. Both end in torch's fused scaled_dot_product_attention, which keeps
scores and softmax in float32 for bfloat16 inputs; the batch axis it wants exists only here.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from .plan import BLOCK, AttentionPlan

BY_LENGTH = True


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Runs wherever torch does."""
    return None


def attend(
    q: Float[Tensor, "T N H"],
    k: Float[Tensor, "T N H"],
    v: Float[Tensor, "T N H"],
    plan: AttentionPlan,
    window: int | None,
) -> Float[Tensor, "T N H"]:
    """Attention of every token to what it sees; see `oracle.visible`."""
    # Where no document outgrows the window, a local layer sees what a global one does.
    if window is None or plan.packed.max_seqlen <= window + 1:
        return _by_document(q, k, v, plan)
    return _by_block(q, k, v, plan, window)


def _by_document(
    q: Float[Tensor, "T N H"],
    k: Float[Tensor, "T N H"],
    v: Float[Tensor, "T N H"],
    plan: AttentionPlan,
) -> Float[Tensor, "T N H"]:
    outputs = []
    sizes = [documents * length for documents, length in plan.runs]
    for (documents, length), *qkv in zip(
        plan.runs, q.split(sizes), k.split(sizes), v.split(sizes), strict=True
    ):
        heads_first = (x.unflatten(0, (documents, length)).transpose(1, 2) for x in qkv)
        y = scaled_dot_product_attention(*heads_first)  # (documents, N, length, H)
        outputs.append(y.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)


def _by_block(
    q: Float[Tensor, "T N H"],
    k: Float[Tensor, "T N H"],
    v: Float[Tensor, "T N H"],
    plan: AttentionPlan,
    window: int,
) -> Float[Tensor, "T N H"]:
    tail = -len(q) % BLOCK
    queries = pad(q, (0, 0, 0, 0, 0, tail)).unflatten(0, (-1, BLOCK)).transpose(1, 2)
    # Views of overlapping stretches, (blocks, N, keys, H); nothing is copied but the padded ends.
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
