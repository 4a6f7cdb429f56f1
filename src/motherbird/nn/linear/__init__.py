"""The linear layers of the encoder, and the kernels that compute them.

A linear kernel is a module with

    why_not(device, dtype) -> str | None   the reason why it cannot run there, or None
    PackedLinear(weights, biases)          the parts of one weight, reordered or quantized once

where ``PackedLinear(weights, biases)(x)`` equals ``linear(x, weight, bias)`` for every part, within
docs/numerics.md. Packed weights are copies: they need memory in addition to the weights, have
no gradient, and are rebuilt when a weight has changed. Without a kernel, torch's ``linear`` is
used.
"""

from collections.abc import Callable, Sequence
from threading import Lock
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.functional import linear

from . import int8, onednn

_packing = Lock()
PackedLinear = onednn.PackedLinear | int8.PackedLinear
PermuteRows = Callable[[Shaped[Tensor, "out ..."]], Shaped[Tensor, "out ..."]]


def _unchanged(rows: Tensor) -> Tensor:
    return rows


def choose(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """Return the kernel for inference on a device, or None for torch's ``linear``."""
    return None if onednn.why_not(device, dtype) else onednn


class Projection(nn.Linear):
    """A linear layer whose output is split into parts.

    A packed weight is rebuilt after the weight is changed by an operation or replaced. A write
    through ``weight.data`` in evaluation mode, which torch does not count, is only noticed after
    the next call of `train`.

    Args:
        in_features: size of the input.
        parts: size of each part of the output; the weight has their sum.
        bias: whether there is one.
        permute_rows: reorders the rows of weight and bias before the product; None keeps them.

    Attributes:
        int8: whether inference uses the 8-bit kernel; set by `quantize.quantize`.
    """

    def __init__(
        self,
        in_features: int,
        parts: Sequence[int],
        bias: bool,
        permute_rows: PermuteRows | None = None,
    ) -> None:
        super().__init__(in_features, sum(parts), bias=bias)
        self.parts = list(parts)
        self.permute_rows = permute_rows or _unchanged
        self.int8 = False
        self._forget()

    def forward(  # type: ignore[override]
        self, x: Float[Tensor, "T in"], kernel: ModuleType | None = None
    ) -> tuple[Float[Tensor, "T _"], ...]:
        """Compute every part, (T, its size); a kernel is not used if x needs a gradient."""
        if kernel is not None and not (torch.is_grad_enabled() and x.requires_grad):
            return self._packed_linear(int8 if self.int8 else kernel, x.dtype)(x)
        bias = None if self.bias is None else self.permute_rows(self.bias)
        y = linear(x, self.permute_rows(self.weight), bias)
        # The backward pass of a split copies, also where there is one part.
        return y.split(self.parts, dim=-1) if len(self.parts) > 1 else (y,)

    def train(self, mode: bool = True) -> "Projection":
        """Set the mode as every module does; training mode drops the packed weight."""
        if mode:
            self._forget()
        return super().train(mode)

    def _forget(self) -> None:
        self._packed: PackedLinear | None = None
        self._packed_from: tuple[Any, ...] = ()
        self._source: list[Tensor] = []  # kept alive, so that no other weight has its address

    def _packed_linear(self, kernel: ModuleType, dtype: torch.dtype) -> PackedLinear:
        """Return the packed weight, made now if there is none of the weight as it is."""
        tensors = [self.weight] if self.bias is None else [self.weight, self.bias]
        versions = [0 if t.is_inference() else t._version for t in tensors]
        packed_from = (kernel, dtype, *(t.data_ptr() for t in tensors), *versions)
        with _packing:  # several threads may ask at once
            if self._packed is None or packed_from != self._packed_from:
                self._source = [t.detach() for t in tensors]
                weight, *bias = (
                    self.permute_rows(t).to(dtype).split(self.parts) for t in self._source
                )
                self._packed = kernel.PackedLinear(
                    weight, bias[0] if bias else [None] * len(weight)
                )
                self._packed_from = packed_from
            return self._packed

    def __getstate__(self) -> dict[str, Any]:
        """Leave packed weights out of copies and pickles."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {**state, "_packed": None, "_packed_from": (), "_source": []}
