"""The loader: rows in an order of chance that depends on nothing but (seed, phase, epoch).

A global step takes the next rows, and each rank its slice of them: what is trained on is the same
for any number of ranks, of workers, and of rows a step, and a handful of numbers (`Cursor`) is the
loader's whole state.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from ..core.masking import Masking
from ..core.rng import shuffled
from ..errors import InputError, WorkerError
from ..nn.packed import Packed
from .prepared import PreparedDataset, Rows
from .workers import in_order, pool

ORDER, MASKS = 1, 2  # what a draw is for: equal keys would draw alike
LIMIT = 60.0  # seconds that a worker may take for a batch


@dataclass(frozen=True)
class Cursor:
    """Where a phase stands: the whole state of a loader.

    Attributes:
        seed: of the order and the masks, together with phase and epoch.
        phase: number of the phase.
        consumed: rows taken since the phase began, by all ranks together; an epoch is as many as
            there are rows, so that this is the epoch too.
        fingerprint: of the prepared set; empty where none was met yet.
        skipped: how many of the consumed rows were left out.
    """

    seed: int
    phase: int = 0
    consumed: int = 0
    fingerprint: str = ""
    skipped: int = 0

    @property
    def rows(self) -> int:
        """Rows that were trained on."""
        return self.consumed - self.skipped

    def beyond(self, skips: Sequence[tuple[int, int]]) -> "Cursor":
        """Past the stretches of the order that are left out, if it stands in one."""
        for first, last in skips:
            if first <= self.consumed < last:
                more = last - self.consumed
                return replace(self, consumed=last, skipped=self.skipped + more).beyond(skips)
        return self


@dataclass(frozen=True)
class RowFilter:
    """Which rows of a set a phase is made of.

    Attributes:
        seq_len: tokens of a row.
        held_out: the documents that were set aside, or the others.
        sources: only these; all if not set.
        min_tokens: only documents of so many.
    """

    seq_len: int
    held_out: bool = False
    sources: tuple[str, ...] | None = None
    min_tokens: int = 0


@dataclass(frozen=True, eq=False)
class Batch:
    """A rank's rows of one step, masked.

    Attributes:
        ids: what is fed.
        lengths: tokens of each piece of a document, in the order of ``ids``.
        positions: where in ``ids`` something is to be predicted.
        targets: the ids that stood there.
        rows: numbers of the rows in the set.
        row_tokens: tokens of each.
        cursor: the state behind this step, of all ranks together.
    """

    ids: Int[np.ndarray, " T"]
    lengths: Int[np.ndarray, " S"]
    positions: Int[np.ndarray, " M"]
    targets: Int[np.ndarray, " M"]
    rows: Int[np.ndarray, " rows"]
    row_tokens: Int[np.ndarray, " rows"]
    cursor: Cursor

    def micro_batches(self, rows: int) -> "Iterator[MicroBatch]":
        """Packs of so many rows, in order; the last may have fewer."""
        ends = self.row_tokens.cumsum()
        pieces = self.lengths.cumsum()
        for first in range(0, len(ends), rows):
            stop = min(len(ends), first + rows) - 1
            begin, end = int(ends[first] - self.row_tokens[first]), int(ends[stop])
            a, b = np.searchsorted(self.positions, (begin, end))
            lengths = self.lengths[(pieces > begin) & (pieces <= end)]
            yield MicroBatch(
                Packed.from_arrays(self.ids[begin:end], np.cumsum([0, *lengths])),
                torch.from_numpy(self.positions[a:b] - begin),
                torch.from_numpy(self.targets[a:b]),
            )


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """What a model takes at a time.

    Attributes:
        packed: the documents, masked.
        positions: the tokens to be predicted.
        targets: what they should be.
    """

    packed: Packed
    positions: Int[torch.Tensor, " M"]
    targets: Int[torch.Tensor, " M"]


@dataclass(frozen=True)
class BatchRequest:
    """All that a batch depends on: rows ``first`` to ``last`` of a phase, and the state behind."""

    first: int
    last: int
    behind: Cursor


class BatchBuilder:
    """Makes batches for requests; what a worker process does.

    Args:
        argument: the set's directory, which of its rows, and what is hidden.
    """

    def __init__(self, argument: tuple[Path, RowFilter, Masking]) -> None:
        self.directory, choice, self.masking = argument
        self.rows = chosen_rows(PreparedDataset(self.directory, verify=False), choice)

    def __call__(self, request: BatchRequest) -> Batch:
        """Gather the rows, epoch by epoch, and mask them.

        Raises:
            WorkerError: they cannot be read.
        """
        try:
            return self._make(request)
        except (OSError, MemoryError) as error:  # the set was verified
            raise WorkerError(
                f"rows {request.first} to {request.last - 1} of the order cannot be read "
                f"({str(error) or type(error).__name__})",
                str(self.directory),
                "motherbird data show verifies the set",
            ) from error

    def _make(self, request: BatchRequest) -> Batch:
        taken = np.arange(request.first, request.last)
        epochs, places = taken // len(self.rows), taken % len(self.rows)
        seed, phase = request.behind.seed, request.behind.phase
        parts = []
        offset = 0
        for epoch in np.unique(epochs).tolist():
            order = (ORDER, seed, phase, epoch)
            numbers = shuffled(places[epochs == epoch], len(self.rows), order)
            ids, lengths, row_tokens = self.rows.gather(numbers)
            within = np.arange(len(ids)) - np.repeat(row_tokens.cumsum() - row_tokens, row_tokens)
            place = np.repeat(numbers << 32, row_tokens) + within
            fed, hidden = self.masking.mask(ids, (MASKS, seed, phase, epoch), place)
            parts.append((fed, lengths, hidden + offset, ids[hidden], numbers, row_tokens))
            offset += len(ids)
        fed, lengths, hidden, targets, numbers, row_tokens = map(
            np.concatenate, zip(*parts, strict=True)
        )
        return Batch(fed, lengths, hidden, targets, numbers, row_tokens, request.behind)


def chosen_rows(prepared: PreparedDataset, choice: RowFilter) -> Rows:
    """The rows of a choice; of some sources or of long documents only, they are packed now."""
    return prepared.rows(
        choice.seq_len,
        held_out=choice.held_out,
        sources=choice.sources,
        min_tokens=choice.min_tokens,
    )


def masking_of(prepared: PreparedDataset, rate: float) -> Masking:
    """How a set's tokenizer masks."""
    tokenizer = prepared.tokenizer
    return Masking(rate, tokenizer.mask_id, tuple(tokenizer.special_ids), tokenizer.vocab_size)


