"""AttentionPlan: what the boundaries of one batch mean for attention, worked out once a batch."""

from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from ..packed import Packed
from ..rope import tables

BLOCK = 64  # queries of a block in a banded layer
LANES = 32  # keys of a tile are a multiple: a softmax over odd rows costs twice as much
LONG = 2048  # tokens from which a document is a stretch of its own
FILLING = 0.1  # how much of a tile of documents may be filling: they share it if of like length


@dataclass(frozen=True)
class Tile:
    """B stretches of queries, each with its stretch of keys: what one batched product works on.

    Attributes:
        rows: the tokens of the batch that it answers for.
        count: B.
        queries: which token each query is; filling repeats another. None: ``rows`` as they lie.
        keys: which token each key is, likewise.
        mask: added to the scores of all keys from ``first`` on: 0 where seen, -inf elsewhere.
        first: keys before it are seen by every query.
        valid: which of the queries answer for ``rows``, in order; None for all.
    """

    rows: slice
    count: int
    queries: Int[Tensor, "B Lq"] | None
    keys: Int[Tensor, "B Lk"] | None
    mask: Float[Tensor, "B _ masked"] | None
    first: int
    valid: Int[Tensor, " rows"] | None


class AttentionPlan:
    """Everything about a batch that its layers share, each part made when first asked for."""

    def __init__(self, packed: Packed) -> None:
        self.packed = packed
        self._rotary: dict[tuple[float, int], Tensor] = {}
        self._bands: dict[tuple[int, torch.dtype], Tensor] = {}
        self._tiles: dict[tuple[int | None, int, torch.dtype], list[Tile]] = {}

    @cached_property
    def runs(self) -> list[tuple[int, int]]:
        """Neighbouring documents of one length: (how many, length), in order."""
        return [(len(list(same)), length) for length, same in groupby(self.packed.lengths)]

    @cached_property
    def stretches(self) -> list[tuple[int, Int[Tensor, " some"], int]]:
        """The batch cut between documents, so that a long one is by itself.

        Of each stretch: its tokens, where its documents start and the last ends, the longest.
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

    def tiles(self, window: int | None, most: int, dtype: torch.dtype) -> list[Tile]:
        """The batch cut into tiles that together answer for every token once.

        Documents that fit the window, and all of them in a global layer, are tiles by document,
        several of like length together; what is longer is cut into blocks and their bands.

        Args:
            window: tokens seen on each side, None for all of the document.
            most: scores of one head that a tile should not exceed, unless one document needs it.
            dtype: of the masks.
        """
        key = (window, most, dtype)
        if key not in self._tiles:
            lengths = self.packed.lengths
            reach = max(lengths) if window is None else window + 1
            short = next((i for i, n in enumerate(lengths) if n > reach), len(lengths))
            tiles = self._by_document(short, most, dtype)
            if short < len(lengths):
                assert window is not None
                tiles += self._by_block(sum(lengths[:short]), window, most, dtype)
            self._tiles[key] = tiles
        return self._tiles[key]

    def _by_document(self, documents: int, most: int, dtype: torch.dtype) -> list[Tile]:
        """Tiles of the first documents: neighbours share one while little of it is filling."""
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
                    used < count * longer * (1 - FILLING) or count * longer**2 > most
                ):
                    break
                last, longest, total = last + 1, longer, used
            tiles.append(_documents(token, lengths[first:last], longest, dtype))
            token, first = tiles[-1].rows.stop, last
        return tiles

    def _by_block(self, start: int, window: int, most: int, dtype: torch.dtype) -> list[Tile]:
        """Tiles of the row from ``start`` on: blocks of queries, each with the band it may see."""
        total = len(self.packed.ids)
        reach = _lanes(BLOCK + 2 * window)
        together = max(1, most // (BLOCK * reach))
        documents = self.packed.documents
        tiles = []
        for begin in range(start, total, together * BLOCK):
            end = min(total, begin + together * BLOCK)
            blocks = torch.arange(begin, end, BLOCK)[:, None]
            queries = blocks + torch.arange(BLOCK)
            keys = blocks - window + torch.arange(reach)
            near = (queries[:, :, None] - keys[:, None, :]).abs() <= window
            inside = (keys >= start) & (keys < total)
            queries, keys = queries.clamp(max=total - 1), keys.clamp(start, total - 1)
            seen = (
                near
                & inside[:, None]
                & (documents[queries][:, :, None] == documents[keys][:, None, :])
            )
            # A query that is filling repeats the last token, and may see whatever is there.
            seen |= ~seen.any(-1, keepdim=True)
            mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))
            valid = torch.arange(end - begin) if (end - begin) % BLOCK else None
            tiles.append(Tile(slice(begin, end), len(queries), queries, keys, mask, 0, valid))
        return tiles


def _lanes(n: int) -> int:
    return -(-n // LANES) * LANES


def _documents(start: int, lengths: list[int], reach: int, dtype: torch.dtype) -> Tile:
    """A tile of documents side by side from token ``start`` on, with ``reach`` keys each."""
    sizes = torch.tensor(lengths)[:, None]
    starts = start + sizes.cumsum(0) - sizes
    place = torch.arange(reach)
    real = place < sizes  # (B, reach)
    keys = starts + torch.minimum(place, sizes - 1)
    shortest, longest = min(lengths), max(lengths)
    rows = slice(start, start + sum(lengths))
    valid = None if shortest == longest else real[:, :longest].flatten().nonzero()[:, 0]
    if len(lengths) == 1 and (shortest == reach or reach == LANES):
        return Tile(rows, 1, None, None, None, shortest, None)
    if shortest == reach:
        return Tile(rows, len(lengths), keys, keys, None, reach, None)
    # Adding a few last columns is cheap; from a quarter of them on, whole rows are cheaper.
    first = shortest if reach - shortest < reach // 4 else 0
    mask = torch.zeros(real.shape, dtype=dtype).masked_fill_(~real, float("-inf"))
    masked = mask[:, None, first:].contiguous()
    queries = keys[:, :longest].contiguous()
    return Tile(rows, len(lengths), queries, keys, masked, first, valid)
