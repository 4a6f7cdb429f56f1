"""Masked-LM batches of documents in memory, for short training; runs use `data.loader`."""

from collections.abc import Iterator, Sequence

import numpy as np

from ..core.masking import masking_for
from ..core.tokenizer import Tokenizer
from ..data.loader import MASKS, ORDER, Cursor
from ..data.micro_batch import MicroBatch
from ..data.packing import best_fit
from ..errors import InputError, counted
from ..nn.packed import pack
from .objectives.masked_lm import mask

TRAINING_RATE, EVALUATION_RATE = 0.30, 0.15  # paper 2.2.1


def split(documents: Sequence[Sequence[int]], tokenizer: Tokenizer, length: int) -> list[list[int]]:
    """Split encoded documents into pieces of at most ``length`` tokens, with special tokens."""
    prefix, suffix = tokenizer.template_ids()
    room = length - len(prefix) - len(suffix)
    if room < 1:
        raise InputError(f"no text fits into {counted(length, 'token')}")
    return [
        [*prefix, *inside[i : i + room], *suffix]
        for inside in (d[len(prefix) : len(d) - len(suffix)] for d in documents)
        for i in range(0, len(inside), room)
    ]


def training_batches(
    documents: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    *,
    length: int,
    rows: int,
    micro_batches: int,
    seed: int,
) -> Iterator[tuple[list[MicroBatch], Cursor]]:
    """Yield the masked micro-batches of every step, epoch after epoch without end.

    Documents longer than a row of ``length`` tokens are split. A step has ``rows`` rows, in at most
    ``micro_batches`` parts.
    """
    pieces = split(documents, tokenizer, length)
    if not pieces:
        raise InputError("there is no text to train on")
    order, starts = best_fit(np.array([len(piece) for piece in pieces]), length)
    packed_rows = [row.tolist() for row in np.split(order, starts[1:-1])]
    masking = masking_for(tokenizer, TRAINING_RATE)
    micro_rows = -(-rows // micro_batches)
    cursor, step = Cursor(seed), 0
    while True:
        epoch = cursor.consumed // len(packed_rows)
        order = np.random.default_rng([seed, ORDER, epoch]).permutation(len(packed_rows))
        for begin in range(0, len(order), rows):
            taken = order[begin : begin + rows]
            step, cursor = step + 1, Cursor(seed, consumed=cursor.consumed + len(taken))
            parts = [taken[i : i + micro_rows] for i in range(0, len(taken), micro_rows)]
            yield [
                mask(
                    pack([pieces[d] for row in part for d in packed_rows[row]]),
                    masking, (seed, MASKS, step, number),
                )
                for number, part in enumerate(parts)
            ], cursor  # fmt: skip


def evaluation_batches(
    documents: Sequence[Sequence[int]], tokenizer: Tokenizer, length: int
) -> list[MicroBatch]:
    """Return masked micro-batches of all documents, always the same; see `training_batches`."""
    pieces = split(documents, tokenizer, length)
    masking = masking_for(tokenizer, EVALUATION_RATE)
    return [
        mask(pack(pieces[i : i + 16]), masking, (0, MASKS, i)) for i in range(0, len(pieces), 16)
    ]
