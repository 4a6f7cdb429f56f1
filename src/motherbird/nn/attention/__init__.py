"""Attention over packed documents: one contract, one kernel per file.

A kernel is a module with the members of `AttentionKernel`, equal to `oracle` within
docs/numerics.md, forward and backward. Scores are scaled by H ** -0.5.
"""

import logging
from functools import cache
from typing import Protocol, cast, runtime_checkable

import torch

from ...errors import InputError
from . import banded, flash, oracle, tiled
from .plan import AttentionPlan, Heads

__all__ = ["KERNELS", "AttentionKernel", "AttentionPlan", "choose"]

log = logging.getLogger(__name__)


@runtime_checkable
class AttentionKernel(Protocol):
    """The interface of the modules in this package."""

    __name__: str
    BY_LENGTH: bool  # whether documents should be sorted by length

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Return the reason why this kernel cannot run there, or None."""

    def attend(
        self, q: Heads, k: Heads, v: Heads, plan: AttentionPlan, window: int | None
    ) -> Heads:
        """Compute attention, (T, N, H); see `oracle.visible` for which tokens see each other.

        ``window`` is the number of tokens that are visible on each side, None for a global layer.
        """


# In the order in which "auto" tries them.
KERNELS: dict[str, AttentionKernel] = {
    "flash": cast(AttentionKernel, flash),
    "tiled": cast(AttentionKernel, tiled),
    "banded": cast(AttentionKernel, banded),
    "oracle": cast(AttentionKernel, oracle),
}


def check_name(name: str) -> None:
    """Check that a kernel exists.

    Raises:
        InputError: there is no such kernel; the message lists them.
    """
    if not isinstance(name, str) or (name != "auto" and name not in KERNELS):
        *names, last = ("auto", *KERNELS)
        how = f"use {', '.join(names)} or {last}"
        raise InputError(f"unknown attention kernel {name!r}", how=how)


@cache
def choose(name: str, device: torch.device, dtype: torch.dtype) -> AttentionKernel:
    """Return the kernel called ``name``, or for "auto" the first that can run there.

    Raises:
        InputError: the name is unknown, or the kernel cannot run on this device and dtype.
    """
    check_name(name)
    reasons: list[str] = []
    for candidate in [name] if name != "auto" else list(KERNELS):
        reason = KERNELS[candidate].why_not(device, dtype)
        if reason is None:
            why = "requested" if name != "auto" else "; ".join(["the first that can run", *reasons])
            at = f"{device.type} {dtype}".replace("torch.", "")
            log.info("attention on %s: %s (%s)", at, candidate, why)
            return KERNELS[candidate]
        reasons.append(f"{candidate}: {reason}")
    what = "no attention kernel can run" if name == "auto" else "the attention kernel cannot run"
    at = f"on {device} in {dtype}".replace("torch.", "")
    raise InputError(f"{what} {at}", "; ".join(reasons), "" if name == "auto" else "use auto")