class Loader:
    """Batches of a phase, without end.

    Args:
        prepared: the set, verified.
        choice: which of its rows.
        cursor: where to go on; a fresh one to begin.
        masking: what is hidden.
        step_rows: rows of the global step that begins after so many were trained on.
        rank: of this process among those that share a step.
        world_size: how many these are.
        workers: processes that work ahead; 0 makes each batch when it is asked for.
        limit: seconds after which a worker that does not answer is replaced.
        skips: stretches of the order that are left out: first row, and the one behind the last.

    Raises:
        InputError: the cursor is of another set, or a step cannot be shared.
        WorkerError: a worker died or hung three times over a batch, or rows cannot be read.
    """

    def __init__(
        self,
        prepared: PreparedDataset,
        choice: RowFilter,
        cursor: Cursor,
        masking: Masking,
        step_rows: Callable[[int], int],
        *,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        limit: float = LIMIT,
        skips: Sequence[tuple[int, int]] = (),
    ) -> None:
        if cursor.fingerprint not in ("", prepared.fingerprint):
            raise InputError(
                "the prepared text is not the one that this run began with",
                str(prepared.directory),
                "give the same folder, or begin a new run",
            )
        self.rows = len(chosen_rows(prepared, choice))
        if not self.rows:
            raise InputError("there is no row to read", str(prepared.directory))
        self.cursor = replace(cursor, fingerprint=prepared.fingerprint)
        self._argument = (prepared.directory, choice, masking)
        self._step_rows, self._rank, self._world = step_rows, rank, world_size
        self._workers, self._limit, self._skips = workers, limit, tuple(skips)

    def __iter__(self) -> Generator[Batch, None, None]:
        """Batches from the cursor on; `cursor` moves as they are taken."""
        if not self._workers:
            yield from self._taken(map(BatchBuilder(self._argument), self._requests()))
            return
        with pool(self._workers, BatchBuilder, self._argument, self._limit) as workers:
            yield from self._taken(in_order(workers, self._requests()))

    def _taken(self, batches: Iterator[Any]) -> Iterator[Batch]:
        for batch in batches:
            self.cursor = batch.cursor
            yield batch

    def _requests(self) -> Iterator[BatchRequest]:
        cursor = self.cursor
        while True:
            cursor = cursor.beyond(self._skips)
            rows = self._step_rows(cursor.rows)
            if rows < 1 or rows % self._world:
                raise InputError(f"a step of {rows} rows cannot be shared by {self._world} ranks")
            first = cursor.consumed + self._rank * rows // self._world
            cursor = replace(cursor, consumed=cursor.consumed + rows)
            yield BatchRequest(first, first + rows // self._world, cursor)
