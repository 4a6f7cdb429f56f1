"""The threads that train on a CPU: one micro-batch on each core, rather than one on all cores.

Threads that share an operation wait for each other after it, hundreds of times a batch. Threads
that run a batch each do not wait. `executor_for` creates them once per process; each of them keeps
one intra-op thread for its whole life, and the number of the calling thread never changes.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

from ..core.arguments import check_threads

Item = TypeVar("Item")
Result = TypeVar("Result")


class Executor:
    """Worker threads with one intra-op thread each.

    Args:
        count: number of worker threads. With 1 there is no worker: work runs in the calling thread.

    Raises:
        InputError: the number is not an integer from 1 to 1,024.
    """

    def __init__(self, count: int) -> None:
        self.count = count = check_threads(count)
        self._pool = _single_threaded_pool(count) if count > 1 else None

    def in_order(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield the result of every item in order.

        At most one more result than there are threads is kept in memory.

        Args:
            work: called from several threads. torch's modes such as ``inference_mode`` are local to
                a thread, so ``work`` has to enter its own.
            items: the arguments.
        """
        if self._pool is None:
            yield from map(work, items)
            return
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(self._pool.submit(work, item))
                if len(waiting) > self.count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


_executor = cache(Executor)
if hasattr(os, "register_at_fork"):  # a forked child has none of its parent's threads
    os.register_at_fork(after_in_child=_executor.cache_clear)


def executor_for(device: torch.device) -> Executor:
    """Return the threads for micro-batches: one per core on a CPU, none with a GPU."""
    return _executor(torch.get_num_threads() if device.type == "cpu" else 1)


def _single_threaded_pool(count: int) -> ThreadPoolExecutor:
    """Start ``count`` threads that keep one intra-op thread each.

    `torch.set_num_threads` sets the number of the thread that calls it, and the number that threads
    which have not used torch yet will start with. So every worker sets its own and uses torch once,
    and afterwards the number for all other threads is set back.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, thread_name_prefix="motherbird")
    all_started = threading.Barrier(count)

    def start() -> None:
        torch.set_num_threads(1)
        torch.get_num_threads()  # makes torch keep the number for this thread
        all_started.wait()

    try:
        for future in [pool.submit(start) for _ in range(count)]:
            future.result()
    finally:
        torch.set_num_threads(before)
    return pool
