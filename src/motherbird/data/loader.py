"""The data loader: batches of masked rows in a random order that is keyed by seed, phase and epoch.

A step takes the next rows of the order, and each rank a slice of them. The order does not depend on
the number of ranks, of workers, or of rows per step. `Cursor` is the whole state of the loader.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Int
from ..core.arguments import check_flag, check_integer, check_type
from ..core.masking import Masking, masking_for
from ..core.rng import shuffled
from ..errors import InputError, WorkerError, counted
from ..workers import in_order, pool
from .prepared import PreparedDataset, Rows, check_selection

if TYPE_CHECKING:
    from .micro_batch import MicroBatch

ORDER, MASKS = 1, 2  # first number of a random key, so that different draws are independent
LIMIT = 60.0  # seconds in which a worker has to build a batch


@dataclass(frozen=True)
class Cursor:
    """A position in a phase: the whole state of a loader."""

    seed: int  # seed of the order and of the masks
    phase: int = 0  # number of the phase
    # rows taken since the beginning of the phase, by all ranks, including skipped ones. The epoch
    # is this divided by the number of rows.
    consumed: int = 0
    fingerprint: str = ""  # fingerprint of the prepared dataset; empty at the beginning
    skipped: int = 0  # rows that were skipped

    def __post_init__(self) -> None:
        for name, largest in (("seed", 2**64 - 1), ("phase", None), ("consumed", None)):
            check_integer(getattr(self, name), name, 0, largest)

    @property
    def rows(self) -> int:
        """Rows that were used for training."""
        return self.consumed - self.skipped

    def beyond(self, skips: Sequence[tuple[int, int]]) -> "Cursor":
        """Return the first position that is not in one of the skipped ranges."""
        for first, last in skips:
            if first <= self.consumed < last:
                more = last - self.consumed
                return replace(self, consumed=last, skipped=self.skipped + more).beyond(skips)
        return self


@dataclass(frozen=True)
class RowFilter:
    """Selects rows of a prepared dataset."""

    seq_len: int  # tokens of a row
    held_out: bool = False  # whether to use the held-out documents, or the others
    sources: tuple[str, ...] | None = None  # names of sources to use; all if None
    min_tokens: int = 0  # use only documents with at least this many tokens

    def __post_init__(self) -> None:
        check_flag(self.held_out, "held_out")
        check_selection(self.seq_len, self.sources, self.min_tokens)


@dataclass(frozen=True, eq=False)
class Batch:
    """The masked rows of one rank in one step."""

    ids: Int[np.ndarray, " T"]  # input ids
    lengths: Int[np.ndarray, " S"]  # tokens of each piece of a document, in the order of ``ids``
    positions: Int[np.ndarray, " M"]  # indices of the masked tokens in ``ids``
    targets: Int[np.ndarray, " M"]  # the original ids at ``positions``
    rows: Int[np.ndarray, " rows"]  # numbers of the rows in the dataset
    row_tokens: Int[np.ndarray, " rows"]  # tokens of each row
    cursor: Cursor  # state of the loader after this step

    def micro_batches(self, rows: int) -> "Iterator[MicroBatch]":
        """Yield the batch in packs of ``rows`` rows; the last may have fewer."""
        import torch  # which workers do not need

        from ..nn.packed import Packed
        from .micro_batch import MicroBatch

        ends = self.row_tokens.cumsum()
        pieces = self.lengths.cumsum()
        for first in range(0, len(ends), rows):
            stop = min(len(ends), first + rows) - 1
            begin, end = int(ends[first] - self.row_tokens[first]), int(ends[stop])
            a, b = np.searchsorted(self.positions, (begin, end))
            lengths = self.lengths[(pieces > begin) & (pieces <= end)]
            packed = Packed.from_arrays(self.ids[begin:end], np.cumsum([0, *lengths]))
            at, targets = self.positions[a:b] - begin, self.targets[a:b]
            yield MicroBatch(packed, torch.from_numpy(at), torch.from_numpy(targets))


@dataclass(frozen=True)
class BatchRequest:
    """Rows ``first`` to ``last`` - 1 of the order, and the state after the step."""

    first: int
    last: int
    cursor: Cursor


class BatchBuilder:
    """Builds batches of the rows of a prepared dataset; it is the handler of a worker."""

    def __init__(self, directory: Path, row_filter: RowFilter, masking: Masking) -> None:
        self.directory, self.masking = directory, masking
        self.rows = chosen_rows(PreparedDataset(directory, verify=False), row_filter)

    def __call__(self, request: BatchRequest) -> Batch:
        """Read and mask the rows; WorkerError if they cannot be read."""
        try:
            return self._build(request)
        except (OSError, MemoryError) as error:
            rows = f"rows {request.first} to {request.last - 1} of the order"
            what = f"{rows} cannot be read ({str(error) or type(error).__name__})"
            how = "verify the dataset with motherbird data show"
            raise WorkerError(what, str(self.directory), how) from error

    def _build(self, request: BatchRequest) -> Batch:
        taken = np.arange(request.first, request.last)
        epochs, positions = taken // len(self.rows), taken % len(self.rows)
        seed, phase = request.cursor.seed, request.cursor.phase
        parts = []
        offset = 0
        for epoch in np.unique(epochs).tolist():
            order = (ORDER, seed, phase, epoch)
            numbers = shuffled(positions[epochs == epoch], len(self.rows), order)
            ids, lengths, row_tokens = self.rows.gather(numbers)
            within = np.arange(len(ids)) - np.repeat(row_tokens.cumsum() - row_tokens, row_tokens)
            keys = np.repeat(numbers << 32, row_tokens) + within
            inputs, masked = self.masking.mask(ids, (MASKS, seed, phase, epoch), keys)
            parts.append((inputs, lengths, masked + offset, ids[masked], numbers, row_tokens))
            offset += len(ids)
        inputs, lengths, masked, targets, numbers, row_tokens = map(
            np.concatenate, zip(*parts, strict=True)
        )
        return Batch(inputs, lengths, masked, targets, numbers, row_tokens, request.cursor)


def chosen_rows(prepared: PreparedDataset, row_filter: RowFilter) -> Rows:
    """Return the rows that a filter selects; see `PreparedDataset.rows`."""
    return prepared.rows(**vars(row_filter))


def masking_of(prepared: PreparedDataset, rate: float) -> Masking:
    """Return masking with the special tokens of a dataset's tokenizer."""
    return masking_for(prepared.tokenizer, rate)


