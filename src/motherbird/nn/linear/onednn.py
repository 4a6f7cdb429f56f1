"""Matrix products with weights in oneDNN's blocked layout (CPU, inference only).

torch's `linear` reorders the weight at every call, or uses MKL. Packed weights are 5% faster in
bfloat16 for long batches, 20% for single queries, and more than twice as fast in float32 on CPUs
where MKL only uses AVX2 (docs/log.md). torch's compiler uses the same operators.
"""

from collections.abc import Sequence
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

ROWS = 512  # the batch size that the layout is chosen for; others run as well
DTYPES = (torch.float32, torch.bfloat16)


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return None on CPUs with a torch build that has oneDNN, for float32 and bfloat16."""
    if device.type != "cpu":
        return f"the device is {device.type}, not a CPU"
    if dtype not in DTYPES:
        return f"it computes in float32 and bfloat16, not {dtype}".replace("torch.", "")
    return _missing(dtype)


@cache
def _missing(dtype: torch.dtype) -> str | None:
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.mkldnn, "_linear_pointwise"
    ):
        return "this build of torch has no oneDNN"
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "this CPU has no AVX512"
    return None


class PackedLinear:
    """The parts of a weight in oneDNN's layout; see `motherbird.nn.linear`."""

    def __init__(
        self, weights: Sequence[Float[Tensor, "_ in"]], biases: Sequence[Float[Tensor, " _"] | None]
    ) -> None:
        reorder = torch.ops.mkldnn._reorder_linear_weight
        weights = [reorder(weight.contiguous(), ROWS) for weight in weights]
        self.parts = list(zip(weights, biases, strict=True))

    def __call__(self, x: Float[Tensor, "T in"]) -> tuple[Float[Tensor, "T _"], ...]:
        """Compute x W^T + bias of every part."""
        linear = torch.ops.mkldnn._linear_pointwise
        return tuple(linear(x, weight, bias, "none", [], "") for weight, bias in self.parts)
