"""The matrix products of a layer: one call, however they are computed.

A way to compute them is a module with

    why_not(device, dtype) -> str | None   a reason why it cannot run there, or None
    PackedLinear(weights, biases)              the parts of one weight, reordered or quantised once

and ``PackedLinear(weights, biases)(x)`` is ``linear(x, weight, bias)`` of every part within
docs/numerics.md. PackedLinear forms are copies: they cost memory beside the weights, know no gradient,
and are remade when a weight has changed.
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

_MAKING = Lock()
PackedLinear = onednn.PackedLinear | int8.PackedLinear
Arrange = Callable[[Shaped[Tensor, "out ..."]], Shaped[Tensor, "out ..."]]


def _as_they_are(rows: Tensor) -> Tensor:
    return rows


class Projection(nn.Linear):
    """One weight, and a product for each of the parts that its output falls into.

    PackedLinear forms follow a weight that an operation changed or that was replaced; only a write
    through ``weight.data`` in evaluation, which torch does not count, goes unseen until `train`.

    Args:
        width: channels of the input.
        parts: channels of each output; the weight has their sum.
        bias: whether there is one.
        arrange: another order for the rows of the weight and the bias, taken before the product.

    Attributes:
        int8: compute in 8 bits where a forward needs no gradient (`quantize.quantize` decides).
    """

    def __init__(
        self, width: int, parts: Sequence[int], bias: bool, arrange: Arrange | None = None
    ) -> None:
        super().__init__(width, sum(parts), bias=bias)
        self.parts = list(parts)
        self.arrange = arrange or _as_they_are
        self.int8 = False
        self._prepared: PackedLinear | None = None
        self._made_of: tuple[Any, ...] = ()
        self._source: list[Tensor] = []  # held, so that no other weight can take its address

    def forward(self, x: Float[Tensor, "T rows"]) -> tuple[Float[Tensor, "T _"], ...]:  # type: ignore[override]
        """The parts, each (T, its channels)."""
        way = self._way(x)
        if way is None:
            bias = None if self.bias is None else self.arrange(self.bias)
            y = linear(x, self.arrange(self.weight), bias)
            # The backward of a split is a copy, also where there is one part.
            return y.split(self.parts, dim=-1) if len(self.parts) > 1 else (y,)
        return self._product(way, x.dtype)(x)

    def train(self, mode: bool = True) -> "Projection":
        """As any module; leaving evaluation forgets the prepared copies."""
        if mode:
            self._prepared, self._made_of, self._source = None, (), []
        return super().train(mode)

    def _way(self, x: Tensor) -> ModuleType | None:
        """The module that computes this input, or None for plain torch."""
        gradient = torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad)
        if self.training or gradient or torch.is_autocast_enabled(x.device.type):
            return None
        way = int8 if self.int8 else onednn
        return None if way.why_not(x.device, x.dtype) else way

    def _product(self, way: ModuleType, dtype: torch.dtype) -> PackedLinear:
        """The prepared form, made now if there is none of the weight as it is."""
        tensors = [self.weight] if self.bias is None else [self.weight, self.bias]
        versions = [0 if t.is_inference() else t._version for t in tensors]
        made_of = (way, dtype, *(t.data_ptr() for t in tensors), *versions)
        with _MAKING:  # several threads may ask for it at once
            if self._prepared is not None and made_of == self._made_of:
                return self._prepared
            self._source = [t.detach() for t in tensors]
            weight, *bias = (self.arrange(t).to(dtype).split(self.parts) for t in self._source)
            self._prepared = way.PackedLinear(weight, bias[0] if bias else [None] * len(weight))
            self._made_of = made_of
            return self._prepared

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles leave the prepared forms behind."""
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        return {**state, "_prepared": None, "_made_of": (), "_source": []}
