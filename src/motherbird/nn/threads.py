"""Every core of a CPU at work: whole batches side by side, rather than each operation cut up.

Threads that share an operation wait for each other after it, hundreds of times a batch, and wait
long where the machine has other work to do. Threads that have a batch each never wait.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from typing import TypeVar

import torch

GPU_TOKENS = 8192
CPU_TOKENS = 2048  # what a core holds in its caches; docs/log.md
LEAST_TOKENS = 256  # below it the products slow down

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_batches(
    work: Callable[[Item], Result], items: Sequence[Item]
) -> Iterator[tuple[int, Result]]:
    """Number and result of every item, as they get done; first items are begun first.

    Where there are fewer items than threads (`torch.get_num_threads`) they run one after another,
    each on all threads.

    Args:
        work: called on several threads at once; torch's modes (``inference_mode``) are its own.
        items: what it is called with.
    """
    threads = torch.get_num_threads()
    if threads == 1 or len(items) < threads:
        yield from ((number, work(item)) for number, item in enumerate(items))
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        numbers = {pool.submit(work, item): number for number, item in enumerate(items)}
        try:
            for done in as_completed(numbers):
                yield numbers.pop(done), done.result()
        finally:
            pool.shutdown(cancel_futures=True)
            torch.set_num_threads(threads)  # a thread's own number is also that of later threads


def batch_budget(total: int, device: torch.device) -> int:
    """A good budget for `split_by_tokens` of ``total`` tokens: every core gets a few batches."""
    if device.type != "cpu":
        return GPU_TOKENS
    return min(CPU_TOKENS, max(LEAST_TOKENS, total // (2 * torch.get_num_threads())))


@cache
def keep_freed_memory() -> None:
    """Let a process on glibc use the memory of one layer again for the next.

    By default glibc hands large blocks back to the system as they are freed, and every layer pays
    for fresh pages: up to a fifth of the time. Its threshold follows the largest block that was
    ever freed (mallopt(3), "dynamic mmap threshold", at most 32 MB); this frees one, never touched.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)
