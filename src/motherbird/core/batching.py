"""From lists of token ids to packed batches and back, on NumPy alone."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Int64

from ..errors import InputError

# Lengths of the documents of test batches, which reveal errors of padding and of windows.
TEST_LENGTHS = ((1,), (64, 65), (129, 129), (300, 150, 60), (1024, 4))


def split_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group documents into batches of at most ``budget`` tokens, the longest documents first.

    Documents of similar length share a batch, in ascending order of length, which is the order in
    which attention kernels group them. The largest batch comes first, so that running out of memory
    shows at once. A document longer than the budget is a batch of its own.

    Args:
        lengths: number of tokens of each document.
        budget: largest number of tokens of a batch.

    Returns:
        Lists of indices into ``lengths``; each index occurs exactly once.

    Raises:
        InputError: the budget is below 1.
    """
    if budget < 1:
        raise InputError(f"invalid number of tokens per batch {budget}", how="use 1 or more")
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if not batches or lengths[index] > room:
            batches.append([])
            room = budget
        batches[-1].append(index)
        room -= lengths[index]
    return [batch[::-1] for batch in batches]


def pad(
    documents: Sequence[Sequence[int]], value: int = 0
) -> tuple[Int64[np.ndarray, "S longest"], Int64[np.ndarray, "S longest"]]:
    """Return ids that are padded on the right to the longest document, and the attention mask."""
    ids = np.full((len(documents), max(map(len, documents))), value, dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, document in enumerate(documents):
        ids[row, : len(document)] = document
        mask[row, : len(document)] = 1
    return ids, mask


def concatenate(
    documents: Sequence[Sequence[int]],
) -> tuple[Int32[np.ndarray, " T"], Int32[np.ndarray, " S_plus_1"]]:
    """Concatenate lists of token ids; no special token is added.

    Returns:
        The ids of all documents, and the offset at which each document starts, followed by T.

    Raises:
        InputError: there is no document, one is empty, or an id is not an int32 of 0 or more.
    """
    if not documents:
        raise InputError("there is nothing to pack", "an empty list of documents")
    lengths = [len(document) for document in documents]
    if 0 in lengths:
        raise InputError("an empty document cannot be packed", f"document {lengths.index(0)}")
    ids = np.concatenate([np.asarray(document) for document in documents])
    cu_seqlens = np.cumsum([0, *lengths], dtype=np.int32)
    if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= 2**31:
        number, token, value = next(
            (number, token, value)
            for number, document in enumerate(documents)
            for token, value in enumerate(document)
            if not (isinstance(value, int | np.integer) and 0 <= value < 2**31)
        )
        raise InputError(f"{value!r} is not a token id", f"document {number}, token {token}")
    return ids.astype(np.int32), cu_seqlens
