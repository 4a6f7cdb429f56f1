"""Dropout whose random numbers depend on a key alone.

torch's dropout draws from one stream of the process, so that its result depends on all earlier
draws and on the order in which threads draw.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional

from ..arrays import Float
from ..core.rng import random_bits

_thread = threading.local()
# Number of values of a 16-bit integer; the rate is rounded to a multiple of 1 / 65,536.
VALUES = 1 << 16


@contextmanager
def keyed(device: torch.device, key: Sequence[int]) -> Iterator[None]:
    """Within this block, in this thread, draw dropout from a stream seeded by ``key``."""
    generator = torch.Generator(device)
    generator.manual_seed(int(random_bits(key, 0)) >> 1)
    _thread.generator = generator
    try:
        yield
    finally:
        _thread.generator = None


def replayed() -> Callable[[], AbstractContextManager[None]]:
    """Return a context that draws what this thread draws from now on, once more."""
    before = getattr(_thread, "generator", None)
    if before is None:
        return nullcontext
    device, state = before.device, before.get_state()

    @contextmanager
    def again() -> Iterator[None]:
        outer = getattr(_thread, "generator", None)
        _thread.generator = torch.Generator(device)
        _thread.generator.set_state(state)
        try:
            yield
        finally:
            _thread.generator = outer

    return again


def dropout(x: Float[Tensor, "..."], rate: float, training: bool) -> Float[Tensor, "..."]:
    """Apply dropout at a rate while training; draws are keyed inside `keyed`."""
    generator = getattr(_thread, "generator", None)
    if generator is None or not training or rate == 0:
        return functional.dropout(x, rate, training)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None, generator=generator)
    drawn = words.view(torch.int16)[: x.numel()].view(x.shape)
    kept = drawn >= round(rate * VALUES) - VALUES // 2
    return x * (kept.to(x.dtype) / (1 - rate))
