"""What the attention of all layers needs to know about a batch, computed once per batch."""

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from ...arrays import Complex, Float, Int
from ..packed import Packed
from ..rope import tables

BLOCK = 64  # queries of a block in a local layer
# The number of keys of a tile is a multiple of this; softmax over other lengths takes twice as
# long.
LANES = 32
LONG = 2048  # a document of at least this many tokens is a span of its own
MAX_PADDING = 0.1  # fraction of a tile that may be padding, if documents share it

Heads = Float[Tensor, "T N H"]  # queries, keys, values or outputs of every head


@dataclass(frozen=True)
class Tile:
    """B groups of queries with their keys, computed by one batched matrix product."""

    rows: slice  # the tokens of the batch whose outputs this tile computes
    count: int  # B
    # the token of each query; padding repeats a token. None for the tokens in ``rows``.
    queries: Int[Tensor, "B Lq"] | None
    keys: Int[Tensor, "B Lk"] | None  # the token of each key, likewise
    # added to the scores of the keys from ``first`` on: 0 if visible, else -inf
    mask: Float[Tensor, "B _ masked"] | None
    first: int  # the keys before it are visible to every query
    # the indices of the queries that are not padding, in the order of ``rows``; None if there is no
    # padding
    valid: Int[Tensor, " rows"] | None
    whole: bool = True  # whether its keys are those of whole documents, and of no other tile


