"""The outputs of a model that is trained, for its metrics."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..arrays import Float32
from ..core.batching import concatenate, split_by_tokens
from ..nn.heads import SequenceClassifier, TokenClassifier
from ..nn.packed import Packed
from .examples import Examples
from .threads import executor_for

MICRO_TOKENS = 4096  # of a batch


def outputs_of(
    model: nn.Module,
    compute: Callable[[Packed], Tensor],
    texts: Sequence[NDArray[np.int32]],
    dtype: torch.dtype,
    *,
    per_token: bool = False,
) -> list[NDArray[np.float32]]:
    """Return the output for each text: (size,), or (tokens, size).

    Args:
        model: is set to evaluation mode meanwhile.
        compute: from a batch to a row for each of its texts, or tokens.
        texts: token ids of each text.
        dtype: of matrix products.
        per_token: whether rows are those of tokens.
    """
    device = next(model.parameters()).device
    batches = split_by_tokens([len(text) for text in texts], MICRO_TOKENS)

    @torch.inference_mode()
    def rows(numbers: list[int]) -> list[NDArray[np.float32]]:
        packed = Packed.from_arrays(*concatenate([texts[number] for number in numbers]))
        lower = dtype != torch.float32
        with torch.autocast(device.type, dtype, enabled=lower, cache_enabled=False):
            found = compute(packed).float().cpu().numpy()
        return np.split(found, packed.cu_seqlens[1:-1].tolist()) if per_token else list(found)

    training = model.training
    model.eval()
    outputs: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(texts)
    for numbers, own in zip(batches, executor_for(device).in_order(rows, batches), strict=True):
        for number, row in zip(numbers, own, strict=True):
            outputs[number] = row
    model.train(training)
    return outputs


def logits_of(
    model: SequenceClassifier | TokenClassifier, examples: Examples, dtype: torch.dtype
) -> list[NDArray[np.float32]]:
    """Return the logits of each document: (C,), or (tokens, C) for tags."""
    return outputs_of(model, model, examples.ids, dtype, per_token=examples.kind == "tags")


def vectors_of(
    model: nn.Module,
    compute: Callable[[Packed], Tensor],
    texts: Sequence[NDArray[np.int32]],
    dtype: torch.dtype,
) -> Float32[np.ndarray, "n size"]:
    """Return a vector for each text; see `outputs_of`."""
    return np.stack(outputs_of(model, compute, texts, dtype))
