"""The systems that are measured, one file a peer.

A peer is a module with

    SYSTEMS                       its systems, `System`
    why_not(system) -> str|None   a reason why one cannot run here, found without importing much
    prepare(system, job)          converts, in a process of its own, what is then loaded by
    build(system, job) -> Encode  called in the process that is measured

An `Encode` turns batches of documents of token ids into float32 vectors, one a document: the mean
of the last hidden state over the document's own tokens, not normalised. All that it does is timed.
Whatever goes wrong in `prepare`, `build` or `Encode` becomes the reason in the system's rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..workloads import Batches, Order

Encode = Callable[[Batches], list[NDArray[np.float32]]]

# In the order of the tables; where time is short, the first ones get it.
PEERS = (
    "motherbird.bench.peers.motherbird",
    "motherbird.bench.peers.transformers",
    "motherbird.bench.peers.openvino",
    "motherbird.bench.peers.onnxruntime",
    "motherbird.bench.peers.sentence_transformers",
    "motherbird.bench.peers.architectures",
)


@dataclass(frozen=True)
class System:
    """One way to run a model.

    Attributes:
        peer: the module it is in.
        name: as in the tables; a name may come in several dtypes.
        dtype: what it computes in; "auto" is this machine's fastest.
        order: how it wants its batches.
        longest: tokens of the longest document it takes; None the model's own limit.
        same_weights: whether it runs the model that all are given, or one of its own, which is
            then compared with itself.
    """

    peer: str
    name: str
    dtype: str
    order: Order
    longest: int | None = None
    same_weights: bool = True

    @property
    def key(self) -> str:
        """What `--systems` calls it."""
        return f"{self.name}/{self.dtype}"

    def limit(self, job: "Job") -> int:
        """Tokens of the longest document that the system takes of the job's model."""
        return min(job.longest, self.longest or job.longest)


@dataclass(frozen=True)
class Job:
    """What all systems of a run are given.

    Attributes:
        directory: of the model.
        folder: a temporary one, for what is converted; it outlives no run.
        threads: that each may use.
        hidden_size, heads, vocab_size, longest: of the model.
        weights_mb: of its file.
    """

    directory: Path
    folder: Path
    threads: int
    hidden_size: int
    heads: int
    vocab_size: int
    longest: int
    weights_mb: float


@runtime_checkable
class Peer(Protocol):
    """What a module in this folder offers."""

    SYSTEMS: tuple[System, ...]

    def why_not(self, system: System) -> str | None:
        """A reason why the system cannot run here, or None."""

    def prepare(self, system: System, job: Job) -> None:
        """Write into ``job.folder`` what `build` loads; systems may share it."""

    def build(self, system: System, job: Job) -> Encode:
        """Load the model."""


def peer(system: System) -> Peer:
    """The module of a system."""
    return cast(Peer, import_module(system.peer))


def all_systems() -> list[System]:
    """Every system of every peer, in order."""
    return [s for name in PEERS for s in cast(Peer, import_module(name)).SYSTEMS]


def missing(*modules: str) -> str | None:
    """The reason for a peer whose packages are not installed, or None where all are."""
    absent = [name for name in modules if find_spec(name) is None]
    if not absent:
        return None
    return f"{' and '.join(absent)} not installed: pip install 'motherbird[bench]'"


def in_turn(encode: Callable[[list[list[int]]], NDArray[np.float32]]) -> Encode:
    """An `Encode` that takes one batch after the other."""
    return lambda batches: [encode(batch) for batch in batches]


def rectangle(documents: list[list[int]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids padded by 0 to the longest document, and the attention mask, as padding peers want."""
    ids = np.zeros((len(documents), max(map(len, documents))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = document
        mask[row, : len(document)] = 1
    return ids, mask


def mean(hidden: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean over a document's own tokens; a NaN in its padding shows, as it does for every user."""
    sums = np.einsum("std,st->sd", hidden, mask.astype(np.float32))
    return sums / mask.sum(axis=1, dtype=np.float32)[:, None]
