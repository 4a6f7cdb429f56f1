"""Cross entropy over a large vocabulary, computed for a few rows at once.

The logits of all masked tokens, their softmax and its gradient would be the largest tensors of a
training step. Here they exist only for a chunk of rows: the gradient is computed in the forward
pass, and the logits are not kept (as in Cut Cross-Entropy, Wijmans et al. 2024, and in Liger).
"""

from typing import Any, cast

import torch
from torch import Tensor

from ..arrays import Float, Int
from .autograd import first_order

LOGITS = 2**26  # of a chunk, on a CPU; every chunk passes over the gradient of the weight
LOGITS_GPU = 2**28
MIN_PROBABILITY = 1e-37  # a loss of 85 nats


def cross_entropy(
    x: Float[Tensor, "rows D"],
    weight: Float[Tensor, "V D"],
    bias: Float[Tensor, " V"] | None,
    targets: Int[Tensor, " rows"],
) -> Float[Tensor, ""]:
    """Return the sum over rows of the cross entropy in nats of the logits x W^T + b, in float32.

    Products and probabilities are computed in autocast's dtype if it is enabled, else in that of
    ``x``; sums are float32 or wider.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    # Inside a Function gradients are disabled, and its inputs do not say whether they were before.
    gradient = torch.is_grad_enabled()
    return cast(Tensor, _CrossEntropy.apply(x, weight, bias, targets, dtype, gradient))  # type: ignore[no-untyped-call]


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        dtype: torch.dtype,
        gradient: bool,
    ) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=x.device)
        wanted = gradient and any(ctx.needs_input_grad)
        with torch.autocast(x.device.type, enabled=False):
            h, w = x.to(dtype), weight.to(dtype)
            dx = torch.empty_like(h) if wanted else h
            dw: Tensor | None = None
            b = None if bias is None else bias.to(dtype)
            db = torch.zeros(len(w), dtype=wide, device=x.device)
            logits = LOGITS if x.device.type == "cpu" else LOGITS_GPU
            step = max(1, logits // len(w))
            ones = h.new_ones(min(step, len(h)))
            every = torch.arange(len(ones), device=x.device)
            for start in range(0, len(h), step):
                rows = slice(start, start + step)
                p = h[rows] @ w.T if b is None else torch.addmm(b, h[rows], w.T)
                if dtype == torch.float16:  # cannot represent small probabilities
                    p = p.to(wide)
                torch.softmax(p, dim=-1, out=p)
                at_target = (every[: len(p)], targets[rows])
                total -= p[at_target].to(wide).clamp(min=MIN_PROBABILITY).log().sum()
                if wanted:
                    # p - 1 at the target, as minus the sum of the others, which is not rounded.
                    p[at_target] = 0.0
                    p[at_target] = -p.sum(-1)
                    p = p.to(dtype)
                    torch.mm(p, w, out=dx[rows])
                    part = p.T @ h[rows]
                    dw = part.to(wide) if dw is None else dw.add_(part)
                    if b is not None:
                        db += torch.mv(p.T, ones[: len(p)])
        if wanted:
            if dw is None:  # there are no rows
                dw = torch.zeros(w.shape, dtype=wide, device=x.device)
            ctx.held = [dx, dw, db]
            ctx.dtypes = x.dtype, weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.held:
            raise RuntimeError(
                "the gradients were used already: a second backward pass needs another forward pass"
            )
        held, ctx.held = ctx.held, []
        of_x, of_w, of_b = ctx.dtypes
        dtypes = (of_x, of_w, of_w if of_b is None else of_b)
        dx, dw, db = (  # in place, because they are large
            t.to(dtype).mul_(grads[0].to(dtype)) for t, dtype in zip(held, dtypes, strict=True)
        )
        return dx, dw, None if of_b is None else db, None, None, None
