"""Packing of documents into rows of one length (paper 2.2.1, appendix A.2).

Documents are packed in groups of at most about `GROUP` pieces, so that memory is bounded, and in
NumPy, so that the time per piece is about that of sorting.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import disk
from ..arrays import Int, Integer, Shaped, UInt
from ..errors import InputError

SPECIAL_TOKENS = 2  # of each piece: [CLS] and [SEP]
DOCUMENT = np.dtype(
    [
        ("shard", "<u4"),  # number of the file, and index of the first token in it
        ("start", "<u4"),
        ("tokens", "<u4"),
        ("hash", "<u8"),  # of the text
        ("source", "<u2"),  # index in `DatasetInfo.sources`
        ("copies", "<u4"),  # repetitions in an epoch; 0 if it is held out
        ("held_out", "?"),
    ]
)
PIECE = np.dtype([("document", "<u4"), ("first", "<u4"), ("tokens", "<u4")])
GROUP = 1 << 24  # pieces that are packed together; a different number gives different rows
BLOCK = 1 << 20  # documents that are read together


@contextmanager
def array_writer(path: Path, dtype: Any) -> Iterator[Callable[[Any], None]]:
    """Write a .npy file of one axis in parts: yield the function that appends an array.

    The bytes are those of `numpy.save`. Until the end of the block the file has no values.
    """
    count = 0

    def add(array: Any) -> None:
        nonlocal count
        np.ascontiguousarray(array, dtype).tofile(file)
        count += len(array)

    def write_header() -> None:
        shape = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "shape": (count,)}
        np.lib.format.write_array_header_1_0(file, {**shape, "fortran_order": False})

    with disk.named(path), path.open("wb") as file:
        write_header()
        yield add
        file.seek(0)
        write_header()  # of the same size: NumPy leaves room for the digits of the length


@dataclass(frozen=True)
class Selection:
    """Which documents of a dataset are packed."""

    held_out: bool  # the held-out documents, or the others
    sources: tuple[int, ...] | None = None  # indices of their sources; all if None
    min_tokens: int = 0  # only documents with at least this many tokens

    def copies(self, documents: Shaped[np.ndarray, " D"]) -> Int[np.ndarray, " D"]:
        """Return how often each `DOCUMENT` is packed; 0 if it is not selected."""
        chosen = documents["held_out"] == self.held_out
        if self.min_tokens:
            chosen &= documents["tokens"] >= self.min_tokens
        if self.sources is not None:
            chosen &= np.isin(documents["source"], self.sources)
        return np.where(chosen, 1 if self.held_out else documents["copies"], 0).astype(np.int64)

    def count(self, documents: Shaped[np.ndarray, " D"], seq_len: int) -> int:
        """Return the number of pieces that `packed_rows` cuts the documents into."""
        return sum(int(counts.sum()) for _, _, counts in self._blocks(documents, seq_len))

    def _blocks(
        self, documents: Shaped[np.ndarray, " D"], seq_len: int
    ) -> Iterator[tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Int[np.ndarray, " n"]]]:
        """Yield the indices of selected documents, their copies, and the pieces of all copies."""
        for first in range(0, len(documents), BLOCK):
            block = documents[first : first + BLOCK]
            copies = self.copies(block)
            numbers = np.flatnonzero(copies)
            copies = copies[numbers]
            counts = copies * _pieces_of(block["tokens"][numbers], seq_len)
            yield numbers + first, copies, counts

    def groups(
        self, documents: Shaped[np.ndarray, " D"], seq_len: int
    ) -> Iterator[UInt[np.ndarray, " n"]]:
        """Yield the indices of documents that are packed together, repeated for each copy."""
        before, current = 0, 0
        parts: list[NDArray[np.uint32]] = []
        for numbers, copies, counts in self._blocks(documents, seq_len):
            group = (before + counts.cumsum() - counts) // GROUP
            before += int(counts.sum())
            for number in np.unique(group).tolist():
                if number != current and parts:
                    yield np.concatenate(parts)
                    parts.clear()
                current, own = number, group == number
                parts.append(np.repeat(numbers[own].astype(np.uint32), copies[own]))
        if parts:
            yield np.concatenate(parts)


def _pieces_of(tokens: UInt[np.ndarray, " n"], seq_len: int) -> Int[np.ndarray, " n"]:
    """Return the number of pieces of documents."""
    return -(-tokens.astype(np.int64) // (seq_len - SPECIAL_TOKENS))


def packed_rows(
    documents: Shaped[np.ndarray, " D"], seq_len: int, selection: Selection
) -> Iterator[tuple[Int[np.ndarray, " R_plus_1"], Shaped[np.ndarray, " pieces"]]]:
    """Cut documents that are longer than a row, and pack the pieces of each group into rows.

    Yields for each group the index of the first piece of each row with the number of pieces, and
    the `PIECE` records, row by row.
    """
    size = seq_len - SPECIAL_TOKENS
    for numbers in selection.groups(documents, seq_len):
        tokens = documents["tokens"][numbers]
        counts = _pieces_of(tokens, seq_len)
        pieces = np.empty(int(counts.sum()), PIECE)
        pieces["document"] = np.repeat(numbers, counts)
        first = np.arange(len(pieces)) - np.repeat(counts.cumsum() - counts, counts)
        first *= size
        pieces["first"] = first
        pieces["tokens"] = np.minimum(size, np.repeat(tokens, counts) - first)
        del numbers, tokens, counts, first
        order, starts = best_fit(pieces["tokens"] + np.uint32(SPECIAL_TOKENS), seq_len)
        yield starts, pieces[order]


@dataclass
class RowCounts:
    """The number of rows that were written, of pieces in them, and of their tokens."""

    rows: int = 0
    pieces: int = 0
    tokens: int = 0  # including [CLS] and [SEP]


def write_rows(
    folder: Path,
    names: tuple[str, str],
    groups: Iterable[tuple[Int[np.ndarray, " R_plus_1"], Shaped[np.ndarray, " pieces"]]],
) -> RowCounts:
    """Write what `packed_rows` yields into two .npy files of a folder."""
    done = RowCounts()
    starts_file, pieces_file = (folder / name for name in names)
    with array_writer(starts_file, "<i8") as add_starts, array_writer(pieces_file, PIECE) as add:
        add_starts(np.zeros(1, np.int64))
        for starts, pieces in groups:
            add_starts(starts[1:] + done.pieces)
            add(pieces)
            done.rows += len(starts) - 1
            done.pieces += len(pieces)
            done.tokens += int(pieces["tokens"].sum()) + SPECIAL_TOKENS * len(pieces)
    return done


class _Rows:
    """Numbers of rows by the tokens that are free in them; those added last are taken first."""

    def __init__(self, size: int) -> None:
        self._rows: list[list[NDArray[np.uint32]]] = [[] for _ in range(size + 1)]
        self._spaces = 0  # bit n is set if a row has n free tokens

    def smallest(self, length: int) -> int | None:
        """Return the least sufficient free space, or None."""
        fitting = self._spaces >> length
        return length + (fitting & -fitting).bit_length() - 1 if fitting else None

    def add(self, space: int, rows: NDArray[np.uint32]) -> None:
        if space and len(rows):
            self._rows[space].append(rows)
            self._spaces |= 1 << space

    def take(self, space: int, most: int) -> NDArray[np.uint32]:
        """Remove and return at most ``most`` rows with a free space, the last one first."""
        chunks, taken = self._rows[space], []
        while most and chunks:
            last = chunks.pop()
            taken.append(last[: -most - 1 : -1])
            if len(last) > most:
                chunks.append(last[:-most])
            most -= len(taken[-1])
        if not chunks:
            self._spaces ^= 1 << space
        return np.concatenate(taken)


def best_fit(
    lengths: Integer[np.ndarray, " pieces"], size: int
) -> tuple[Int[np.ndarray, " pieces"], Int[np.ndarray, " R_plus_1"]]:
    """Pack pieces into rows of up to ``size`` tokens with best-fit decreasing.

    Each piece, longest first, is put into the row with the least sufficient space; of several,
    into the one that was used last. So a row with the least sufficient space s gets the next
    s // n pieces of length n, and all rows with that space are filled in one step.

    Args:
        lengths: tokens of each piece, 1 or more.
        size: tokens of a row.

    Returns:
        The indices of the pieces, row by row; and the position of the first piece of each row
        among them, followed by the number of pieces.

    Raises:
        InputError: a piece is longer than a row.
    """
    if len(lengths) and lengths.max() > size:
        raise InputError(f"a document of {lengths.max()} tokens is longer than a row of {size}")
    # NumPy sorts keys of 16 bits by radix.
    keys = (size - lengths).astype(np.uint16 if size < 1 << 16 else np.uint32)
    order = np.argsort(keys, kind="stable")
    row_of, rows = _place(lengths[order], size)
    by_row = np.argsort(row_of, kind="stable")
    starts = np.zeros(rows + 1, np.int64)
    np.cumsum(np.bincount(row_of, minlength=rows), out=starts[1:])
    return order[by_row], starts


def _place(
    lengths: Integer[np.ndarray, " pieces"], size: int
) -> tuple[UInt[np.ndarray, " pieces"], int]:
    """Return the row of each piece, and the number of rows, for lengths in descending order."""
    row_of = np.empty(len(lengths), np.uint32)
    free, count = _Rows(size), 0
    ends = [*(np.flatnonzero(lengths[1:] != lengths[:-1]) + 1).tolist(), len(lengths)]
    begin = 0
    for end in ends if len(lengths) else []:
        length = int(lengths[begin])
        while begin < end:
            space = free.smallest(length)
            per_row = (space or size) // length
            wanted = -(-(end - begin) // per_row)
            if space is None:
                space, rows = size, np.arange(count, count + wanted, dtype=np.uint32)
                count += wanted
            else:
                rows = free.take(space, wanted)
            placed = min(end - begin, len(rows) * per_row)
            row_of[begin : begin + placed] = np.repeat(rows, per_row)[:placed]
            full, rest = divmod(placed, per_row)
            free.add(space - per_row * length, rows[:full])
            free.add(space - rest * length, rows[full:])  # the last row, if it is not full
            begin += placed
    return row_of, count
