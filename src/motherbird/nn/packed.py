"""The batch format of the package: documents one after another in one row, without padding.

The letters in shape annotations everywhere:

    T  packed tokens of a batch      S  documents (sequences)     V  vocabulary size
    D  hidden size                   N  attention heads           H  head dimension (D / N)
    F  GLU size                      L  layers                    C  labels
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..arrays import Bool, Int, Shaped
from ..core.arguments import check_type
from ..core.batching import concatenate
from ..errors import InputError


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch of S documents with T tokens in all.

    Attributes:
        ids: token ids, document after document, int64.
        positions: position of each token within its document, from 0, int64.
        cu_seqlens: cumulative sequence lengths: the offset at which each document starts, followed
            by T; int32.
        max_seqlen: length of the longest document.
    """

    ids: Int[Tensor, " T"]
    positions: Int[Tensor, " T"]
    cu_seqlens: Int[Tensor, " S_plus_1"]
    max_seqlen: int

    @classmethod
    def from_arrays(
        cls, ids: Int[np.ndarray, " T"], cu_seqlens: Int[np.ndarray, " S_plus_1"]
    ) -> "Packed":
        """Make a batch from NumPy arrays; no document may be empty."""
        lengths = np.diff(cu_seqlens)
        positions = np.arange(len(ids)) - np.repeat(cu_seqlens[:-1], lengths)
        return cls(
            torch.from_numpy(ids.astype(np.int64, copy=False)),
            torch.from_numpy(positions),
            torch.from_numpy(cu_seqlens.astype(np.int32, copy=False)),
            int(lengths.max()),
        )

    @cached_property
    def lengths(self) -> list[int]:
        """The number of tokens of each of the S documents."""
        return self.cu_seqlens.diff().tolist()

    @cached_property
    def documents(self) -> Int[Tensor, " T"]:
        """The index of the document that each token belongs to."""
        lengths = self.cu_seqlens.diff()
        return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)

    def to(self, device: torch.device | str) -> "Packed":
        """Copy the batch to another device."""
        return replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            cu_seqlens=self.cu_seqlens.to(device),
        )

    def by_length(self) -> tuple["Packed", Int[Tensor, " T"] | None]:
        """Sort the documents by length, so that attention can group those of equal length.

        Returns:
            The sorted batch, and the index that restores the original order of (T, ...) tensors;
            None if the batch was sorted already, as those of `split_by_tokens` are.
        """
        lengths = self.lengths
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        if order == list(range(len(lengths))):
            return self, None
        by_document = torch.arange(len(self.ids), device=self.ids.device).split(lengths)
        forward = torch.cat([by_document[d] for d in order])
        starts = torch.tensor([0, *sorted(lengths)], device=self.ids.device).cumsum(0)
        ids, positions = self.ids[forward], self.positions[forward]
        ordered = Packed(ids, positions, starts.to(torch.int32), self.max_seqlen)
        return ordered, forward.argsort()


def pack(documents: Sequence[Sequence[int]]) -> Packed:
    """Pack lists of token ids without padding, on the CPU; no special token is added.

    `unpad` packs a padded batch.

    Raises:
        InputError: see `concatenate`.
    """
    return Packed.from_arrays(*concatenate(documents))


def unpack(x: Shaped[Tensor, "T ..."], packed: Packed) -> list[Tensor]:
    """Split a tensor over packed tokens into a view per document, each (length, ...).

    Raises:
        InputError: the tensor does not have a row for each token.
    """
    check_type(packed, "the batch", Packed, "pass the batch that pack returned")
    if len(check_type(x, "x", Tensor)) != len(packed.ids):
        raise InputError(f"x has {len(x)} rows, and the batch {len(packed.ids)} tokens")
    return list(x.split(packed.lengths))


def repad(x: Shaped[Tensor, "T ..."], packed: Packed, value: int | float = 0) -> Tensor:
    """Convert a tensor over packed tokens to a padded one (S, max_seqlen, ...)."""
    return torch.nn.utils.rnn.pad_sequence(unpack(x, packed), batch_first=True, padding_value=value)


def unpad(
    ids: Int[Tensor, "S longest"], mask: Bool[Tensor, "S longest"]
) -> tuple[Packed, Int[Tensor, " T"]]:
    """Convert a padded batch to a packed one, with tensor operations alone.

    The documents are sorted by length, so that `Packed.by_length` has nothing to do. Rows without
    tokens are left out.

    Args:
        ids: token ids.
        mask: True where a row has a token.

    Returns:
        The batch, and the index of each of its tokens in ``ids.flatten()``.

    Raises:
        InputError: there is no token at all.
    """
    lengths = mask.sum(dim=1)
    order = lengths.argsort(stable=True)
    rows, columns = mask[order].nonzero(as_tuple=True)
    if not len(rows):
        raise InputError("there is nothing to pack", "the batch contains only padding")
    indices = order[rows] * ids.shape[1] + columns
    lengths = lengths[order]
    lengths = lengths[lengths > 0]
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    positions = torch.arange(len(rows), device=ids.device)
    positions -= cu_seqlens[:-1].repeat_interleave(lengths)
    packed = Packed(ids.flatten()[indices], positions, cu_seqlens.to(torch.int32), int(lengths[-1]))
    return packed, indices
