"""The systems that are measured, one module per library (a peer).

A peer is a module with

    SYSTEMS                       its systems, see `System`
    prepare(system, job)          converts the model, in a process of its own; optional
    build(system, job) -> Encode  loads the model, in the process that is measured

An `Encode` maps batches of documents of token ids to float32 vectors, one per document: the mean of
the last hidden state over the document's tokens, not normalized. The whole call is timed. An error
in `prepare`, `build` or `Encode` is reported in the rows of the system.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from ..workloads import Batches, Order

Encode = Callable[[Batches], list[NDArray[np.float32]]]

# In the order of measurement; if time is short, the last ones are not measured.
PEERS = tuple(
    f"{__name__}.{name}"
    for name in ("motherbird", "transformers", "openvino", "onnxruntime", "llama_cpp",
                 "sentence_transformers", "architectures")
)  # fmt: skip


@dataclass(frozen=True)
class System:
    """A library in one configuration."""

    peer: str  # the name of its module
    name: str  # its name in the tables; several dtypes may share it
    dtype: str  # the dtype it computes in; "auto" for the fastest on this machine
    order: Order  # how its batches are formed
    packages: tuple[str, ...] = ()  # modules that have to be installed
    # tokens of the longest document it accepts; None for the limit of the model
    longest: int | None = None
    same_weights: bool = True  # whether it runs the common model, or is compared with itself

    @property
    def key(self) -> str:
        """Its name in `--systems`."""
        return f"{self.name}/{self.dtype}"

    def missing(self) -> str | None:
        """Return which of its packages are not installed, as a reason, or None."""
        absent = [name for name in self.packages if find_spec(name) is None]
        if not absent:
            return None
        return f"{' and '.join(absent)} not installed: pip install -c constraints.txt '.[bench]'"

    def limit(self, job: "Job") -> int:
        """Return the tokens of the longest document that the system accepts."""
        return min(job.longest, self.longest or job.longest)


@dataclass(frozen=True)
class Job:
    """The model and the settings of all systems of a run."""

    directory: Path  # directory of the model
    folder: Path  # temporary directory for converted models and logs
    threads: int  # threads of each system
    # geometry of the model
    hidden_size: int
    heads: int
    vocab_size: int
    longest: int
    weights_mb: float  # size of its weight files


def peer(system: System) -> ModuleType:
    """Return the module of a system."""
    return import_module(system.peer)


def all_systems() -> list[System]:
    """Return every system of every peer, in order."""
    return [s for name in PEERS for s in import_module(name).SYSTEMS]


def one_by_one(encode: Callable[[list[list[int]]], NDArray[np.float32]]) -> Encode:
    """Return an `Encode` that calls ``encode`` on one batch after the other."""
    return lambda batches: [encode(batch) for batch in batches]


def mean_pool(states: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the mean over each document's tokens; a NaN in the padding is kept."""
    sums = np.einsum("std,st->sd", states, mask.astype(np.float32))
    return sums / mask.sum(axis=1, dtype=np.float32)[:, None]
