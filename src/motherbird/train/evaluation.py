"""Masked-LM loss and accuracy on held-out text, always with the same masks."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch.nn import functional

from ..arrays import Int
from ..data.loader import BatchBuilder, BatchRequest, Cursor, RowFilter, masking_of
from ..data.micro_batch import MicroBatch
from ..data.prepared import PreparedDataset
from ..errors import InputError
from ..nn.heads import MaskedLM
from .distributed import Distributed
from .threads import executor_for

SEED = 15  # of row order and masks, whatever the run's seed
MICRO_TOKENS = 4096  # tokens of a micro-batch in `evaluate_by_source`


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation."""

    loss: float  # mean cross entropy of the masked tokens, in nats
    accuracy: float  # fraction of the masked tokens that got the highest probability
    masked: int  # number of masked tokens


def evaluate(
    model: MaskedLM,
    batches: Sequence[MicroBatch],
    dtype: torch.dtype = torch.float32,
    distributed: Distributed | None = None,
) -> Evaluation:
    """Evaluate a model on masked micro-batches, or raise InputError if no token is masked.

    Every rank computes its part. The result is the same for any number of threads and ranks.
    """
    ranks = distributed or Distributed(0, 1, model.model.device)

    @torch.inference_mode()
    def compute(batch: MicroBatch) -> tuple[float, float, float]:
        with torch.autocast(ranks.device.type, dtype, enabled=dtype != torch.float32):
            logits = model(batch.packed, batch.positions)
        targets = batch.targets.to(logits.device)
        loss = functional.cross_entropy(logits.float(), targets, reduction="sum")
        right = (logits.argmax(-1) == targets).sum()
        return loss.item(), float(right), float(len(targets))

    training = model.training
    model.eval()
    own = batches[ranks.rank :: ranks.world_size]
    found = list(executor_for(ranks.device).in_order(compute, own))
    model.train(training)
    most = -(-len(batches) // ranks.world_size)
    found += [(0.0, 0.0, 0.0)] * (most - len(found))
    gathered = ranks.all_gather([value for each in found for value in each])
    # Sum in the order of the micro-batches: rank 0's first, rank 1's first, ..., rank 0's second.
    ordered = [each[3 * i : 3 * i + 3] for i in range(most) for each in gathered]
    loss, right, masked = (sum(each[i] for each in ordered) for i in range(3))
    if not masked:
        raise InputError("there is too little text to evaluate on")
    return Evaluation(loss / masked, right / masked, int(masked))


def held_out_batches(
    prepared: PreparedDataset, row_filter: RowFilter, rows: int, micro_rows: int, rate: float
) -> list[MicroBatch]:
    """Return at most ``rows`` held-out rows, masked, in micro-batches.

    There are none if no row is held out, or no token is masked.
    """
    builder = BatchBuilder(prepared.directory, row_filter, masking_of(prepared, rate))
    count = min(rows, len(builder.rows))
    if not count:
        return []
    batch = builder(BatchRequest(0, count, Cursor(SEED)))
    return list(batch.micro_batches(micro_rows)) if len(batch.positions) else []


@dataclass(frozen=True)
class TextEvaluation:
    """The result on the held-out text of one source or of all; None if no token is masked."""

    loss: float | None = None  # see `Evaluation`
    accuracy: float | None = None
    masked: int = 0
    unigram: float | None = None  # loss in nats of predicting by the text's own token frequencies
    bytes_per_token: float | None = None  # mean number of UTF-8 bytes per token

    @property
    def gain(self) -> float | None:
        """``unigram`` minus ``loss``."""
        return None if self.unigram is None or self.loss is None else self.unigram - self.loss

    @property
    def nats_per_byte(self) -> float | None:
        """The loss per byte, which makes models with different vocabularies comparable."""
        if self.loss is None or self.bytes_per_token is None:
            return None
        return self.loss / self.bytes_per_token


def evaluate_by_source(
    model: MaskedLM,
    prepared: PreparedDataset,
    seq_len: int,
    *,
    tokens: int,
    rate: float,
    model_name: str = "MODEL",
) -> Iterator[tuple[str, TextEvaluation]]:
    """Evaluate on the held-out text of each source, and last on that of all ("all").

    Errors call the model ``model_name``.

    Raises:
        InputError: the dataset has no held-out text, or its tokenizer is not the model's.
    """
    own = model.model.tokenizer
    where = str(prepared.directory)
    if own is not None and own.backend.to_str() != prepared.tokenizer.backend.to_str():
        how = f"prepare the text with --tokenizer {model_name}"
        raise InputError("the model's tokenizer is not the dataset's", where, how)
    names = [name for name, source in prepared.about.sources.items() if source.held_out]
    if not names:
        used = prepared.about.held_out  # documents are chosen by their hash, so it may choose none
        what = f" (--eval {used:g} chose none)" if used else ""
        how = (
            "prepare more text, or a larger --eval" if used else "prepare it again with --eval 0.01"
        )
        raise InputError(f"the dataset has no held-out documents{what}", where, how)
    for sources in [*((name,) for name in names), None]:
        batches = held_out_batches(
            prepared, RowFilter(seq_len, held_out=True, sources=sources),
            max(1, tokens // seq_len), max(1, MICRO_TOKENS // seq_len), rate,
        )  # fmt: skip
        name = sources[0] if sources else "all"
        if not batches:
            yield name, TextEvaluation()
            continue
        text = _original_text(batches, prepared.tokenizer.special_ids)
        size = len(prepared.tokenizer.decode(text.tolist()).encode())
        found = TextEvaluation(
            **asdict(evaluate(model, batches)), unigram=unigram_entropy([text.tolist()], []),
            bytes_per_token=size / len(text),
        )  # fmt: skip
        yield name, found


def _original_text(batches: Sequence[MicroBatch], special: Sequence[int]) -> Int[np.ndarray, " T"]:
    """Return the ids before masking, without special tokens."""
    parts = []
    for batch in batches:
        ids = batch.packed.ids.clone()
        ids[batch.positions] = batch.targets
        parts.append(ids.numpy())
    text = np.concatenate(parts)
    return text[~np.isin(text, special)]


def unigram_entropy(documents: Sequence[Sequence[int]], special_ids: Sequence[int]) -> float:
    """Return the entropy in nats of the token frequencies: the best loss without any context."""
    counts = np.bincount(np.concatenate([np.asarray(d, dtype=np.int64) for d in documents]))
    counts[[i for i in special_ids if i < len(counts)]] = 0
    fractions = counts[counts > 0] / counts.sum()
    return float(-(fractions * np.log(fractions)).sum())