class Loader:
    """An endless iterable of batches.

    Raises:
        InputError: the cursor is of another dataset, there are no rows, the rows of a step are
            not divisible by the number of ranks, or an argument is invalid.
        WorkerError: a worker died or hung three times over a batch, or rows cannot be read.
    """

    def __init__(
        self,
        prepared: PreparedDataset,  # verified
        choice: RowFilter,  # selects its rows
        cursor: Cursor,  # the position to start from
        masking: Masking,  # how tokens are masked
        step_rows: Callable[[int], int],  # the rows of a step, of all ranks, by the rows before it
        *,
        rank: int = 0,  # of this process
        world_size: int = 1,  # number of ranks
        workers: int = 0,  # number of worker processes; with 0, batches are built in this process
        limit: float = LIMIT,  # seconds after which a worker that does not answer is replaced
        skips: Sequence[tuple[int, int]] = (),  # ranges (first, last + 1) that are skipped
    ) -> None:
        check_type(prepared, "prepared", PreparedDataset)
        check_type(choice, "choice", RowFilter)
        check_type(cursor, "cursor", Cursor)
        check_type(masking, "masking", Masking, "use masking_of(prepared, 0.3)")
        if not callable(step_rows):
            kind = type(step_rows).__name__
            how = "pass lambda consumed: 8 for 8 rows"
            raise InputError(f"step_rows is of type {kind}, not a function", how=how)
        check_integer(world_size, "world_size", 1)
        check_integer(rank, "rank", 0, world_size - 1)
        check_integer(workers, "number of workers", 0)
        if cursor.fingerprint not in ("", prepared.fingerprint):
            what = "the prepared dataset is not the run's"
            how = "use the run's dataset, or start a new run"
            raise InputError(what, str(prepared.directory), how)
        self.rows = len(chosen_rows(prepared, choice))
        if not self.rows:
            raise InputError("no rows match sources and min_tokens", str(prepared.directory))
        self.cursor = replace(cursor, fingerprint=prepared.fingerprint)
        self._arguments = (prepared.directory, choice, masking)
        self._step_rows, self._rank, self._world_size = step_rows, rank, world_size
        self._workers, self._limit, self._skips = workers, limit, tuple(skips)

    def __iter__(self) -> Generator[Batch, None, None]:
        """Yield batches from `cursor`, which is updated for each."""
        with pool(self._workers, BatchBuilder, self._arguments, self._limit) as workers:
            requests: Iterator[Any] = self._requests()
            if workers:
                batches = in_order(workers, requests)
            else:
                batches = map(BatchBuilder(*self._arguments), requests)
            for batch in batches:
                self.cursor = batch.cursor
                yield batch

    def _requests(self) -> Iterator[BatchRequest]:
        cursor = self.cursor
        while True:
            cursor = cursor.beyond(self._skips)
            rows = self._step_rows(cursor.rows)
            if rows < 1 or rows % self._world_size:
                size, ranks = counted(rows, "row"), counted(self._world_size, "rank")
                how = f"use a multiple of {self._world_size}, 1 or more"
                raise InputError(f"a step of {size} cannot be divided among {ranks}", how=how)
            first = cursor.consumed + self._rank * rows // self._world_size
            cursor = replace(cursor, consumed=cursor.consumed + rows)
            yield BatchRequest(first, first + rows // self._world_size, cursor)
