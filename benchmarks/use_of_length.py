"""Measure the use of long context: the same masked tokens in whole and in split documents.

    python benchmarks/use_of_length.py MODEL DATASET [--cut 512] [--out FILE.json]

DATASET is prepared for rows of 8,192 tokens. Its held-out documents of at least 4,096 tokens (at
most 8,192, because longer ones were split) are used, with 15% of their tokens masked. The model
predicts them once in whole documents, and once in pieces of --cut tokens, each with [CLS] and
[SEP]. Loss and accuracy are over the same tokens.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from common import finish, machine
from torch.nn.functional import cross_entropy

from motherbird.data.loader import (
    BatchBuilder,
    BatchRequest,
    Cursor,
    RowFilter,
    masking_of,
)
from motherbird.data.micro_batch import MicroBatch
from motherbird.data.prepared import PreparedDataset
from motherbird.nn import MaskedLM
from motherbird.nn.packed import pack

LONG, MIN_TOKENS, MASKING, SEED = 8192, 4096, 0.15, 15
SPECIAL = 2  # [CLS] and [SEP]


@torch.inference_mode()
def figures(model: MaskedLM, batch: MicroBatch) -> np.ndarray:
    """Return the loss, and the numbers of correct and of all masked tokens."""
    logits = model(batch.packed, batch.positions).float()
    loss = cross_entropy(logits, batch.targets, reduction="sum")
    right = (logits.argmax(-1) == batch.targets).sum()
    return np.array([loss.item(), right.item(), len(batch.targets)])


def long_documents(batch: MicroBatch) -> Iterator[MicroBatch]:
    """Yield the long documents of a row, without the parts of other documents."""
    start = 0
    for size in batch.packed.lengths:
        inside = (batch.positions >= start) & (batch.positions < start + size)
        if size >= MIN_TOKENS:
            ids = batch.packed.ids[start : start + size].tolist()
            yield MicroBatch(pack([ids]), batch.positions[inside] - start, batch.targets[inside])
        start += size


def cut(document: MicroBatch, length: int) -> MicroBatch:
    """Split a document into pieces of at most ``length`` tokens."""
    first, *inner, last = document.packed.ids.tolist()
    room = length - SPECIAL
    pieces = [[first, *inner[i : i + room], last] for i in range(0, len(inner), room)]
    within = document.positions - 1  # without the first token
    return MicroBatch(pack(pieces), within + within // room * SPECIAL + 1, document.targets)


def main() -> None:
    """Evaluate both, and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("set", type=Path)
    parser.add_argument("--cut", type=int, default=512)
    parser.add_argument("--rows", type=int, default=10**6, help="at most")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = MaskedLM.load(options.model, dtype="auto").eval()
    prepared = PreparedDataset(options.set)
    choice = RowFilter(LONG, held_out=True, min_tokens=MIN_TOKENS)
    builder = BatchBuilder(prepared.directory, choice, masking_of(prepared, MASKING))
    rows = min(options.rows, len(builder.rows))
    whole, parts, documents = np.zeros(3), np.zeros(3), 0
    for batch in builder(BatchRequest(0, rows, Cursor(SEED))).micro_batches(1):
        for document in long_documents(batch):
            documents += 1
            whole += figures(model, document)
            pieces = cut(document, options.cut)
            assert torch.equal(
                pieces.packed.ids[pieces.positions], document.packed.ids[document.positions]
            )
            parts += figures(model, pieces)
    assert whole[2] == parts[2] > 0

    def of(sums: np.ndarray) -> dict[str, float]:
        return {"loss": sums[0] / sums[2], "accuracy": sums[1] / sums[2]}

    finish(
        {
            "command": f"python benchmarks/use_of_length.py MODEL DATASET --cut {options.cut}",
            "machine": machine(),
            "documents": documents,
            "masked": int(whole[2]),
            "whole": of(whole),
            f"cut to {options.cut}": of(parts),
        },
        options.out,
    )


if __name__ == "__main__":
    main()
