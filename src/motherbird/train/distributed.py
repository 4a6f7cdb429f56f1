"""The processes that share a step: a single process, or those started by torchrun.

Every rank holds a whole replica, and gradients are summed once per step, after the last
micro-batch. At these model sizes this takes thousandths of a step (docs/cluster.md), so nothing is
overlapped with the backward pass.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..arrays import Shaped
from ..errors import InputError, MotherbirdError, WorkerError
from ..nn.devices import resolve_device

T = TypeVar("T")
# Seconds for what rank 0 does alone: verify and read a checkpoint, write the last one.
SLOW_TIMEOUT = 1800.0
TURN_TIMEOUT = 24 * 3600.0  # for one turn of `Distributed.in_turns`: terabytes may be hashed
# What gloo and NCCL say if another rank ended, hangs or cannot be reached.
LOST = re.compile(
    r"(closed|reset) by peer|broken pipe|socket closed|refused|time(d )?out|pair closure"
    r"|connectFullMesh|remote process|network error|communicator was aborted",
    re.IGNORECASE,
)


@contextmanager
def _rank_errors() -> Iterator[None]:
    """Replace torch's messages about a lost rank, which name sockets and internal errors."""
    try:
        yield
    except RuntimeError as error:
        network = isinstance(error, dist.DistNetworkError | dist.DistStoreError)
        if not network and not LOST.search(str(error)):
            raise
        raise WorkerError(
            "another rank ended or did not answer in time",
            f"rank {os.environ.get('RANK', '?')}",
            "read the message of that rank; the same command resumes from the last checkpoint",
        ) from error


@dataclass(frozen=True)
class Distributed:
    """This process among all ranks, and the collective operations."""

    rank: int  # number of this process; rank 0 writes files and output
    world_size: int  # number of processes
    device: torch.device  # device of this rank
    # process group with a long timeout, used while rank 0 reads, verifies and writes
    slow_group: Any = None
    local_rank: int = 0  # number of this process among those of its machine

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and output."""
        return self.rank == 0

    @_rank_errors()
    def all_gather(self, values: Sequence[int | float]) -> list[list[float]]:
        """Return the values of every rank, in rank order; each rank passes the same number."""
        if self.world_size == 1:
            return [[float(value) for value in values]]
        own = torch.tensor(values, dtype=torch.float64, device=self.device)
        parts = [torch.empty_like(own) for _ in range(self.world_size)]
        dist.all_gather(parts, own)
        return [part.tolist() for part in parts]

    @_rank_errors()
    def all_reduce(self, tensors: Sequence[Shaped[Tensor, "..."]], tree: bool) -> None:
        """Replace tensors by their sum over all ranks, in the backend's order.

        With ``tree``, for a power of two of ranks, add pairs of ranks, then pairs of pairs, and so
        on.
        """
        if self.world_size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        if tree:
            other = torch.empty_like(flat)
            distance = 1
            while distance < self.world_size:
                partner = self.rank ^ distance
                calls = [
                    dist.P2POp(dist.isend, flat, partner),
                    dist.P2POp(dist.irecv, other, partner),
                ]
                for work in dist.batch_isend_irecv(calls):
                    work.wait()
                flat = flat + other  # a new tensor, because the old one may still be read
                distance *= 2
        else:
            dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    @_rank_errors()
    def broadcast_object(self, value: T) -> T:
        """Return rank 0's value, which is pickled, on every rank."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, 0, group=self.slow_group)
        return values[0]

    def in_turns(self, function: Callable[[], T]) -> T:
        """Call a function on rank 0, then on the first rank of other machines, then on the others.

        So what one rank leaves in a cache directory is there for all ranks that share it. The
        result is that of this rank. If a rank raises a MotherbirdError, every rank raises it.
        """
        if self.world_size == 1:
            return function()
        with _rank_errors():
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=TURN_TIMEOUT))
        own = 0 if self.is_main else 1 if self.local_rank == 0 else 2
        results: list[T] = []
        for turn in range(3):
            error = None
            if turn == own:
                try:
                    results.append(function())
                except MotherbirdError as raised:
                    error = raised
            errors: list[Any] = [None] * self.world_size
            with _rank_errors():
                dist.all_gather_object(errors, error, group=group)
            for each in errors:
                if each is not None:
                    raise error or each
        dist.destroy_process_group(group)
        return results[0]

    @_rank_errors()
    def broadcast(self, tensors: Sequence[Shaped[Tensor, "..."]]) -> None:
        """Replace tensors by those of rank 0."""
        if self.world_size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)


@contextmanager
def join(device: str | None, timeout: float) -> Iterator[Distributed]:
    """Join the process group, if torchrun started this process; with "cuda" each rank has its GPU.

    Raises:
        InputError: the device is not available, or torchrun's variables are incomplete.
        WorkerError: another rank ended, or did not answer for ``timeout`` seconds, here or later.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size == 1:
        yield Distributed(0, 1, resolve_device(device))
        return
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    chosen = resolve_device(f"cuda:{local_rank}" if device == "cuda" else device)
    if "MASTER_ADDR" not in os.environ or "RANK" not in os.environ:
        raise InputError(
            "WORLD_SIZE is set without RANK and MASTER_ADDR",
            how="start the command with torchrun -m motherbird ...",
        )
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    with _rank_errors():
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout)
        )
    try:
        slow = timedelta(seconds=max(timeout, SLOW_TIMEOUT))
        with _rank_errors():
            slow_group = dist.new_group(backend="gloo", timeout=slow)
        rank, world_size = dist.get_rank(), dist.get_world_size()
        yield Distributed(rank, world_size, chosen, slow_group, local_rank)
        # A rank that leaves early closes the connections of those that still need them.
        with _rank_errors():
            dist.barrier(slow_group)
    finally:
        dist.destroy_process_group()
