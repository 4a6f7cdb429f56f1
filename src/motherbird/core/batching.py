"""From lists of token ids to packed batches and back, on NumPy alone."""

from collections.abc import Sequence

import numpy as np

from ..arrays import Int, Int32, Int64
from ..errors import InputError
from .arguments import Documents, check_ids, check_integer
from .config import EncoderConfig

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
        InputError: the budget is not an integer of 1 or more.
    """
    budget = check_integer(budget, "batch_tokens", 1, 2**31 - 1)
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
    documents: Documents,
) -> tuple[Int32[np.ndarray, " T"], Int32[np.ndarray, " S_plus_1"]]:
    """Concatenate lists of token ids; no special token is added.

    Returns:
        The ids of all documents, and the offset at which each document starts, followed by T.

    Raises:
        InputError: there is no document; see also `check_ids`.
    """
    arrays = check_ids(documents)
    if not arrays:
        raise InputError("there is nothing to pack", "an empty list of documents")
    return np.concatenate(arrays), np.cumsum([0, *map(len, arrays)], dtype=np.int32)


def check_batch(
    ids: Int[np.ndarray, " T"], cu_seqlens: Int[np.ndarray, " S_plus_1"], config: EncoderConfig
) -> None:
    """Check that a model can compute a batch of `concatenate`.

    Raises:
        InputError: an id is outside the vocabulary, or a document is too long.
    """
    size, limit = config.vocab_size, config.max_position_embeddings
    if ids.min() < 0 or ids.max() >= size:
        token = int(np.argmax((ids < 0) | (ids >= size)))
        document = int(np.searchsorted(cu_seqlens, token, side="right")) - 1
        raise InputError(
            f"token id {ids[token]} is outside the vocabulary",
            f"document {document}, token {token - cu_seqlens[document]}",
            f"ids go from 0 to {size - 1}; is this the model's own tokenizer?",
        )
    lengths = np.diff(cu_seqlens)
    if lengths.max() > limit:
        raise InputError(
            f"a document has {lengths.max()} tokens, more than the model's limit of {limit}",
            f"document {lengths.argmax()}",
            "split or truncate it",
        )
