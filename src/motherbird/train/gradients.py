"""Gradients of a step: computed for each micro-batch, and summed in a fixed order.

On a CPU, micro-batches run at the same time, one on each core (`threads` explains why). Their
gradients are summed in the order of the micro-batches, or as a binary tree. In the tree, the part
of each of 1, 2, 4 ... ranks is a branch, so that any such number of ranks gives the same bits.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..arrays import Float
from .distributed import Distributed
from .threads import Executor

Gradients = list[Float[Tensor, "..."]]
Loss = Callable[[], Tensor]  # computes the loss of a micro-batch, with its graph


@contextmanager
def in_fixed_order(device: torch.device) -> Iterator[None]:
    """Make a GPU's kernels deterministic while the block lasts; on a CPU they are.

    A kernel without a deterministic version, or cuBLAS used before without CUBLAS_WORKSPACE_CONFIG,
    raises RuntimeError in the block. torch gets one CPU thread with a GPU: waking up others would
    take longer than the little work that is done there.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings: Any = torch.utils.deterministic
    mode, fill = torch.get_deterministic_debug_mode(), settings.fill_uninitialized_memory
    threads = torch.get_num_threads()
    torch.set_deterministic_debug_mode("error")
    settings.fill_uninitialized_memory = False  # needs time, and the memory is never read
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        settings.fill_uninitialized_memory = fill
        torch.set_num_threads(threads)


def micro_batch_gradients(parameters: Sequence[Tensor], loss: Loss) -> tuple[float, Gradients]:
    """Return a micro-batch's loss and gradients; zeros for parameters that it does not use."""
    value = loss()
    grads = torch.autograd.grad(value, parameters, allow_unused=True)
    return value.item(), [
        torch.zeros_like(parameter) if grad is None else grad
        for parameter, grad in zip(parameters, grads, strict=True)
    ]


class DenseRows:
    """Converts sparse gradients of one embedding, in memory that the next one reuses."""

    def __init__(self) -> None:
        self._memory: Tensor | None = None
        self._rows: Tensor | None = None  # those that are not 0

    def __call__(self, gradient: Tensor) -> Float[Tensor, "V D"]:
        """Return a gradient as a matrix, until the next call."""
        gradient = gradient.coalesce()
        if self._memory is None or self._rows is None:
            self._memory = torch.zeros(gradient.shape, dtype=gradient.dtype)
        else:
            self._memory.index_fill_(0, self._rows, 0)
        self._rows = gradient.indices()[0]
        return self._memory.index_copy_(0, self._rows, gradient.values())


def step_gradients(
    parameters: Sequence[Tensor],
    losses: Sequence[Loss],
    threads: Executor,
    distributed: Distributed,
    *,
    tree: bool = False,
    dense: Callable[[Tensor], Tensor] = Tensor.to_dense,
) -> tuple[list[float], Gradients]:
    """Compute the losses of all micro-batches of a step, and the sum of their gradients.

    Micro-batches are numbered rank by rank, and each rank has equally many. ``dense`` converts the
    sparse gradient of an embedding; see `DenseRows`.

    Returns:
        The loss of each micro-batch of all ranks, in order, and a gradient for each parameter.
    """
    results = threads.in_order(partial(micro_batch_gradients, parameters), losses)
    values: list[float] = []

    def next_gradients() -> Gradients:
        value, grads = next(results)
        values.append(value)
        return grads

    def tree_sum(count: int) -> Gradients:
        """Return the sum over the next ``count`` micro-batches."""
        if count == 1:
            return next_gradients()
        left = tree_sum(count // 2)
        _add(left, tree_sum(count - count // 2))
        return left

    if tree:
        total = tree_sum(len(losses))
    else:
        total = next_gradients()
        for _ in losses[1:]:
            _add(total, next_gradients())
    total = [dense(grad) if grad.is_sparse else grad for grad in total]
    distributed.all_reduce(total, tree)
    return [value for each in distributed.all_gather(values) for value in each], total


def _add(total: Gradients, more: Gradients) -> None:
    """Add in place. NumPy uses one thread, and the other cores are busy with micro-batches."""
    if total[0].device.type != "cpu":
        torch._foreach_add_(total, more)
        return
    for number, (one, other) in enumerate(zip(total, more, strict=True)):
        if one.is_sparse:  # the rows of an embedding
            total[number] = one + other
        else:
            np.add(one.numpy(), other.numpy(), out=one.numpy())
