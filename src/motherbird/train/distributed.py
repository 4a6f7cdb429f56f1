"""The processes that share a step: one, or those that torchrun started.

Replicas are whole on every rank, and their gradients are added up once a step, behind the last
micro-batch: at these sizes that costs thousandths of a step (docs/cluster.md), and nothing has to
be hidden behind the backward pass.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from ..errors import InputError, WorkerError
from ..nn.devices import resolve_device

PATIENCE = 1800.0  # seconds for what rank 0 does alone: verify and read a checkpoint, save the last


@contextmanager
def _answered() -> Iterator[None]:
    """Say in our words that another rank is gone: torch's speak of sockets and bugs."""
    try:
        yield
    except torch.OutOfMemoryError:  # is one too, and this rank's own
        raise
    except RuntimeError as error:  # gloo's, and those of torch.distributed
        raise WorkerError(
            "another rank ended or did not answer in time",
            f"rank {dist.get_rank()}",
            "its own message says why; the same command goes on from the last save",
        ) from error


@dataclass(frozen=True)
class World:
    """Who takes part.

    Attributes:
        rank: of this process; 0 writes and speaks.
        size: processes.
        device: where this one computes.
        patient: a group that waits longer, while rank 0 reads, verifies and writes.
    """

    rank: int
    size: int
    device: torch.device
    patient: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks."""
        return self.rank == 0

    @_answered()
    def gather(self, values: Sequence[int | float]) -> list[list[float]]:
        """Equally many numbers of every rank, in the order of ranks."""
        if self.size == 1:
            return [[float(value) for value in values]]
        mine = torch.tensor(values, dtype=torch.float64, device=self.device)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        return [part.tolist() for part in parts]

    @_answered()
    def add(self, tensors: Sequence[Shaped[Tensor, "..."]], tree: bool) -> None:
        """Replace tensors by their sum over all ranks.

        Args:
            tensors: alike on every rank.
            tree: add neighbours, then neighbouring pairs, and so on, instead of as the backend
                likes; for powers of two.
        """
        if self.size == 1:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        if tree:
            other = torch.empty_like(flat)
            distance = 1
            while distance < self.size:
                partner = self.rank ^ distance
                calls = [
                    dist.P2POp(dist.isend, flat, partner),
                    dist.P2POp(dist.irecv, other, partner),
                ]
                for work in dist.batch_isend_irecv(calls):
                    work.wait()
                flat = flat + other  # a new tensor: what was sent may still be read
                distance *= 2
        else:
            dist.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    @_answered()
    def tell(self, text: str) -> str:
        """What rank 0 says, on every rank."""
        if self.size == 1:
            return text
        data = torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8)
        length = torch.tensor([len(data)])
        dist.broadcast(length, 0, group=self.patient)
        if self.rank:
            data = torch.zeros(int(length), dtype=torch.uint8)
        dist.broadcast(data, 0, group=self.patient)
        return bytes(data.tolist()).decode()

    @_answered()
    def share(self, tensors: Sequence[Shaped[Tensor, "..."]]) -> None:
        """Give every rank what rank 0 has."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)


@contextmanager
def join(device: str | None, timeout: float) -> Iterator[World]:
    """Meet the other ranks, where torchrun has started some.

    Args:
        device: "cpu", "cuda" or the like; None the CPU. Each rank of a node takes a GPU.
        timeout: seconds after which a rank that does not answer is given up.

    Raises:
        InputError: the device is not there, or torchrun's variables make no sense.
        WorkerError: where another rank ends or hangs, by this and all that ranks do together.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield World(0, 1, resolve_device(device))
        return
    local = int(os.environ.get("LOCAL_RANK", 0))
    chosen = resolve_device(f"cuda:{local}" if device == "cuda" else device)
    if "MASTER_ADDR" not in os.environ or "RANK" not in os.environ:
        raise InputError(
            "WORLD_SIZE is set without RANK and MASTER_ADDR",
            how="start it by torchrun -m motherbird pretrain ...",
        )
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group(
        "nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout)
    )
    try:
        patient = dist.new_group(backend="gloo", timeout=timedelta(seconds=max(timeout, PATIENCE)))
        yield World(dist.get_rank(), dist.get_world_size(), chosen, patient)
        # Who leaves first would take connections away from the others; rank 0 may still be saving.
        with _answered():
            dist.barrier(patient)
    finally:
        dist.destroy_process_group()
