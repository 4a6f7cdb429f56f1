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
    """Load the model on the engine."""
    return load(job.directory, system.dtype, "auto", job.threads)


def load(directory: Path, dtype: str, attention: str, threads: int) -> Encode:
    """Load motherbird: the engine, or with an attention kernel, for example "oracle", torch."""
    from ...core import threads as cpu_threads
    from ...core.batching import concatenate
    from ...models import backend

    cpu_threads.limit(threads)
    model = backend.load(directory, dtype=dtype, attention=attention)

    def encode(documents: list[list[int]]) -> NDArray[np.float32]:
        return model.run(*concatenate(documents), "mean")

    def encode_all(batches: Batches) -> list[NDArray[np.float32]]:
        return list(model.map(encode, batches))

    return encode_all
