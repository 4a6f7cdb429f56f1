"""Rows of texts: a text with the vector of a teacher, or a query with its documents.

Also rows of several such tasks.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from ...arrays import Float32, Int64
from ...core.batching import concatenate
from ...core.masking import Masking
from ...core.rng import random_bits
from ...core.tokenizer import Tokenizer
from ...nn.packed import Packed
from ..objectives.texts import MaskedTokens, TextsBatch
from ..rows import Rows

AMONG, NEAR = 4096, 16  # texts among which the second of a pair is chosen, and those near it


@dataclass(frozen=True, eq=False)
class TextRows(Rows[TextsBatch]):
    """Rows of texts in memory.

    Attributes:
        ids: the token ids of each text, row by row.
        sizes: number of texts of each row.
        targets: (rows, D), the vector of a teacher for each row; (rows, 1), the cosine of its
            vectors of a pair; or None.
        scores: a teacher's score of each document of each query, or nothing.
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


def text_rows(tokenizer: Tokenizer, texts: Sequence[str], limit: int) -> TextRows:
    """Tokenize texts, each a row of at most ``limit`` tokens."""
    whole = tokenizer.encode_batch(texts)
    ids = [np.array(tokenizer.truncate(each, limit), np.int32) for each in whole]
    return TextRows(ids, [1] * len(ids), truncated=sum(len(each) > limit for each in whole))


def choose_partners(
    vectors: Float32[np.ndarray, "rows D"], key: tuple[int, ...]
) -> Int64[np.ndarray, " rows"]:
    """Choose the second text of a pair for each text, by index.

    For half of them it is one of the `NEAR` nearest texts among `AMONG` others, for the rest any of
    these.

    Args:
        vectors: those of a teacher, of length 1.
        key: decides the choice.
    """
    drawn = (random_bits(key, np.arange(len(vectors))) >> np.uint64(1)).astype(np.int64)
    second = np.empty(len(vectors), np.int64)
    for block in np.array_split(np.arange(len(vectors)), -(-len(vectors) // AMONG)):
        own, random, size = vectors[block], drawn[block], len(block)
        cosines = own @ own.T
        np.fill_diagonal(cosines, -np.inf)
        count = min(NEAR, size - 1)
        nearest = np.sort(np.argpartition(-cosines, count - 1, axis=1)[:, :count], axis=1)
        at = np.arange(size)
        near = nearest[at, (random >> 1) % count]
        other = (at + 1 + (random >> 32) % (size - 1)) % size
        second[block] = block[0] + np.where(random & 1, near, other)
    return second


def paired(
    rows: TextRows, vectors: Float32[np.ndarray, "rows D"], second: Int64[np.ndarray, " rows"]
) -> TextRows:
    """Return each text with its second one, and the cosine of their vectors as target (rows, 1)."""
    # [CLS] a [SEP] b [SEP], the tokenizer's template for pairs.
    ids = [np.concatenate([own, rows.ids[n][1:]])
           for own, n in zip(rows.ids, second.tolist(), strict=True)]  # fmt: skip
    targets = (vectors * vectors[second]).sum(axis=1, keepdims=True)
    return replace(rows, ids=ids, targets=targets)


@dataclass(frozen=True, eq=False)
class TaskRows(Rows[TextsBatch]):
    """Rows of several tasks, task by task; those of a micro-batch are of one task.

    Attributes:
        tasks: the rows of each task.
        maskings: how tokens of a task are masked, or None.
        seed: decides which tokens are.
    """

    tasks: Sequence[TextRows]
    maskings: Sequence[Masking | None]
    seed: int

    @cached_property
    def lengths(self) -> list[int]:
        """The number of tokens of each row."""
        return [length for rows in self.tasks for length in rows.lengths]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The number of the first row of each task."""
        return np.cumsum([0, *map(len, self.tasks)])[:-1]

    @property
    def truncated(self) -> int:
        """How many texts were truncated."""
        return sum(rows.truncated for rows in self.tasks)

    def tokens(self) -> NDArray[np.int32]:
        """Return the ids of all tokens that occur, also as masks, ascending."""
        masks = [masking.mask_id for masking in self.maskings if masking is not None]
        whole = [*(rows.tokens() for rows in self.tasks), np.array(masks, np.int32)]
        return np.unique(np.concatenate(whole))

    def digest(self) -> str:
        """Return the SHA-256 of all rows."""
        return hashlib.sha256("".join(rows.digest() for rows in self.tasks).encode()).hexdigest()

    def renumbered(self, tokens: NDArray[np.int32]) -> "TaskRows":
        """Return the same rows with the positions of their ids in ``tokens``, ascending."""

        def own(masking: Masking) -> Masking:
            special = tuple(np.flatnonzero(np.isin(tokens, masking.special_ids)).tolist())
            mask = int(np.searchsorted(tokens, masking.mask_id))
            return Masking(masking.rate, mask, special, len(tokens))

        return TaskRows(
            [rows.renumbered(tokens) for rows in self.tasks],
            [masking and own(masking) for masking in self.maskings],
            self.seed,
        )

    def batch(self, numbers: Sequence[int], *, counts: bool = True) -> TextsBatch:
        """Pack rows of one task; without ``counts``, the batch has no loss."""
        task = int(np.searchsorted(self.starts, numbers[0], "right")) - 1
        own = [int(number - self.starts[task]) for number in numbers]
        found = replace(self.tasks[task].batch(own, counts=counts), task=task)
        if (masking := self.maskings[task]) is None:
            return found
        ids, lengths = found.packed.ids, found.packed.lengths
        # A token has the same mask in any batch.
        positions = np.concatenate([
            (number << 16) + np.arange(length) for number, length in zip(own, lengths, strict=True)
        ])  # fmt: skip
        masked, at = masking.mask(ids.numpy(), (self.seed, task), positions)
        chosen = torch.from_numpy(at)
        packed = replace(found.packed, ids=torch.from_numpy(masked))
        return replace(found, packed=packed, masked=MaskedTokens(chosen, ids[chosen]))

    def micro_batches(
        self, numbers: Sequence[int], micro_tokens: int, parts: int, ranks: int = 1
    ) -> list[TextsBatch]:
        """Divide the rows of each task into micro-batches of similar length and size."""
        tasks = np.searchsorted(self.starts, numbers, "right") - 1
        found: list[TextsBatch] = []
        for task in range(len(self.tasks)):
            own = [number for number, each in zip(numbers, tasks, strict=True) if each == task]
            if own:
                found += super().micro_batches(own, micro_tokens, parts, ranks)
        return found
