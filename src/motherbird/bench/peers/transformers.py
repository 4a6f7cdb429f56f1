"""Transformers: `AutoModel` with its default attention (sdpa), padded batches.

"transformers" in float32 with batches as they come is what one gets by following its
documentation; "transformers-sorted" has documents of like length together, which pads least.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import require_extra
from . import Encode, Job, System, in_turn, missing, rectangle

SYSTEMS = (
    System(__name__, "transformers", "float32", "given"),
    System(__name__, "transformers-sorted", "float32", "sorted"),
    System(__name__, "transformers", "bfloat16", "given"),
    System(__name__, "transformers-sorted", "bfloat16", "sorted"),
)


def why_not(system: System) -> str | None:
    """Only where it is not installed."""
    return missing("transformers")


def prepare(system: System, job: Job) -> None:
    """Nothing to convert."""


def build(system: System, job: Job) -> Encode:
    """`AutoModel.from_pretrained(directory)` in the system's dtype."""
    import torch

    torch.set_num_threads(job.threads)
    model = require_extra("transformers", "bench").AutoModel
    dtype = getattr(torch, system.dtype)
    return padded(model.from_pretrained(job.directory, dtype=dtype))


def padded(model: Any) -> Encode:
    """An `Encode` of any transformers model that gives a last hidden state."""
    import torch

    model.eval()

    @torch.inference_mode()
    def encode(documents: list[list[int]]) -> NDArray[np.float32]:
        ids, mask = (torch.from_numpy(array) for array in rectangle(documents))
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        live = mask.unsqueeze(-1).float()
        return ((hidden * live).sum(dim=1) / live.sum(dim=1)).numpy()

    return in_turn(encode)
