"""Loss and accuracy on held-out rows: always the same rows, with the same 15% masked."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from ..core.heads import MaskedLM
from ..data.loader import Choice, Cursor, Maker, MicroBatch, Request, masking_of
from ..data.prepared import Prepared
from .gradients import Threads
from .world import World

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
        seq_len: tokens of a row.
        rows: how many at most.
        micro_rows: of a micro-batch.
        rate: share that is masked.
    """

    def __init__(
        self, prepared: Prepared, seq_len: int, rows: int, micro_rows: int, rate: float
    ) -> None:
        choice = Choice(seq_len, held_out=True)
        maker = Maker((prepared.directory, choice, masking_of(prepared, rate)))
        count = min(rows, len(maker.rows))
        self.batches: list[MicroBatch] = []
        if count:
            self.batches += maker(Request(0, count, Cursor(SEED))).micro_batches(micro_rows)

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
                logits = model(batch.packed, batch.places)
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
