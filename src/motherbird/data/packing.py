"""Documents into rows of one size, as full as can be (paper 2.2.1, appendix A.2)."""

from bisect import bisect_left, insort
from collections.abc import Sequence

from ..errors import InputError


def best_fit(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Fill rows of ``size`` tokens: each document, longest first, goes where least room is left.

    Args:
        lengths: tokens of each document, none longer than ``size``.
        size: tokens of a row.

    Returns:
        The rows, each a list of indices into ``lengths``; every index stands in exactly one.

    Raises:
        InputError: a document is longer than a row.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, row), ascending
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[index]
        if length > size:
            raise InputError(f"a document of {length} tokens is longer than a row of {size}")
        place = bisect_left(room, (length, -1))
        if place == len(room):
            rows.append([])
            left, row = size, len(rows) - 1
        else:
            left, row = room.pop(place)
        rows[row].append(index)
        insort(room, (left - length, row))
    return rows
