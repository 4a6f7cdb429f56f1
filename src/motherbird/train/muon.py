"""Muon (Jordan et al. 2024), for all matrices of one shape together.

torch.optim.Muon updates one matrix after another with about 25 kernels each. For a narrow model on
a GPU this takes longer than forward and backward (docs/log.md). The arithmetic is the same. Updates
are scaled to the size of AdamW's, so that both use one learning rate (Moonlight, 2502.16982).
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..arrays import Float

MOMENTUM = 0.95
COEFFICIENTS, ROUNDS = (3.4445, -4.7750, 2.0315), 5  # of the polynomial that is iterated
TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """Muon with a parameter group for each matrix shape; every step needs all gradients."""

    def __init__(self, matrices: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        shapes: dict[torch.Size, list[Tensor]] = {}
        for matrix in matrices:
            shapes.setdefault(matrix.shape, []).append(matrix)
        groups = [{"params": same} for same in shapes.values()]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update all matrices."""
        for group in self.param_groups:
            matrices, lr = group["params"], group["lr"]
            gradients = [matrix.grad for matrix in matrices]
            for matrix in matrices:
                if not self.state[matrix]:
                    self.state[matrix]["momentum_buffer"] = torch.zeros_like(matrix)
            momenta = [self.state[matrix]["momentum_buffer"] for matrix in matrices]
            torch._foreach_lerp_(momenta, gradients, 1 - MOMENTUM)
            ahead = torch._foreach_lerp(gradients, momenta, MOMENTUM)  # Nesterov's
            updates = orthogonal(torch.stack(ahead)).to(matrices[0].dtype)
            torch._foreach_mul_(matrices, 1 - lr * group["weight_decay"])
            size = 0.2 * max(matrices[0].shape) ** 0.5  # the mean square of AdamW's updates
            torch._foreach_add_(matrices, updates.unbind(), alpha=-lr * size)


def orthogonal(x: Float[Tensor, "B rows columns"]) -> Float[Tensor, "B rows columns"]:
    """Return the matrices with singular values moved close to 1, in bfloat16 (Newton-Schulz)."""
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
