"""The one batch format: documents laid end to end in a single row, never padded.

Tensor legend, used in names, comments and annotations everywhere:

    T  packed tokens of a batch      S  documents (segments)      V  vocabulary
    D  hidden width                  N  attention heads           H  head width (D / N)
    F  GLU width                     L  layers
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True, eq=False)
class Packed:
    """S documents, T tokens, one row.

    Attributes:
        ids: token ids, document after document.
        positions: position of each token in its own document, from 0.
        cu_seqlens: where each document starts, and last T ("cumulative sequence lengths").
        max_seqlen: length of the longest document.
    """

    ids: Int[Tensor, " T"]
    positions: Int[Tensor, " T"]
    cu_seqlens: Int[Tensor, " S_plus_1"]
    max_seqlen: int

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each document, S of them."""
        return self.cu_seqlens.diff().tolist()

    @cached_property
    def documents(self) -> Int[Tensor, " T"]:
        """The number of the document that each token belongs to."""
        lengths = self.cu_seqlens.diff()
        return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)

    def to(self, device: torch.device | str) -> "Packed":
        """The same batch on another device."""
        return replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            cu_seqlens=self.cu_seqlens.to(device),
        )

    def by_length(self) -> tuple["Packed", Int[Tensor, " T"] | None]:
        """The same documents ordered by length, and the index that undoes it for (T, ...) tensors.

        Documents of one length then lie side by side, which is what global attention batches.
        The index is None where the order was right already.
        """
        lengths = self.lengths
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        if order == list(range(len(lengths))):
            return self, None
        by_document = torch.arange(len(self.ids), device=self.ids.device).split(lengths)
        forward = torch.cat([by_document[d] for d in order])
        backward = torch.empty_like(forward)
        backward[forward] = torch.arange(len(forward), device=forward.device)
        starts = torch.tensor([0, *(lengths[d] for d in order)], device=self.ids.device)
        ordered = replace(
            self,
            ids=self.ids[forward],
            positions=self.positions[forward],
            cu_seqlens=starts.cumsum(0).to(torch.int32),
        )
        return ordered, backward


def pack(documents: Sequence[Sequence[int]]) -> Packed:
    """Lay lists of token ids end to end, on the CPU; no special token is added.

    Returns:
        Packed with int64 ``ids`` and ``positions`` and int32 ``cu_seqlens``.

    Raises:
        InputError: there is no document, one is empty, or an id is negative.
    """
    if not documents:
        raise InputError("there is nothing to pack", "an empty list of documents")
    lengths = [len(document) for document in documents]
    if 0 in lengths:
        raise InputError("an empty document cannot be packed", f"document {lengths.index(0)}")
    ids = torch.tensor([i for document in documents for i in document], dtype=torch.int64)
    cu_seqlens = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
    positions = torch.arange(len(ids)) - cu_seqlens[:-1].repeat_interleave(torch.tensor(lengths))
    packed = Packed(ids, positions, cu_seqlens.to(torch.int32), max(lengths))
    if int(ids.min()) < 0:
        raise InputError(f"token id {int(ids.min())} is negative", _locate(packed, ids < 0))
    return packed


def packed_of(ids: Int[np.ndarray, " T"], lengths: Int[np.ndarray, " S"]) -> Packed:
    """`pack` for documents that lie end to end already, none of them empty."""
    starts = np.concatenate([[0], lengths.cumsum()])
    positions = np.arange(len(ids)) - np.repeat(starts[:-1], lengths)
    return Packed(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(starts.astype(np.int32)),
        int(lengths.max()),
    )


def _locate(packed: Packed, wrong: Shaped[Tensor, " T"]) -> str:
    token = int(wrong.nonzero()[0])
    return f"document {int(packed.documents[token])}, token {int(packed.positions[token])}"


def check_ids(packed: Packed, vocab_size: int) -> None:
    """Refuse a token id that the embedding does not have.

    A CPU would raise IndexError deep inside; a GPU would poison the whole process.

    Raises:
        InputError: naming the id, the document and the token.
    """
    wrong = (packed.ids < 0) | (packed.ids >= vocab_size)
    if bool(wrong.any()):
        raise InputError(
            f"token id {int(packed.ids[wrong][0])} is outside the vocabulary",
            _locate(packed, wrong),
            f"ids go from 0 to {vocab_size - 1}; is this the model's own tokenizer?",
        )


def unpack(x: Shaped[Tensor, "T ..."], packed: Packed) -> list[Tensor]:
    """Cut a tensor over packed tokens into one view per document, each (length, ...)."""
    return list(x.split(packed.lengths))


def repad(x: Shaped[Tensor, "T ..."], packed: Packed, value: int | float = 0) -> Tensor:
    """Give the padded twin (S, max_seqlen, ...) to whoever outside needs one, filled by value."""
    return torch.nn.utils.rnn.pad_sequence(unpack(x, packed), batch_first=True, padding_value=value)


def unpad(
    ids: Int[Tensor, "S longest"], mask: Bool[Tensor, "S longest"]
) -> tuple[Packed, Int[Tensor, " T"]]:
    """Take the tokens out of a padded batch, by tensor operations alone.

    Documents come ordered by length, so that `Packed.by_length` has nothing to move; a row without
    a token is no document.

    Args:
        ids: a batch of rows.
        mask: true where a row has a token.

    Returns:
        The pack, and the place of each of its tokens in ``ids.flatten()``.

    Raises:
        InputError: there is no token at all.
    """
    lengths = mask.sum(dim=1)
    order = lengths.argsort(stable=True)
    rows, columns = mask[order].nonzero(as_tuple=True)
    if not len(rows):
        raise InputError("there is nothing to pack", "a batch of padding")
    places = order[rows] * ids.shape[1] + columns
    lengths = lengths[order]
    lengths = lengths[lengths > 0]
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    positions = torch.arange(len(rows), device=ids.device)
    positions -= cu_seqlens[:-1].repeat_interleave(lengths)
    packed = Packed(ids.flatten()[places], positions, cu_seqlens.to(torch.int32), int(lengths[-1]))
    return packed, places


def split_by_tokens(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Cut a work list into batches of at most ``budget`` tokens, longest documents first.

    Documents of like length share a batch, and the largest batch comes first, so that memory that
    does not suffice shows at once. A document longer than the budget is a batch of its own.

    Args:
        lengths: tokens of each document.
        budget: tokens of a batch.

    Returns:
        Lists of indices into ``lengths``; every index stands in exactly one.

    Raises:
        InputError: the budget is below 1.
    """
    if budget < 1:
        raise InputError(f"a token budget of {budget} holds nothing", how="give at least 1")
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        if not batches or lengths[index] > room:
            batches.append([])
            room = budget
        batches[-1].append(index)
        room -= lengths[index]
    return batches
