"""Compute shards as tasks of Ray, on this machine or on a cluster.

A process of Ray keeps the model from one task to the next. Ray repeats the tasks of a process or
machine that is lost.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any

from ..core import threads
from ..errors import InputError, MotherbirdError, WorkerError, require_extra
from ..workers import one_line
from .shards import Done, Job, Shard, ShardTask

AHEAD = 2  # tasks that Ray has for each CPU, so that none waits for rows


def in_ray(
    job: Job, shards: Iterator[Shard], count: int | None, each: int, address: str | None
) -> Iterator[Done]:
    """Compute shards as tasks of Ray, and yield them as they are done.

    Args:
        job: of the shards.
        shards: their rows.
        count: how many tasks run at once; None is one for each CPU of Ray. Without an address,
            Ray is started with so many CPUs.
        each: threads, and CPUs, of a task.
        address: that of a cluster, such as "auto" or "ray://host:10001"; None starts Ray here.

    Raises:
        InputError: Ray cannot be reached.
        WorkerError: a task failed.
    """
    ray = require_extra("ray", "ray")
    with _session(ray, None if count is None else count * each, address):
        cpus = int(ray.cluster_resources().get("CPU", 1)) // each
        limit = count or max(1, cpus)
        room = limit if address else limit * AHEAD  # others use a cluster too
        remote = ray.remote(num_cpus=each)(compute)
        job_ref = ray.put(job)
        running = [remote.remote(job_ref, each, shard) for shard in islice(shards, room)]
        while running:
            ready, running = ray.wait(running)
            for reference in ready:
                yield _result(ray, reference)
                running += [remote.remote(job_ref, each, shard) for shard in islice(shards, 1)]


def compute(job: Job, each: int, shard: Shard) -> Done:
    """Compute a shard, in a process of Ray."""
    return _task(job, each)(shard)


@lru_cache(maxsize=1)
def _task(job: Job, each: int) -> ShardTask:
    threads.limit(each)
    return ShardTask(job)


def _result(ray: Any, reference: Any) -> Done:
    try:
        done: Done = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, MotherbirdError):
            raise error.cause from error
        raise WorkerError(one_line(error.cause)) from error
    except ray.exceptions.RayError as error:
        raise WorkerError(f"a task of Ray failed: {one_line(error)}") from error
    return done


@contextmanager
def _session(ray: Any, cpus: int | None, address: str | None) -> Iterator[None]:
    """Start Ray, or join a cluster, until the end of the block."""
    before = signal.getsignal(signal.SIGTERM)  # Ray sets its own
    try:
        if address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
            ray.init("local", num_cpus=cpus, include_dashboard=False, logging_level="error",
                     log_to_driver=False)  # fmt: skip
        else:
            ray.init(address, logging_level="error", log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        how = "check the address and the versions of Ray and Python"
        raise InputError(f"Ray cannot be used ({one_line(error)})", address or "", how) from error
    finally:
        signal.signal(signal.SIGTERM, before)
    try:
        yield
    finally:
        ray.shutdown()
