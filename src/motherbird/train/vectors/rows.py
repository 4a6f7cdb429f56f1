"""Rows of texts: a text with the vector of a teacher, or a query with its documents."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from ...arrays import Float32
from ...core.batching import concatenate
from ...nn.packed import Packed
from ..objectives.texts import TextsBatch
from ..rows import Rows


@dataclass(frozen=True, eq=False)
class TextRows(Rows[TextsBatch]):
    """Rows of texts in memory.

    Attributes:
        ids: the token ids of each text, row by row.
        sizes: number of texts of each row.
        targets: (rows, D), the vector of a teacher for each row, or None.
        scores: a teacher's score of each document of each row, or nothing.
        truncated: how many texts were truncated.
    """

    ids: Sequence[NDArray[np.int32]]
    sizes: Sequence[int]
    targets: Float32[np.ndarray, "rows D"] | None = None
    scores: Sequence[NDArray[np.float32]] = ()
    truncated: int = 0

    @cached_property
    def starts(self) -> list[int]:
        """The index of the first text of each row, and the number of texts."""
        return np.cumsum([0, *self.sizes]).tolist()

    @cached_property
    def lengths(self) -> list[int]:
        """The number of tokens of each row."""
        sums = np.cumsum([0, *(len(text) for text in self.ids)])[self.starts]
        return np.diff(sums).tolist()

    def tokens(self) -> NDArray[np.int32]:
        """Return the ids of all tokens that occur, ascending."""
        return np.unique(np.concatenate(self.ids))

    def digest(self) -> str:
        """Return the SHA-256 of all rows, without the targets."""
        digest = hashlib.sha256(repr(list(self.sizes)).encode())
        for text in self.ids:
            digest.update(len(text).to_bytes(8, "little") + text.tobytes())
        for scores in self.scores:
            digest.update(scores.tobytes())
        return digest.hexdigest()

    def renumbered(self, tokens: NDArray[np.int32]) -> "TextRows":
        """Return the same rows with the positions of their ids in ``tokens``, ascending."""
        ids = [np.searchsorted(tokens, text).astype(np.int32) for text in self.ids]
        return replace(self, ids=ids)

    def batch(self, numbers: Sequence[int], *, counts: bool = True) -> TextsBatch:
        """Pack some of the rows; without ``counts``, the batch has no loss."""
        texts = [
            self.ids[text]
            for number in numbers
            for text in range(self.starts[number], self.starts[number + 1])
        ]
        return TextsBatch(
            Packed.from_arrays(*concatenate(texts)),
            tuple(self.sizes[number] for number in numbers),
            tuple(text.tobytes() for text in texts),
            None if self.targets is None else torch.from_numpy(self.targets[list(numbers)]),
            tuple(self.scores[number] for number in numbers) if self.scores else (),
            counts,
        )
