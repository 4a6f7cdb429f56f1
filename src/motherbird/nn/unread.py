"""The encoder on documents with tokens that no token reads, such as ColBERT's unattended [MASK]."""

import torch
from torch import Tensor

from ..arrays import Bool, Float
from ..core.batching import check_batch
from .attention import AttentionPlan
from .attention.oracle import visible
from .attention.plan import Heads
from .encoder import Encoder
from .packed import Packed


class _Attention:
    """The attention kernel: `oracle`, in which some tokens are not read.

    The attention of a token that sees none is 0, as in transformers 5; the mean over all tokens
    that transformers 4 computes has no use.
    """

    __name__ = "unread"
    BY_LENGTH = False

    def __init__(self, unread: Bool[Tensor, " T"]) -> None:
        self.unread = unread

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Return None: it runs everywhere."""
        return None

    def attend(
        self, q: Heads, k: Heads, v: Heads, plan: AttentionPlan, window: int | None
    ) -> Heads:
        """Compute attention; memory grows with T * T."""
        seen = visible(plan.packed, window) & ~self.unread[None, :]
        scores = torch.einsum("qnh,knh->nqk", q.float(), k.float()) * q.shape[-1] ** -0.5
        weights = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1)
        weights = weights.where(seen.any(dim=-1)[:, None], torch.zeros_like(weights))
        return torch.einsum("nqk,knh->qnh", weights, v.float()).to(q.dtype)


@torch.inference_mode()
def encode(encoder: Encoder, packed: Packed, unread: Bool[Tensor, " T"]) -> Float[Tensor, "T D"]:
    """Return the vectors of all tokens of a batch; those that are not read see the others.

    Args:
        encoder: in evaluation mode.
        packed: the batch, on a CPU.
        unread: the tokens that no token sees, themselves included.

    Raises:
        InputError: see `Encoder.forward`.
    """
    check_batch(packed.ids.numpy(), packed.cu_seqlens.numpy(), encoder.config)
    plan = AttentionPlan(packed.to(encoder.device))
    kernel = _Attention(unread.to(encoder.device))
    x = encoder.embeddings(plan.packed.ids)
    for layer in encoder.layers:
        x = layer(x, plan, kernel)
    return encoder.final_norm(x)
