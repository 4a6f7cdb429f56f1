"""What length is good for: the same masked tokens in whole documents, and in documents cut up.

    python benchmarks/use_of_length.py MODEL SET [--cut 512] [--out FILE.json]

SET is prepared for rows of 8,192 tokens. Its held-out documents of 4,096 tokens and more are taken
(as the set has cut them: none beyond 8,192), 15% of their tokens masked. Once every document is
whole, once it is in pieces of --cut tokens, each framed by [CLS] and [SEP] as a document is. Loss
and accuracy are over the very same tokens.
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
    MicroBatch,
    RowFilter,
    masking_of,
)
from motherbird.data.prepared import PreparedDataset
from motherbird.nn import MaskedLM
from motherbird.nn.packed import pack

LONG, LEAST, MASKING, SEED = 8192, 4096, 0.15, 15
FRAME = 2  # [CLS] and [SEP]


@torch.inference_mode()
def figures(model: MaskedLM, batch: MicroBatch) -> np.ndarray:
    """Loss, right answers and number of the masked tokens."""
    logits = model(batch.packed, batch.positions).float()
    loss = cross_entropy(logits, batch.targets, reduction="sum")
    right = (logits.argmax(-1) == batch.targets).sum()
    return np.array([loss.item(), right.item(), len(batch.targets)])


def long_documents(batch: MicroBatch) -> Iterator[MicroBatch]:
    """Each by itself; rows are filled up with the ends of others, which say nothing of length."""
    start = 0
    for size in batch.packed.lengths:
        inside = (batch.positions >= start) & (batch.positions < start + size)
        if size >= LEAST:
            ids = batch.packed.ids[start : start + size].tolist()
            yield MicroBatch(pack([ids]), batch.positions[inside] - start, batch.targets[inside])
        start += size


def cut(document: MicroBatch, length: int) -> MicroBatch:
    """In pieces of so many tokens, with what frames them."""
    first, *inner, last = document.packed.ids.tolist()
    room = length - FRAME
    pieces = [[first, *inner[i : i + room], last] for i in range(0, len(inner), room)]
    within = document.positions - 1  # behind the first token
    return MicroBatch(pack(pieces), within + within // room * FRAME + 1, document.targets)


def main() -> None:
    """Evaluate both ways."""
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
    choice = RowFilter(LONG, held_out=True, min_tokens=LEAST)
    maker = BatchBuilder(prepared.directory, choice, masking_of(prepared, MASKING))
    rows = min(options.rows, len(maker.rows))
    whole, parts, documents = np.zeros(3), np.zeros(3), 0
    for batch in maker(BatchRequest(0, rows, Cursor(SEED))).micro_batches(1):
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
            "command": f"python benchmarks/use_of_length.py MODEL SET --cut {options.cut}",
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
