"""Packing of documents into rows of one length (paper 2.2.1, appendix A.2)."""

from collections.abc import Sequence

from ..errors import InputError


def best_fit(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Pack documents with best-fit decreasing.

    Each document, longest first, is put into the row with the least sufficient space. The sizes of
    the free spaces are kept as bits of one integer, so that a million documents take seconds.

    Returns rows of up to ``size`` tokens, as lists of indices into ``lengths``. Every index is in
    exactly one row. A document that is longer than a row is an InputError.
    """
    if lengths and max(lengths) > size:
        raise InputError(f"a document of {max(lengths)} tokens is longer than a row of {size}")
    rows: list[list[int]] = []
    rows_by_space: list[list[int]] = [[] for _ in range(size + 1)]  # by the tokens left in them
    spaces = 0  # bit n is set if a row has n tokens left
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[index]
        fitting = spaces >> length
        if fitting:
            left = length + (fitting & -fitting).bit_length() - 1
            row = rows_by_space[left].pop()
            if not rows_by_space[left]:
                spaces ^= 1 << left
        else:
            left, row = size, len(rows)
            rows.append([])
        rows[row].append(index)
        left -= length
        if left:
            rows_by_space[left].append(row)
            spaces |= 1 << left
    return rows
