"""Dropout whose draws depend on a key alone, where one is given.

torch's own draws from one stream of the process: what falls out then depends on everything that
was drawn before, and on the order in which threads come by.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..core.rng import random_bits

_thread = threading.local()
PARTS = 1 << 16  # a draw is 16 bits: the rate is exact to 1 / 131,072


@contextmanager
def keyed(device: torch.device, key: Sequence[int]) -> Iterator[None]:
    """In this block, and this thread, dropout draws from a stream that ``key`` begins."""
    generator = torch.Generator(device)
    generator.manual_seed(int(random_bits(key, 0)) >> 1)
    _thread.generator = generator
    try:
        yield
    finally:
        del _thread.generator


def dropout(x: Float[Tensor, "..."], rate: float, training: bool) -> Float[Tensor, "..."]:
    """Zeros for a share of the elements, and the others larger by as much, while training."""
    generator = getattr(_thread, "generator", None)
    if generator is None or not training or rate == 0:
        return functional.dropout(x, rate, training)
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64, device=x.device)
    words.random_(-(2**63), None, generator=generator)
    drawn = words.view(torch.int16)[: x.numel()].view(x.shape)
    kept = drawn >= round(rate * PARTS) - PARTS // 2
    return x * (kept.to(x.dtype) / (1 - rate))
