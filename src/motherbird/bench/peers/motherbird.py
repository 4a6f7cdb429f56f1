"""Motherbird itself: packed batches, cut by tokens, one on every core as `Embedder.embed` does."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..workloads import Batches
from . import Encode, Job, System

SYSTEMS = tuple(
    System(__name__, "motherbird", dtype, "tokens") for dtype in ("float32", "bfloat16", "int8")
)


def why_not(system: System) -> str | None:
    """What cannot be loaded in a dtype says so itself."""
    return None


def prepare(system: System, job: Job) -> None:
    """Nothing to convert."""


def build(system: System, job: Job) -> Encode:
    """`Encoder.load` as anyone would call it."""
    return load(job.directory, system.dtype, "auto", job.threads)


def load(directory: Path, dtype: str, attention: str, threads: int) -> Encode:
    """An `Encode` of our own, with any attention backend; the oracle is one."""
    import torch

    from ...nn.encoder import Encoder
    from ...nn.heads import pool
    from ...nn.packed import pack
    from ...nn.threads import executor

    torch.set_num_threads(threads)
    encoder = Encoder.load(directory, dtype=dtype, attention=attention)

    @torch.inference_mode()
    def encode(documents: list[list[int]]) -> NDArray[np.float32]:
        packed = pack(documents)
        return pool(encoder(packed).float(), packed, "mean").numpy()

    def encode_all(batches: Batches) -> list[NDArray[np.float32]]:
        done = dict(executor().as_completed(encode, batches))
        return [done[number] for number in range(len(batches))]

    return encode_all
