"""8-bit matrix products (CPUs with VNNI or AMX, inference only).

A weight has a scale for each output channel. An activation has a scale for each token, so that its
largest magnitude becomes 127. The sums are exact integers, which are scaled afterwards. An input is
quantized once for all parts of a weight.
"""

from collections.abc import Sequence
from functools import cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

MAX_VALUE = 127
ZERO = 128  # the zero point of unsigned activations
ROWS = 512  # tokens that are quantized at once, so that they stay in the cache
ISA_EXTENSIONS = ("avx512_vnni", "avx_vnni", "amx_int8")


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Return None on CPUs with 8-bit instructions and oneDNN, for float32 and bfloat16."""
    if device.type != "cpu":
        return f"the device is {device.type}, not a CPU"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"activations must be float32 or bfloat16, not {dtype}".replace("torch.", "")
    return _missing()


@cache
def _missing() -> str | None:
    if not torch.backends.mkldnn.is_available() or not hasattr(
        torch.ops.onednn, "qlinear_pointwise"
    ):
        return "this build of torch has no oneDNN"
    has = torch.cpu.get_capabilities()
    if not any(map(has.get, ISA_EXTENSIONS)):
        return "this CPU has neither VNNI nor AMX"
    return None


class PackedLinear:
    """The parts of a weight in 8 bits; see `motherbird.nn.linear`."""

    def __init__(
        self, weights: Sequence[Float[Tensor, "_ in"]], biases: Sequence[Float[Tensor, " _"] | None]
    ) -> None:
        self.parts = []
        for weight, bias in zip(weights, biases, strict=True):
            scale = weight.float().abs().amax(dim=1).clamp(min=1e-30) / MAX_VALUE
            whole = (weight.float() / scale[:, None]).round_().to(torch.int8)
            packed = torch.ops.onednn.qlinear_prepack(whole, None)
            zeros = torch.zeros_like(scale, dtype=torch.int32)
            self.parts.append((packed, scale, zeros, bias))

    def __call__(self, x: Float[Tensor, "T in"]) -> tuple[Float[Tensor, "T _"], ...]:
        """Compute x W^T + bias of every part."""
        whole, scale = quantize_tokens(x)
        outputs = []
        for weight, scales, zeros, bias in self.parts:
            y = torch.ops.onednn.qlinear_pointwise(
                whole, 1.0, ZERO, weight, scales, zeros, None, 1.0, 0, x.dtype, "none", [], ""
            ).mul_(scale)
            outputs.append(y if bias is None else y.add_(bias))
        return tuple(outputs)


def quantize_tokens(
    x: Float[Tensor, "T in"],
) -> tuple[UInt8[Tensor, "T in"], Float[Tensor, "T 1"]]:
    """Return round(x / scale) + 128 with one scale per token, and the scales, in ``x.dtype``."""
    whole = torch.empty(x.shape, dtype=torch.uint8, device=x.device)
    scale = torch.empty(len(x), 1, dtype=x.dtype, device=x.device)
    for rows, out, scales in zip(x.split(ROWS), whole.split(ROWS), scale.split(ROWS), strict=True):
        if x.dtype == torch.bfloat16:
            # Non-negative bfloat16 numbers sort like their bits as integers: 20 times faster.
            largest = (rows.view(torch.int16) & 0x7FFF).amax(1, keepdim=True).view(torch.bfloat16)
        else:
            largest = rows.abs().amax(1, keepdim=True)
        # Rounded as when the result is scaled; 127 times the error is below half a step.
        scales.copy_((largest.float() / MAX_VALUE).clamp_(min=1e-30))
        near = rows.to(torch.float32, copy=True).mul_(1 / scales.float()).round_()
        torch.bitwise_xor(near.to(torch.int8).view(torch.uint8), ZERO, out=out)
    return whole, scale
