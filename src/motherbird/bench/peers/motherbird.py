"""Motherbird: packed batches, cut by tokens, one on each core as in `Embedder.embed`."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..workloads import Batches
from . import Encode, Job, System

SYSTEMS = tuple(
    System(__name__, "motherbird", dtype, "tokens") for dtype in ("float32", "bfloat16", "int8")
)


def build(system: System, job: Job) -> Encode:
    """Load the model with the attention that motherbird chooses."""
    return load(job.directory, system.dtype, "auto", job.threads)


def load(directory: Path, dtype: str, attention: str, threads: int) -> Encode:
    """Return an `Encode` of motherbird with an attention backend, for example "oracle"."""
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
