"""Compute shards in worker processes."""

import logging
from collections.abc import Callable, Iterator

from .. import workers as processes
from ..core import threads
from .shards import Done, Job, Shard, ShardTask


def in_workers(job: Job, shards: Iterator[Shard], count: int, each: int) -> Iterator[Done]:
    """Compute shards in ``count`` processes of ``each`` threads, and yield them as they are done.

    A worker that dies is replaced, and its shard is computed again.
    """
    with processes.pool(count, start, (job, each)) as pool:
        yield from processes.as_completed(pool, shards)


def start(job: Job, each: int) -> Callable[[Shard], Done]:
    """Load the model in a worker process of ``each`` threads; warnings are those of the parent."""
    threads.limit(each)
    logging.getLogger("motherbird").setLevel(logging.ERROR)
    return ShardTask(job)
