"""Documents into rows of one size, as full as can be (paper 2.2.1, appendix A.2)."""

from collections.abc import Sequence

from ..errors import InputError


def best_fit(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Fill rows of ``size`` tokens: each document, longest first, goes where least room is left.

    The rooms that are left are the bits of one number, so that the smallest one that fits is found
    in a step or two: a million documents take seconds.

    Args:
        lengths: tokens of each document, none longer than ``size``.
        size: tokens of a row.

    Returns:
        The rows, each a list of indices into ``lengths``; every index stands in exactly one.

    Raises:
        InputError: a document is longer than a row.
    """
    if lengths and max(lengths) > size:
        raise InputError(f"a document of {max(lengths)} tokens is longer than a row of {size}")
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(size + 1)]  # rows, by the tokens left in them
    rooms = 0  # bit n is set while some row has n tokens left
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[index]
        fitting = rooms >> length
        if fitting:
            left = length + (fitting & -fitting).bit_length() - 1
            row = with_room[left].pop()
            if not with_room[left]:
                rooms ^= 1 << left
        else:
            left, row = size, len(rows)
            rows.append([])
        rows[row].append(index)
        left -= length
        if left:
            with_room[left].append(row)
            rooms |= 1 << left
    return rows
