"""Attention on a CPU: batched matrix products over tiles whose scores stay in the cache.

torch's fused kernel reaches a fifth of the bfloat16 speed of a CPU. Two batched products with a
softmax between them are two to three times as fast, as long as the scores of a tile fit the cache
and their memory is reused; in float32 the two are equal (docs/log.md). `AttentionPlan.tiles` groups
queries and keys into tiles: documents of similar length, or blocks with their bands.

In bfloat16, scores and their powers are rounded, and sums are float32. Training keeps the
probabilities of short documents and bands, and recomputes those of long documents.
"""

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from ...arrays import Float, Int
from ..autograd import first_order
from .plan import AttentionPlan, Heads, Tile

BY_LENGTH = True
SCORES = 2**19  # scores that a thread computes at once: 1 MiB of bfloat16, the cache of a core
MAX_SUM = 2.0**100  # largest sum of powers that is used; bfloat16 overflows at 2**128
QUERIES = 256  # queries of a long document that are computed at once
KEPT = 1024  # up to this many keys, probabilities need no more memory than the rest of a layer


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return None for float32 and bfloat16 on a CPU."""
    if device.type != "cpu":
        return f"the device is {device.type}, not a CPU"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"it computes in float32 and bfloat16, not {dtype}".replace("torch.", "")
    return None


def attend(q: Heads, k: Heads, v: Heads, plan: AttentionPlan, window: int | None) -> Heads:
    """Compute attention; see `oracle.visible` for which tokens see each other."""
    gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    return cast(Tensor, _Attend.apply(q, k, v, plan, window, gradient))  # type: ignore[no-untyped-call]


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: AttentionPlan, window: int | None,
        gradient: bool,
    ) -> Tensor:  # fmt: skip
        q, k, v = (_heads_outermost(x) for x in (q, k, v))
        ctx.save_for_backward(q, k, v)
        # The backward pass uses the same tiles and chunks, whatever its number of threads.
        ctx.budget = budget = SCORES * torch.get_num_threads()
        ctx.plan, ctx.window, ctx.kept = plan, window, []
        y = torch.empty(v.shape, dtype=v.dtype, device="cpu")
        for tile in _tiles(q, plan, window, budget):
            tq = _gather(q, tile, tile.queries)
            tk, tv = (_gather(x, tile, tile.keys) for x in (k, v))
            out = torch.empty_like(tq)
            keep = gradient and tk.shape[1] <= KEPT
            for heads, rows, memory in _chunks(tq, tk, budget, keep):
                if keep:
                    p = _probabilities(tq[heads, rows], tk[heads], tile, memory)
                    torch.bmm(p, tv[heads], out=out[heads, rows])
                    ctx.kept.append(p)
                else:
                    _weigh(tq[heads, rows], tk[heads], tv[heads], tile, memory, out[heads, rows])
            _scatter(out, tile, y)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        dout = _heads_outermost(grads[0])
        tiles = _tiles(q, ctx.plan, ctx.window, ctx.budget)
        dq = torch.empty(q.shape, dtype=q.dtype, device="cpu")
        # float32 where several tiles have the same keys: sums of many
        wide = q.dtype if all(tile.whole for tile in tiles) else torch.float32
        dk, dv = (torch.zeros(x.shape, dtype=wide, device="cpu") for x in (k, v))
        kept = iter(ctx.kept)
        for tile in tiles:
            tq = _gather(q, tile, tile.queries)
            tk, tv = (_gather(x, tile, tile.keys) for x in (k, v))
            dy = _gather_rows(dout, tile, tq.shape[1])
            parts = _tile_gradients(tq, tk, tv, dy, tile, ctx.budget, kept)
            _scatter(parts[0], tile, dq)
            for total, part in zip((dk, dv), parts[1:], strict=True):
                if tile.whole:
                    _scatter(part[:, : tq.shape[1]], tile, total)
                else:
                    assert tile.keys is not None
                    part = part.view(total.shape[1], -1, part.shape[-1]).transpose(0, 1)
                    total.index_add_(0, tile.keys.flatten(), part.to(wide))
        return dq, dk.to(q.dtype), dv.to(q.dtype), None, None, None


def _tile_gradients(
    q: Float[Tensor, "NB Lq H"],
    k: Float[Tensor, "NB Lk H"],
    v: Float[Tensor, "NB Lk H"],
    dy: Float[Tensor, "NB Lq H"],
    tile: Tile,
    budget: int,
    kept: Iterator[Tensor],
) -> tuple[Float[Tensor, "NB Lq H"], Float[Tensor, "NB Lk H"], Float[Tensor, "NB Lk H"]]:
    """Return the gradients of Q, K and V; ``kept`` yields the probabilities that were kept."""
    scale = q.shape[-1] ** -0.5
    keep = k.shape[1] <= KEPT
    at_once = q.shape[1] * k.shape[1] <= budget  # all queries of a head, and no sums are needed
    dq = torch.empty_like(q)
    dtype = q.dtype if at_once else torch.float32
    dk, dv = (torch.zeros(x.shape, dtype=dtype, device="cpu") for x in (k, v))
    for heads, rows, memory in _chunks(q, k, budget, keep):
        p = next(kept) if keep else _probabilities(q[heads, rows], k[heads], tile, memory)
        dp = dy[heads, rows] @ v[heads].mT
        ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype).mul_(scale)
        torch.bmm(ds, k[heads], out=dq[heads, rows])
        if at_once:
            torch.bmm(p.mT, dy[heads], out=dv[heads])
            torch.bmm(ds.mT, q[heads], out=dk[heads])
        else:
            dv[heads] += p.mT @ dy[heads, rows]
            dk[heads] += ds.mT @ q[heads, rows]
    return dq, dk, dv


def _heads_outermost(x: Heads) -> Heads:
    """Make the rows of each head contiguous, as `rope.rotate` leaves those of Q and K."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def _tiles(q: Heads, plan: AttentionPlan, window: int | None, budget: int) -> list[Tile]:
    return plan.tiles(window, max(1, budget // q.shape[1]), q.dtype)


def _gather(x: Heads, tile: Tile, which: Int[Tensor, "B L"] | None) -> Float[Tensor, "NB L H"]:
    """Return the tokens of a tile in every head."""
    heads_first = x.transpose(0, 1)
    if which is None:
        return heads_first[:, tile.rows]
    return heads_first.index_select(1, which.flatten()).view(-1, which.shape[1], x.shape[-1])


def _scatter(part: Float[Tensor, "NB L H"], tile: Tile, whole: Heads) -> None:
    """Write the results of a tile to their tokens, and drop those of padding."""
    rows = part.reshape(whole.shape[1], -1, part.shape[-1]).transpose(0, 1)  # (B * L, N, H)
    whole[tile.rows] = rows if tile.valid is None else rows.index_select(0, tile.valid)


def _gather_rows(whole: Heads, tile: Tile, queries: int) -> Float[Tensor, "NB Lq H"]:
    """Reverse `_scatter`, with zeros for padding."""
    rows = whole[tile.rows]
    if tile.valid is not None:
        padded = rows.new_zeros(tile.count * queries, *rows.shape[1:])
        rows = padded.index_copy_(0, tile.valid, rows)
    return rows.transpose(0, 1).reshape(-1, queries, rows.shape[-1])


def _chunks(
    q: Float[Tensor, "NB Lq H"], k: Float[Tensor, "NB Lk H"], budget: int, fresh: bool
) -> Iterator[tuple[slice, slice, Float[Tensor, "some rows Lk"]]]:
    """Split a tile into chunks of heads and queries whose scores fit the budget.

    A tile that does not fit is one document: it is split by heads, and by queries if the scores of
    one head do not fit. Each chunk comes with memory for its scores, which the next chunk reuses
    unless ``fresh``.
    """
    (every, queries, _), keys = q.shape, k.shape[1]
    step = queries if queries * keys <= budget else QUERIES
    together = max(1, min(every, budget // (step * keys)))
    memory = q.new_empty(0 if fresh else together * step * keys)
    for heads in _slices(every, together):
        for rows in _slices(queries, step):
            shape = (heads.stop - heads.start, rows.stop - rows.start, keys)
            if fresh:
                memory = q.new_empty(math.prod(shape))
            yield heads, rows, memory[: math.prod(shape)].view(shape)


def _weigh(
    q: Float[Tensor, "some rows H"],
    k: Float[Tensor, "some Lk H"],
    v: Float[Tensor, "some Lk H"],
    tile: Tile,
    memory: Float[Tensor, "some rows Lk"],
    out: Float[Tensor, "some rows H"],
) -> None:
    """Write the values of a chunk, weighted by the softmax of their scores, into ``out``.

    In bfloat16, powers of 2 without subtracting the maximum take two thirds of the time of a
    softmax, and are as exact while their sums are far from the limits of the dtype. If they are
    not, a softmax follows.
    """
    if q.dtype == torch.bfloat16:
        powers = torch.exp2(_scores(q, k, tile, memory, base=2.0), out=memory)
        total = powers.sum(-1, keepdim=True, dtype=torch.float32)
        smallest, largest = total.aminmax()
        if 1 / MAX_SUM < smallest and largest < MAX_SUM:
            torch.bmm(powers, v, out=out).div_(total)
            return
    torch.bmm(_probabilities(q, k, tile, memory), v, out=out)


def _probabilities(
    q: Float[Tensor, "some rows H"],
    k: Float[Tensor, "some Lk H"],
    tile: Tile,
    memory: Float[Tensor, "some rows Lk"],
) -> Float[Tensor, "some rows Lk"]:
    """Compute the softmax of a chunk's scores, in ``memory``."""
    scores = _scores(q, k, tile, memory)
    return torch.softmax(scores, dim=-1, out=scores)


def _scores(
    q: Float[Tensor, "some rows H"],
    k: Float[Tensor, "some Lk H"],
    tile: Tile,
    memory: Float[Tensor, "some rows Lk"],
    base: float = math.e,
) -> Float[Tensor, "some rows Lk"]:
    """Compute scores in units of ``log(base)``, in ``memory``."""
    scale = q.shape[-1] ** -0.5 / math.log(base)
    if tile.mask is None:
        return torch.baddbmm(memory, q, k.mT, beta=0, alpha=scale, out=memory)
    masked = memory.unflatten(0, (-1, tile.count))[..., tile.first :]
    if tile.first == 0:  # the product is added to the mask
        masked.copy_(tile.mask)
        return torch.baddbmm(memory, q, k.mT, alpha=scale, out=memory)
    torch.baddbmm(memory, q, k.mT, beta=0, alpha=scale, out=memory)
    masked += tile.mask
    return memory


def _slices(total: int, step: int) -> Iterator[slice]:
    return (slice(start, min(total, start + step)) for start in range(0, total, step))
