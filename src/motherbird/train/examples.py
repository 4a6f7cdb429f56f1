"""Labelled documents in memory."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.batching import concatenate
from ..core.measure import Kind
from ..nn.packed import Packed
from .objectives.labels import LabelledBatch
from .rows import Rows


@dataclass(frozen=True, eq=False)
class Examples(Rows[LabelledBatch]):
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

    @cached_property
    def lengths(self) -> list[int]:
        """The number of tokens of each document."""
        return [len(document) for document in self.ids]

    def tokens(self) -> NDArray[np.int32]:
        """Return the ids of all tokens that occur, ascending."""
        return np.unique(np.concatenate(self.ids))

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

    def batch(self, numbers: Sequence[int], *, counts: bool = True) -> LabelledBatch:
        """Pack some of the documents; without ``counts``, the batch has no loss."""
        targets = [self.targets[number] for number in numbers]
        stacked = np.concatenate(targets) if self.kind == "tags" else np.stack(targets)
        packed = Packed.from_arrays(*concatenate([self.ids[number] for number in numbers]))
        return LabelledBatch(packed, torch.from_numpy(stacked), counts)
