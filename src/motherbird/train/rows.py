"""Rows of training data in memory, and the batches of every step of an epoch.

A step has ``batch_size`` rows in a keyed order, in micro-batches of similar length. How they are
divided into micro-batches changes nothing but the order of floating-point sums.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from ..core.rng import shuffled
from ..data.loader import ORDER, Cursor
from .distributed import Distributed
from .step import Batch


class Rows(ABC, Generic[Batch]):
    """What a run trains on: a row is a text with its label, a question with answers, and so on."""

    @property
    @abstractmethod
    def lengths(self) -> list[int]:
        """The number of tokens of each row."""

    @abstractmethod
    def tokens(self) -> NDArray[np.int32]:
        """Return the ids of all tokens that occur, ascending."""

    @abstractmethod
    def digest(self) -> str:
        """Return the SHA-256 of all rows."""

    @abstractmethod
    def batch(self, numbers: Sequence[int], *, counts: bool = True) -> Batch:
        """Pack some of the rows; without ``counts``, the batch has no loss."""

    def __len__(self) -> int:
        return len(self.lengths)

    def micro_batches(
        self, numbers: Sequence[int], micro_tokens: int, parts: int, ranks: int = 1
    ) -> list[Batch]:
        """Divide rows into micro-batches of similar length and size.

        There are ``parts`` or a multiple of them, and at most ``micro_tokens`` tokens in each,
        except where one row has more. If rows are missing, some micro-batches have no loss, so that
        there is a multiple of ``ranks``.
        """
        lengths = self.lengths
        ordered = sorted(numbers, key=lengths.__getitem__)
        ends = np.cumsum([lengths[number] for number in ordered])
        count = parts
        while True:
            # Rows whose middle is in the same of `count` equal parts of all tokens.
            middles = ends - np.diff(ends, prepend=0) / 2
            cuts = np.searchsorted(middles, ends[-1] * np.arange(1, count) / count)
            groups = [group.tolist() for group in np.split(ordered, cuts) if len(group)]
            if all(len(g) == 1 or sum(lengths[n] for n in g) <= micro_tokens for g in groups):
                break
            count += parts
        nothing = [self.batch(groups[-1][:1], counts=False)] * (-len(groups) % ranks)
        return [self.batch(group) for group in groups] + nothing


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of steps for a number of rows; the last may have fewer rows."""
    return -(-count // batch_size)


def training_batches(
    rows: Rows[Batch],
    cursor: Cursor,
    batch_size: int,
    micro_tokens: int,
    distributed: Distributed,
    threads: int,
) -> Generator[tuple[list[Batch], Cursor], None, None]:
    """Yield this rank's micro-batches of every step of an epoch, and the cursor after it.

    Args:
        rows: the data.
        cursor: where to begin; its phase is the number of the epoch, from 0.
        batch_size: rows of a step, of all ranks.
        micro_tokens: tokens of a micro-batch, at most, unless one row has more.
        distributed: this rank; every rank gets equally many micro-batches.
        threads: micro-batches that a rank computes at the same time.
    """
    count, ranks = len(rows), distributed.world_size
    while cursor.consumed < count:
        positions = range(cursor.consumed, min(cursor.consumed + batch_size, count))
        order = shuffled(positions, count, (cursor.seed, ORDER, cursor.phase)).tolist()
        cursor = replace(cursor, consumed=cursor.consumed + len(order))
        batches = rows.micro_batches(order, micro_tokens, ranks * threads, ranks)
        yield batches[distributed.rank :: ranks], cursor
