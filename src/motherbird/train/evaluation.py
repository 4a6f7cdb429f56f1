"""Loss and accuracy on held-out rows: always the same rows, with the same tokens masked."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch.nn import functional

from ..data.loader import BatchBuilder, BatchRequest, Cursor, MicroBatch, RowFilter, masking_of
from ..data.prepared import PreparedDataset
from ..errors import InputError
from ..nn.heads import MaskedLM
from .distributed import World
from .gradients import Threads, side_by_side
from .loop import unigram_entropy

SEED = 15  # of the order and the masks, whatever the run's


@dataclass(frozen=True)
class Evaluation:
    """Of one state of a model.

    Attributes:
        loss: nats a masked token.
        accuracy: share of the masked tokens that were the likeliest.
        masked: how many these were.
    """

    loss: float
    accuracy: float
    masked: int


class HeldOut:
    """The rows that are evaluated on, cut into micro-batches.

    Args:
        prepared: the set.
        choice: which of its rows.
        rows: how many at most.
        micro_rows: of a micro-batch.
        rate: share that is masked.
    """

    def __init__(
        self, prepared: PreparedDataset, choice: RowFilter, rows: int, micro_rows: int, rate: float
    ) -> None:
        maker = BatchBuilder(prepared.directory, choice, masking_of(prepared, rate))
        count = min(rows, len(maker.rows))
        self.batches: list[MicroBatch] = []
        if count:
            self.batches += maker(BatchRequest(0, count, Cursor(SEED))).micro_batches(micro_rows)

    def __bool__(self) -> bool:
        return bool(self.batches)

    def evaluate(
        self, model: MaskedLM, dtype: torch.dtype, threads: Threads, world: World
    ) -> Evaluation:
        """Every rank takes its share; all get the same figures, whatever their number."""

        @torch.inference_mode()
        def figures(batch: MicroBatch) -> tuple[float, float, float]:
            device = world.device.type
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                logits = model(batch.packed, batch.positions)
            targets = batch.targets.to(logits.device)
            loss = functional.cross_entropy(logits.float(), targets, reduction="sum")
            right = (logits.argmax(-1) == targets).sum()
            return loss.item(), float(right), float(len(targets))

        training = model.training
        model.eval()
        mine = self.batches[world.rank :: world.size]
        found = list(threads.pool.map(figures, mine) if threads.pool else map(figures, mine))
        model.train(training)
        most = -(-len(self.batches) // world.size)
        found += [(0.0, 0.0, 0.0)] * (most - len(found))
        gathered = world.gather([value for each in found for value in each])
        # In the order of micro-batches: rank 0's first, rank 1's first, ..., rank 0's second.
        ordered = [
            each[3 * i : 3 * i + 3] for i in range(most) for each in gathered
        ]  # three figures each
        loss, right, masked = (sum(column) for column in zip(*ordered, strict=True))
        return Evaluation(loss / max(1.0, masked), right / max(1.0, masked), int(masked))


@dataclass(frozen=True)
class TextEvaluation(Evaluation):
    """`Evaluation` on one source's held-out text, or on all, and how hard that text is.

    Attributes:
        unigram: nats a token from the text's own frequencies, the best without any context.
        bytes_a_token: of the text.
    """

    unigram: float
    bytes_a_token: float

    @property
    def nats_a_byte(self) -> float:
        """The loss of masked tokens over their bytes: what vocabularies can be compared by."""
        return self.loss / self.bytes_a_token


def by_source(
    model: MaskedLM,
    prepared: PreparedDataset,
    seq_len: int,
    *,
    tokens: int,
    rate: float,
    micro_tokens: int = 4096,
) -> Iterator[tuple[str, TextEvaluation]]:
    """Evaluate on the held-out text of each source, and last on that of all ("all").

    Args:
        model: on its device, computing in its own dtype; its tokenizer is the set's.
        prepared: the set.
        seq_len: tokens of a row; the set was prepared for it.
        tokens: of each source at most, in rows.
        rate: share that is masked.
        micro_tokens: of a micro-batch.

    Raises:
        InputError: nothing is held out in the set, or the vocabularies differ.
    """
    own = model.model.tokenizer
    if own is not None and own.backend.to_str() != prepared.tokenizer.backend.to_str():
        raise InputError(
            "the model's tokenizer is not the set's",
            str(prepared.directory),
            "prepare the text with --tokenizer and the model's folder",
        )
    world = World(0, 1, model.model.device)
    names = [name for name, about in prepared.about.sources.items() if about.held_out]
    if not names:
        raise InputError(
            "nothing is held out", str(prepared.directory), "run prepare again with --eval 0.01"
        )
    with side_by_side(world.device) as threads:
        for sources in [*((name,) for name in names), None]:
            choice = RowFilter(seq_len, held_out=True, sources=sources)
            held_out = HeldOut(
                prepared, choice, max(1, tokens // seq_len), max(1, micro_tokens // seq_len), rate
            )
            found = held_out.evaluate(model, torch.float32, threads, world)  # no autocast
            text = _text_of(held_out, prepared.tokenizer.special_ids)
            size = len(prepared.tokenizer.decode(text.tolist()).encode())
            every = TextEvaluation(
                **asdict(found),
                unigram=unigram_entropy([text.tolist()], []),
                bytes_a_token=size / len(text),
            )
            yield sources[0] if sources else "all", every


def _text_of(held_out: HeldOut, special: list[int]) -> Int[np.ndarray, " T"]:
    """What was there before it was masked, without special tokens."""
    parts = []
    for batch in held_out.batches:
        ids = batch.packed.ids.clone()
        ids[batch.positions] = batch.targets
        parts.append(ids.numpy())
    text = np.concatenate(parts)
    return text[~np.isin(text, special)]
