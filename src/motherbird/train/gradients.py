"""Gradients of a step: of every micro-batch by itself, added up in an order that never changes.

On a CPU micro-batches run side by side, one a core (`core.parallel` says why). Their gradients are
added in the order of their numbers, or in a tree: halves of halves, so that the share of each of
1, 2, 4 ... ranks is a branch of it, and any number of ranks gives the same bits.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .distributed import World

Gradients = list[Float[Tensor, "..."]]
Leaf = Callable[[], Tensor]  # the loss of a micro-batch, with its graph
Result = tuple[float, Gradients]


class Threads:
    """A thread for each core; see `side_by_side`."""

    def __init__(self, pool: ThreadPoolExecutor | None, count: int) -> None:
        self.pool, self.count = pool, count

    @contextmanager
    def together(self) -> Iterator[None]:
        """All threads inside each operation of the caller, while no micro-batch is at work."""
        torch.set_num_threads(self.count)
        try:
            yield
        finally:
            torch.set_num_threads(1 if self.pool else self.count)


def threads_beside(device: torch.device) -> int:
    """Torch's threads that are at work in `side_by_side`."""
    return torch.get_num_threads() if device.type == "cpu" else 1


@contextmanager
def side_by_side(device: torch.device) -> Iterator[Threads]:
    """Threads for micro-batches, while the block lasts: on a CPU as many as torch has.

    Inside, torch has one thread in every one of them, and in the caller. Some kernels add up what
    each of their threads had, so that bits depend on the number; and a thread takes over the
    process' number now and then, so that the number must not change while they work. Beside a GPU
    one is left: the little that the CPU does is done before others wake up.
    """
    before, count = torch.get_num_threads(), threads_beside(device)
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(count) if count > 1 else None
    try:
        yield Threads(pool, count)
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


@contextmanager
def in_fixed_order(device: torch.device) -> Iterator[None]:
    """While the block lasts, a GPU's kernels add up in an order that never changes.

    Raises:
        RuntimeError: in the block, by a kernel that has no such order; and by the first product, if
            the process used cuBLAS before without CUBLAS_WORKSPACE_CONFIG=:4096:8.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    settings: Any = torch.utils.deterministic
    mode, fills = torch.get_deterministic_debug_mode(), settings.fill_uninitialized_memory
    torch.set_deterministic_debug_mode("error")
    settings.fill_uninitialized_memory = False  # a pass over memory that nobody reads
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        settings.fill_uninitialized_memory = fills


def of_leaf(parameters: Sequence[Tensor], leaf: Leaf) -> Result:
    """Loss and gradients of one micro-batch; zeros for a parameter that it does not reach."""
    loss = leaf()
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    return loss.item(), [
        torch.zeros_like(parameter) if grad is None else grad
        for parameter, grad in zip(parameters, grads, strict=True)
    ]


def of_step(
    parameters: Sequence[Tensor],
    leaves: Sequence[Leaf],
    threads: Threads,
    world: World,
    *,
    tree: bool = False,
) -> tuple[list[float], Gradients]:
    """The losses of all micro-batches of a step, and the sum of their gradients.

    Args:
        parameters: of the model, alike on every rank.
        leaves: micro-batches of this rank, as many as on every other; those of rank r come behind
            those of rank r - 1.
        threads: of `side_by_side`.
        world: all ranks.
        tree: see this file.

    Returns:
        A loss for each micro-batch of all ranks, in order, and a gradient for each parameter.
    """
    results = _in_order(parameters, leaves, threads)
    losses: list[float] = []

    def take() -> Gradients:
        loss, grads = next(results)
        losses.append(loss)
        return grads

    def add(count: int) -> Gradients:
        """The next so many leaves, halves of halves."""
        if count == 1:
            return take()
        left = add(count // 2)
        torch._foreach_add_(left, add(count - count // 2))
        return left

    if tree:
        total = add(len(leaves))
    else:
        total = take()
        for _ in leaves[1:]:
            torch._foreach_add_(total, take())
    world.add(total, tree)
    return [loss for each in world.gather(losses) for loss in each], total


def _in_order(
    parameters: Sequence[Tensor], leaves: Sequence[Leaf], threads: Threads
) -> Iterator[Result]:
    """Results in the order of the leaves; a few more than there are threads wait at most."""
    if threads.pool is None:
        for leaf in leaves:
            yield of_leaf(parameters, leaf)
        return
    waiting: deque[Future[Result]] = deque()
    for leaf in leaves:
        waiting.append(threads.pool.submit(of_leaf, parameters, leaf))
        if len(waiting) > threads.count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
