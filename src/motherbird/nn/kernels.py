"""The kernels that one forward pass uses, chosen together."""

from dataclasses import dataclass
from functools import cache
from types import ModuleType

import torch

from . import attention, linear
from .attention import AttentionKernel


@dataclass(frozen=True)
class Kernels:
    """The kernels of a model on one device, in one dtype."""

    attention: AttentionKernel  # see `motherbird.nn.attention`
    linear: ModuleType | None  # see `motherbird.nn.linear`; None is torch's own


@cache
def choose(
    attention_name: str, device: torch.device, dtype: torch.dtype, inference: bool
) -> Kernels:
    """Choose the kernels of a model.

    Args:
        attention_name: name of an attention kernel, or "auto".
        device: where the weights are.
        dtype: that of the activations.
        inference: whether no gradient is needed; training always uses torch's ``linear``.

    Raises:
        InputError: the attention kernel is unknown, or cannot run there.
    """
    return Kernels(
        attention.choose(attention_name, device, dtype),
        linear.choose(device, dtype) if inference else None,
    )
