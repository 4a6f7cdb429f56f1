"""The vectors of a model that is trained."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray
from torch import Tensor, nn

from ...core.batching import concatenate, split_by_tokens
from ...nn.packed import Packed
from ..threads import executor_for

MICRO_TOKENS = 4096  # of a batch


def vectors_of(
    model: nn.Module,
    compute: Callable[[Packed], Tensor],
    texts: Sequence[NDArray[np.int32]],
    dtype: torch.dtype,
) -> Float32[np.ndarray, "n size"]:
    """Return a vector for each text.

    Args:
        model: is set to evaluation mode meanwhile.
        compute: from a batch to a vector for each of its texts.
        texts: token ids of each text.
        dtype: of matrix products.
    """
    device = next(model.parameters()).device
    batches = split_by_tokens([len(text) for text in texts], MICRO_TOKENS)

    @torch.inference_mode()
    def rows(numbers: list[int]) -> Float32[np.ndarray, "rows size"]:
        packed = Packed.from_arrays(*concatenate([texts[number] for number in numbers]))
        lower = dtype != torch.float32
        with torch.autocast(device.type, dtype, enabled=lower, cache_enabled=False):
            return compute(packed).float().cpu().numpy()

    training = model.training
    model.eval()
    found = list(executor_for(device).in_order(rows, batches))
    model.train(training)
    whole = np.empty((len(texts), found[0].shape[1]), np.float32)
    for numbers, part in zip(batches, found, strict=True):
        whole[numbers] = part
    return whole
