"""The loader: rows in an order of chance that depends on nothing but (seed, phase, epoch).

A global step takes the next rows, and each rank its slice of them: what is trained on is the same
for any number of ranks, of workers, and of rows a step, and a handful of numbers (`Cursor`) is the
loader's whole state.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from ..core.chance import shuffled
from ..core.masking import Masking
from ..errors import InputError
from .prepared import Prepared, Rows
from .workers import crew, in_order

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
    """

    seed: int
    phase: int = 0
    consumed: int = 0
    fingerprint: str = ""


@dataclass(frozen=True)
class Choice:
    """Which rows of a set a phase is made of.

    Attributes:
        seq_len: tokens of a row.
        held_out: the documents that were set aside, or the others.
        sources: only these; all if not set.
        least_tokens: only documents of so many.
    """

    seq_len: int
    held_out: bool = False
    sources: tuple[str, ...] | None = None
    least_tokens: int = 0


@dataclass(frozen=True, eq=False)
class Batch:
    """A rank's rows of one step, masked.

    Attributes:
        ids: what is fed.
        lengths: tokens of each piece of a document, in the order of ``ids``.
        places: where in ``ids`` something is to be predicted.
        targets: the ids that stood there.
        rows: numbers of the rows in the set.
        row_tokens: tokens of each.
        cursor: the state behind this step, of all ranks together.
    """

    ids: Int[np.ndarray, " T"]
    lengths: Int[np.ndarray, " S"]
    places: Int[np.ndarray, " M"]
    targets: Int[np.ndarray, " M"]
    rows: Int[np.ndarray, " rows"]
    row_tokens: Int[np.ndarray, " rows"]
    cursor: Cursor


@dataclass(frozen=True)
class Request:
    """All that a batch depends on: rows ``first`` to ``last`` of a phase, and the state behind."""

    first: int
    last: int
    behind: Cursor


class Maker:
    """Makes batches for requests; what a worker process does.

    Args:
        argument: the set's directory, which of its rows, and what is hidden.
    """

    def __init__(self, argument: tuple[Path, Choice, Masking]) -> None:
        directory, choice, self.masking = argument
        self.rows = chosen_rows(Prepared(directory, verify=False), choice)

    def __call__(self, request: Request) -> Batch:
        """Gather the rows, epoch by epoch, and mask them."""
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
            fed, hidden = self.masking.hide(ids, (MASKS, seed, phase, epoch), place)
            parts.append((fed, lengths, hidden + offset, ids[hidden], numbers, row_tokens))
            offset += len(ids)
        fed, lengths, hidden, targets, numbers, row_tokens = map(
            np.concatenate, zip(*parts, strict=True)
        )
        return Batch(fed, lengths, hidden, targets, numbers, row_tokens, request.behind)


def chosen_rows(prepared: Prepared, choice: Choice) -> Rows:
    """The rows of a choice; of some sources or of long documents only, they are packed now."""
    return prepared.rows(
        choice.seq_len,
        held_out=choice.held_out,
        sources=choice.sources,
        least_tokens=choice.least_tokens,
    )


def masking_of(prepared: Prepared, rate: float) -> Masking:
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
        step_rows: rows of the global step that begins after so many were consumed.
        rank: of this process among those that share a step.
        world: how many these are.
        workers: processes that work ahead; 0 makes each batch when it is asked for.
        limit: seconds after which a worker that does not answer is replaced.

    Raises:
        InputError: the cursor is of another set, or a step cannot be shared.
        WorkerError: a worker died or hung three times over a batch.
    """

    def __init__(
        self,
        prepared: Prepared,
        choice: Choice,
        cursor: Cursor,
        masking: Masking,
        step_rows: Callable[[int], int],
        *,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        limit: float = LIMIT,
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
        self._step_rows, self._rank, self._world = step_rows, rank, world
        self._workers, self._limit = workers, limit

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the cursor on; `cursor` moves as they are taken."""
        if not self._workers:
            yield from self._taken(map(Maker(self._argument), self._requests()))
            return
        with crew(self._workers, Maker, self._argument, self._limit) as workers:
            yield from self._taken(in_order(workers, self._requests()))

    def _taken(self, batches: Iterator[Any]) -> Iterator[Batch]:
        for batch in batches:
            self.cursor = batch.cursor
            yield batch

    def _requests(self) -> Iterator[Request]:
        cursor = self.cursor
        while True:
            rows = self._step_rows(cursor.consumed)
            if rows < 1 or rows % self._world:
                raise InputError(f"a step of {rows} rows cannot be shared by {self._world} ranks")
            first = cursor.consumed + self._rank * rows // self._world
            cursor = replace(cursor, consumed=cursor.consumed + rows)
            yield Request(first, first + rows // self._world, cursor)
