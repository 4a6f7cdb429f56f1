"""What the package's own backward passes have in common."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch

Gradients = TypeVar("Gradients")


def first_order(backward: Callable[..., Gradients]) -> Callable[..., Gradients]:
    """Refuse to build a graph of a backward pass that has no derivative of its own.

    torch's ``once_differentiable`` takes the gradients for constants where the gradient of the
    output does not need one, and second derivatives are silently wrong.
    """

    @wraps(backward)
    def checked(ctx: Any, *grads: torch.Tensor) -> Gradients:
        if torch.is_grad_enabled():  # create_graph=True
            raise RuntimeError(
                "motherbird's kernels have no second derivatives: "
                "compute gradients without create_graph=True"
            )
        return backward(ctx, *grads)

    return checked
