"""Muon (Jordan et al. 2024), for all matrices of one shape together.

torch.optim.Muon takes one matrix after another, some 25 kernels each, which for a narrow model on a
GPU takes longer than forward and backward (docs/log.md). The arithmetic is the same; its rate is
made to fit AdamW's: updates of the same size (Moonlight, 2502.16982).
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

MOMENTUM = 0.95
COEFFICIENTS, ROUNDS = (3.4445, -4.7750, 2.0315), 5  # of the polynomial that is iterated
TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """Orthogonal updates; state and groups as those of torch.optim.Muon.

    Args:
        matrices: the parameters.
        lr: rate.
        weight_decay: decoupled; multiplied by the rate.
    """

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every matrix that has a gradient."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes.setdefault(matrix.shape, []).append(matrix)
            for matrices in shapes.values():
                self._update(matrices, group)

    def _update(self, matrices: list[Tensor], group: dict[str, Any]) -> None:
        gradients: list[Tensor] = [matrix.grad for matrix in matrices if matrix.grad is not None]
        momenta: list[Tensor] = []
        for matrix in matrices:
            state = self.state[matrix]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(matrix)
            momenta.append(state["momentum_buffer"])
        torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
        ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's
        updates = orthogonal(torch.stack(list(ahead))).to(matrices[0].dtype)
        lr = group["lr"]
        torch._foreach_mul_(matrices, 1 - lr * group["weight_decay"])
        size = 0.2 * max(matrices[0].shape) ** 0.5  # the mean square of AdamW's updates
        torch._foreach_add_(matrices, updates.unbind(), alpha=-lr * size)


def orthogonal(x: Float[Tensor, "B rows columns"]) -> Float[Tensor, "B rows columns"]:
    """Each matrix with all its singular values moved near 1, in bfloat16 (Newton-Schulz)."""
    a, b, c = COEFFICIENTS
    tall = x.shape[1] > x.shape[2]
    x = x.bfloat16()
    if tall:
        x = x.mT
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=TINY)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
