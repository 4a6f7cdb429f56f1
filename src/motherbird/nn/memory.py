"""How many tokens a batch should have, and how freed memory is used again."""

import os
import time
from functools import cache

import torch

from .. import machine

GPU_TOKENS = 8192
CPU_TOKENS = 2048  # what fits into the caches of a core; docs/log.md
MIN_TOKENS = 256  # with fewer, matrix products slow down
GROWTH = 512  # MB by which the process may grow before freed memory is returned
SHAPES = 256  # shapes of products in each cache of oneDNN

_next_check = _released_mb = 0.0


def batch_budget(total: int, device: torch.device) -> int:
    """Tokens of a batch for `split_by_tokens`, so that every core gets a few of ``total``."""
    if device.type != "cpu":
        return GPU_TOKENS
    return min(CPU_TOKENS, max(MIN_TOKENS, total // (2 * torch.get_num_threads())))


def release_if_grown() -> None:
    """Return freed memory to the system once the process has grown by `GROWTH`.

    Batches of changing sizes leave free space in the heap of every thread that no later batch fits.
    Checked once a second at most, because reading the size of the process takes as long as a layer
    of a small model.
    """
    global _next_check, _released_mb
    now = time.monotonic()
    if now < _next_check:
        return
    _next_check = now + 1
    if machine.own_memory_mb("VmRSS") > _released_mb + GROWTH:
        machine.release_memory()
        _released_mb = machine.own_memory_mb("VmRSS")


@cache
def set_up_memory() -> None:
    """Set how memory is reused and cached, before the first batch of a process.

    oneDNN keeps compiled code and buffers for every shape of a product that it has seen, 0.5 MB
    each, up to 1,024. Every number of tokens is a new shape, five times a layer. It keeps `SHAPES`,
    unless the environment says otherwise.

    glibc is made to reuse the memory of one layer for the next instead of returning it to the
    system.

    By default glibc returns large blocks as soon as they are freed, and every layer pays for new
    pages: up to a fifth of the time. The limit follows the largest block ever freed (mallopt(3),
    "dynamic mmap threshold", at most 32 MB). This frees one such block, which is never touched.
    """
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(SHAPES))
    torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")