class AttentionPlan:
    """What all layers share for a batch; each part is computed when it is first used."""

    def __init__(self, packed: Packed) -> None:
        self.packed = packed
        self._rotary: dict[tuple[float, int], Tensor] = {}
        self._angles: dict[tuple[float, int], tuple[Tensor, Tensor]] = {}
        self._bands: dict[tuple[int, torch.dtype], Tensor] = {}
        self._tiles: dict[tuple[int | None, int, torch.dtype], list[Tile]] = {}

    @cached_property
    def equal_length_groups(self) -> list[tuple[int, int]]:
        """Consecutive documents of equal length, as (number of documents, length)."""
        return [(len(list(same)), length) for length, same in groupby(self.packed.lengths)]

    @cached_property
    def spans(self) -> list[tuple[int, Int[Tensor, " some"], int]]:
        """The batch split between documents, with every long document in a span of its own.

        Each span is (number of tokens, cumulative lengths, largest length).
        """
        lengths, starts = self.packed.lengths, self.packed.cu_seqlens
        found = []
        for _, some in groupby(range(len(lengths)), lambda i: i if lengths[i] >= LONG else -1):
            first, *others = some
            last = first + len(others) + 1
            sizes = lengths[first:last]
            found.append((sum(sizes), starts[first : last + 1] - starts[first], max(sizes)))
        return found

    def rotary(self, theta: float, head_dim: int) -> Complex[Tensor, "T 1 half_H"]:
        """Return `rope.tables` for the positions of this batch."""
        key = (theta, head_dim)
        if key not in self._rotary:
            self._rotary[key] = tables(self.packed.positions, theta, head_dim)
        return self._rotary[key]

    def angles(
        self, theta: float, head_dim: int
    ) -> tuple[Float[Tensor, "T half_H"], Float[Tensor, "T half_H"]]:
        """Return the cosines and sines of `rotary`."""
        key = (theta, head_dim)
        if key not in self._angles:
            table = self.rotary(theta, head_dim)[:, 0]
            self._angles[key] = (table.real.contiguous(), table.imag.contiguous())
        return self._angles[key]

    def band(self, window: int, dtype: torch.dtype) -> Float[Tensor, "blocks 1 BLOCK keys"]:
        """Return what is added to the scores of each block: 0 if visible, else -inf.

        Block b has the queries b * BLOCK to (b + 1) * BLOCK, and the keys from ``window`` tokens
        before them to ``window`` tokens after them. Padding at the ends belongs to a document of
        its own, so that every query sees at least itself. The size is T * (BLOCK + 2 * window).
        """
        key = (window, dtype)
        if key not in self._bands:
            documents = self.packed.documents
            tail = -len(documents) % BLOCK
            padded = torch.nn.functional.pad(documents, (window, tail + window), value=-1)
            keys = padded.unfold(0, BLOCK + 2 * window, BLOCK)  # (blocks, keys)
            queries = keys[:, window : window + BLOCK]  # (blocks, BLOCK)
            offset = torch.arange(BLOCK + 2 * window, device=documents.device)
            distance = offset[None, :] - window - offset[:BLOCK, None]  # key minus query
            seen = (queries[:, :, None] == keys[:, None, :]) & (distance.abs() <= window)
            band = torch.zeros(seen.shape, dtype=dtype, device=documents.device)
            self._bands[key] = band.masked_fill_(~seen, float("-inf"))[:, None]
        return self._bands[key]

    def tiles(self, window: int | None, max_scores: int, dtype: torch.dtype) -> list[Tile]:
        """Split the batch into tiles that together cover every token once.

        Documents of similar length share a tile if they fit the window or the layer is global;
        longer documents are split into blocks, each with its band of keys.

        Args:
            window: tokens visible on each side, None for the whole document.
            max_scores: the scores of one head in a tile, unless a single document needs more.
            dtype: of the masks.
        """
        key = (window, max_scores, dtype)
        if key not in self._tiles:
            lengths = self.packed.lengths
            reach = max(lengths) if window is None else window + 1
            short = next((i for i, n in enumerate(lengths) if n > reach), len(lengths))
            tiles = self._by_document(short, max_scores, dtype)
            if short < len(lengths):
                assert window is not None
                tiles += self._by_block(sum(lengths[:short]), window, max_scores, dtype)
            self._tiles[key] = tiles
        return self._tiles[key]

    def _by_document(self, documents: int, max_scores: int, dtype: torch.dtype) -> list[Tile]:
        """Return tiles of the first documents, which share a tile while it has little padding."""
        lengths = self.packed.lengths[:documents]
        tiles = []
        token = first = 0
        while first < documents:
            last, longest, total = first, 0, 0
            while last < documents:
                longer = _lanes(max(longest, lengths[last]))
                count = last + 1 - first
                used = total + _lanes(lengths[last])
                if last > first and (
                    used < count * longer * (1 - MAX_PADDING) or count * longer**2 > max_scores
                ):
                    break
                last, longest, total = last + 1, longer, used
            tiles.append(_documents(token, lengths[first:last], longest, dtype))
            token, first = tiles[-1].rows.stop, last
        return tiles

    def _by_block(self, start: int, window: int, max_scores: int, dtype: torch.dtype) -> list[Tile]:
        """Return tiles of the tokens from ``start`` on: blocks of queries with their bands."""
        total = len(self.packed.ids)
        reach = _lanes(BLOCK + 2 * window)
        together = max(1, max_scores // (BLOCK * reach))
        documents = self.packed.documents
        tiles = []
        for begin in range(start, total, together * BLOCK):
            end = min(total, begin + together * BLOCK)
            blocks = torch.arange(begin, end, BLOCK, device="cpu")[:, None]
            queries = blocks + torch.arange(BLOCK, device="cpu")
            keys = blocks - window + torch.arange(reach, device="cpu")
            near = (queries[:, :, None] - keys[:, None, :]).abs() <= window
            inside = (keys >= start) & (keys < total)
            queries, keys = queries.clamp(max=total - 1), keys.clamp(start, total - 1)
            seen = (
                near
                & inside[:, None]
                & (documents[queries][:, :, None] == documents[keys][:, None, :])
            )
            # Padding repeats the last token, and may see anything.
            seen |= ~seen.any(-1, keepdim=True)
            mask = torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, float("-inf"))
            part = (end - begin) % BLOCK
            valid = torch.arange(end - begin, device="cpu") if part else None
            tiles.append(
                Tile(slice(begin, end), len(queries), queries, keys, mask, 0, valid, False)
            )
        return tiles


def _lanes(n: int) -> int:
    return -(-n // LANES) * LANES


def _documents(start: int, lengths: list[int], reach: int, dtype: torch.dtype) -> Tile:
    """Return a tile of documents from token ``start`` on, with ``reach`` keys each."""
    sizes = torch.tensor(lengths, device="cpu")[:, None]
    starts = start + sizes.cumsum(0) - sizes
    offset = torch.arange(reach, device="cpu")
    real = offset < sizes  # (B, reach)
    keys = starts + torch.minimum(offset, sizes - 1)
    shortest, longest = min(lengths), max(lengths)
    rows = slice(start, start + sum(lengths))
    valid = None if shortest == longest else real[:, :longest].flatten().nonzero()[:, 0]
    if len(lengths) == 1 and (shortest == reach or reach == LANES):
        return Tile(rows, 1, None, None, None, shortest, None)
    if shortest == reach:
        return Tile(rows, len(lengths), keys, keys, None, reach, None)
    # Masking only the last columns is cheaper if they are less than a quarter.
    first = shortest if reach - shortest < reach // 4 else 0
    mask = torch.zeros_like(real, dtype=dtype).masked_fill_(~real, float("-inf"))
    masked = mask[:, None, first:].contiguous()
    queries = keys[:, :longest].contiguous()
    return Tile(rows, len(lengths), queries, keys, masked, first, valid)
