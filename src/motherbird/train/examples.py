"""Labelled documents in memory, and the batches of every step of an epoch.

A step has ``batch_size`` documents in a keyed order, in micro-batches of similar length. How they
are divided into micro-batches changes nothing but the order of floating-point sums.
"""

import hashlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.batching import concatenate
from ..core.measure import Kind
from ..core.rng import shuffled
from ..data.loader import ORDER, Cursor
from ..nn.packed import Packed
from .distributed import Distributed
from .objectives.labels import LabelledBatch


@dataclass(frozen=True, eq=False)
class Examples:
    """S documents with what to predict for them.

    Attributes:
        kind: what is predicted.
        ids: the token ids of each document.
        targets: for each document the index of its label, a vector of C, a number, or the index of
            the label of each token; as in `LabelledBatch`.
        firsts: for "tags", the first token of each word, or -1 if it has none, or was cut off.
        truncated: how many documents were truncated.
    """

    kind: Kind
    ids: Sequence[NDArray[np.int32]]
    targets: Sequence[NDArray[Any]]
    firsts: Sequence[Sequence[int]] = ()
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> list[int]:
        """The number of tokens of each document."""
        return [len(document) for document in self.ids]

    def digest(self) -> str:
        """Return the SHA-256 of all ids and targets."""
        digest = hashlib.sha256(self.kind.encode())
        for document, target in zip(self.ids, self.targets, strict=True):
            for array in (document, target):
                digest.update(repr((array.dtype.str, array.shape)).encode() + array.tobytes())
        return digest.hexdigest()

    def renumbered(self, tokens: NDArray[np.int32]) -> "Examples":
        """Return the same documents with the positions of their ids in ``tokens``, ascending."""
        ids = [np.searchsorted(tokens, document).astype(np.int32) for document in self.ids]
        return replace(self, ids=ids)

    def batch(self, numbers: Sequence[int]) -> LabelledBatch:
        """Pack some of the documents."""
        targets = [self.targets[number] for number in numbers]
        stacked = np.concatenate(targets) if self.kind == "tags" else np.stack(targets)
        packed = Packed.from_arrays(*concatenate([self.ids[number] for number in numbers]))
        return LabelledBatch(packed, torch.from_numpy(stacked))

    def _tokens(self, numbers: Sequence[int]) -> int:
        return sum(len(self.ids[number]) for number in numbers)

    def micro_batches(
        self, numbers: Sequence[int], micro_tokens: int, parts: int, ranks: int = 1
    ) -> list[LabelledBatch]:
        """Divide documents into micro-batches of similar length and size.

        There are ``parts`` or a multiple of them, and at most ``micro_tokens`` tokens in each,
        except where one document has more. If documents are missing, some micro-batches have no
        loss, so that there is a multiple of ``ranks``.
        """
        ordered = sorted(numbers, key=lambda number: len(self.ids[number]))
        ends = np.cumsum([len(self.ids[number]) for number in ordered])
        count = parts
        while True:
            # Documents whose middle is in the same of `count` equal parts of all tokens.
            middles = ends - np.diff(ends, prepend=0) / 2
            cuts = np.searchsorted(middles, ends[-1] * np.arange(1, count) / count)
            groups = [group.tolist() for group in np.split(ordered, cuts) if len(group)]
            if all(len(g) == 1 or self._tokens(g) <= micro_tokens for g in groups):
                break
            count += parts
        batches = [self.batch(group) for group in groups]
        nothing = replace(self.batch(groups[-1][:1]), counts=False)
        return batches + [nothing] * (-len(groups) % ranks)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of steps for a number of documents; the last may have fewer documents."""
    return -(-count // batch_size)


def training_batches(
    examples: Examples,
    cursor: Cursor,
    batch_size: int,
    micro_tokens: int,
    distributed: Distributed,
    threads: int,
) -> Generator[tuple[list[LabelledBatch], Cursor], None, None]:
    """Yield this rank's micro-batches of every step of an epoch, and the cursor after it.

    Args:
        examples: the documents.
        cursor: where to begin; its phase is the number of the epoch, from 0.
        batch_size: documents of a step, of all ranks.
        micro_tokens: tokens of a micro-batch, at most, unless one document has more.
        distributed: this rank; every rank gets equally many micro-batches.
        threads: micro-batches that a rank computes at the same time.
    """
    count, ranks = len(examples), distributed.world_size
    while cursor.consumed < count:
        positions = range(cursor.consumed, min(cursor.consumed + batch_size, count))
        order = shuffled(positions, count, (cursor.seed, ORDER, cursor.phase)).tolist()
        cursor = replace(cursor, consumed=cursor.consumed + len(order))
        batches = examples.micro_batches(order, micro_tokens, ranks * threads, ranks)
        yield batches[distributed.rank :: ranks], cursor
