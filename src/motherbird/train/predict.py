"""The logits of a model that is trained, for its metrics."""

import numpy as np
import torch
from numpy.typing import NDArray

from ..core.batching import split_by_tokens
from ..nn.heads import SequenceClassifier, TokenClassifier
from .examples import Examples
from .threads import executor_for

MICRO_TOKENS = 4096  # of a batch


def logits_of(
    model: SequenceClassifier | TokenClassifier, examples: Examples, dtype: torch.dtype
) -> list[NDArray[np.float32]]:
    """Return the logits of each document: (C,), or (tokens, C) for tags."""
    device = model.model.device
    batches = split_by_tokens(examples.lengths, MICRO_TOKENS)

    @torch.inference_mode()
    def compute(numbers: list[int]) -> list[NDArray[np.float32]]:
        packed = examples.batch(numbers).packed
        with torch.autocast(
            device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False
        ):
            logits = model(packed).float().cpu().numpy()
        if examples.kind == "tags":
            return np.split(logits, packed.cu_seqlens[1:-1].tolist())
        return list(logits)

    training = model.training
    model.eval()
    found: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(examples)
    for numbers, rows in zip(batches, executor_for(device).in_order(compute, batches), strict=True):
        for number, row in zip(numbers, rows, strict=True):
            found[number] = row
    model.train(training)
    return found
