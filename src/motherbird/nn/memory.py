"""How many tokens a batch should have, and how freed memory is used again."""

from functools import cache

import torch

GPU_TOKENS = 8192
CPU_TOKENS = 2048  # what fits into the caches of a core; docs/log.md
MIN_TOKENS = 256  # with fewer, matrix products slow down


def batch_budget(total: int, device: torch.device) -> int:
    """Tokens of a batch for `split_by_tokens`, so that every core gets a few of ``total``."""
    if device.type != "cpu":
        return GPU_TOKENS
    return min(CPU_TOKENS, max(MIN_TOKENS, total // (2 * torch.get_num_threads())))


@cache
def keep_freed_memory() -> None:
    """Make glibc reuse the memory of one layer for the next instead of returning it to the system.

    By default glibc returns large blocks as soon as they are freed, and every layer pays for new
    pages: up to a fifth of the time. The limit follows the largest block ever freed (mallopt(3),
    "dynamic mmap threshold", at most 32 MB). This frees one such block, which is never touched.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)
