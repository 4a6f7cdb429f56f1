"""Plan: what the boundaries of one batch mean for attention, worked out once a batch."""

from itertools import groupby

import torch
from jaxtyping import Float
from torch import Tensor

from ..packed import Packed
from ..rope import Rotary, tables

BLOCK = 64  # queries of a block in a banded layer


class Plan:
    """Everything about a batch that its layers share, each part made when first asked for."""

    def __init__(self, packed: Packed) -> None:
        self.packed = packed
        self._rotary: dict[tuple[float, int], Rotary] = {}
        self._bands: dict[tuple[int, torch.dtype], Tensor] = {}
        # Neighbouring documents of one length: (how many, length), in order.
        self.runs = [(len(list(same)), length) for length, same in groupby(packed.lengths)]

    def rotary(self, theta: float, head_dim: int) -> Rotary:
        """Tables of `rope.tables` for this batch's positions."""
        key = (theta, head_dim)
        if key not in self._rotary:
            self._rotary[key] = tables(self.packed.positions, theta, head_dim)
        return self._rotary[key]

    def band(self, window: int, dtype: torch.dtype) -> Float[Tensor, "blocks 1 BLOCK keys"]:
        """What is added to the scores of each block of queries: 0 where seen, -inf elsewhere.

        Block b holds the queries b * BLOCK to (b + 1) * BLOCK; its keys reach ``window`` tokens
        further on both sides. What is outside the row belongs to a document of its own, so that
        every query sees at least itself and no softmax is ever empty. The size is
        T * (BLOCK + 2 * window): linear in the length.
        """
        key = (window, dtype)
        if key not in self._bands:
            documents = self.packed.documents
            blocks = -(-len(documents) // BLOCK)
            tail = blocks * BLOCK - len(documents)
            padded = torch.nn.functional.pad(documents, (window, tail + window), value=-1)
            keys = padded.unfold(0, BLOCK + 2 * window, BLOCK)  # (blocks, keys)
            queries = keys[:, window : window + BLOCK]  # (blocks, BLOCK)
            offset = torch.arange(BLOCK + 2 * window, device=documents.device)
            distance = offset[None, :] - window - offset[:BLOCK, None]  # key minus query
            seen = (queries[:, :, None] == keys[:, None, :]) & (distance.abs() <= window)
            band = torch.zeros(seen.shape, dtype=dtype, device=documents.device)
            self._bands[key] = band.masked_fill_(~seen, float("-inf"))[:, None]
        return self._bands[key]
