"""The number of CPU threads of the engine, the tokenizer and torch."""

import os
import sys

from .arguments import check_threads

_count: int | None = None


def count() -> int:
    """Return the number of threads that `limit` set, or that of the cores of this process."""
    if _count is not None:
        return _count
    has = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has else os.cpu_count() or 1


def chosen() -> int | None:
    """Return the number of threads that `limit` set, or None."""
    return _count


def limit(number: int) -> None:
    """Set the number of threads, also for torch if it is imported, now or later.

    Raises:
        InputError: it is not an integer from 1 to 1,024.
    """
    global _count
    _count = check_threads(number)
    os.environ |= {"RAYON_NUM_THREADS": str(_count), "OMP_NUM_THREADS": str(_count)}
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(_count)
