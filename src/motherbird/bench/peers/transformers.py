"""Transformers: `AutoModel` with its default attention (sdpa), padded batches.

"transformers" in float32, with documents in random order, is the documented use;
"transformers-sorted" has documents of similar length in a batch, which needs the least padding.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.batching import pad
from ...errors import require_extra
from ..workloads import Order
from . import Encode, Job, System, one_by_one

PACKAGES = ("transformers",)
ORDERS: dict[str, Order] = {"transformers": "given", "transformers-sorted": "sorted"}
SYSTEMS = tuple(
    System(__name__, name, dtype, order, PACKAGES)
    for dtype in ("float32", "bfloat16")
    for name, order in ORDERS.items()
)


def build(system: System, job: Job) -> Encode:
    """Load `AutoModel.from_pretrained(directory)` in the system's dtype."""
    import torch

    torch.set_num_threads(job.threads)
    model = require_extra("transformers", "bench").AutoModel
    dtype = getattr(torch, system.dtype)
    return padded(model.from_pretrained(job.directory, dtype=dtype))


def padded(model: Any) -> Encode:
    """Return an `Encode` of a transformers model that returns a last hidden state."""
    import torch

    model.eval()

    @torch.inference_mode()
    def encode(documents: list[list[int]]) -> NDArray[np.float32]:
        ids, mask = (torch.from_numpy(array) for array in pad(documents))
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        tokens = mask.unsqueeze(-1).float()
        return ((states * tokens).sum(dim=1) / tokens.sum(dim=1)).numpy()

    return one_by_one(encode)
