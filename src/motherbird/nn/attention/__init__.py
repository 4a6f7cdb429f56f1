"""Attention over packed documents: one contract, one file a backend.

A backend is a module with

    BY_LENGTH: bool                             whether documents should come ordered by length
    why_not(device, dtype) -> str | None        a reason why it cannot run there, or None
    attend(q, k, v, plan, window) -> (T, N, H)  forward and backward

equal to `oracle` within docs/numerics.md. ``window`` is the number of tokens that are seen on each
side, or None for a global layer. Scores are scaled by H ** -0.5.
"""

import logging
from functools import cache
from typing import Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ...errors import InputError
from . import banded, flash, oracle, tiled
from .plan import AttentionPlan

__all__ = ["BACKENDS", "Backend", "AttentionPlan", "choose"]

log = logging.getLogger(__name__)


@runtime_checkable
class Backend(Protocol):
    """What a module in this folder offers."""

    __name__: str
    BY_LENGTH: bool

    def why_not(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """A reason why this backend cannot run there, or None where it can."""

    def attend(
        self,
        q: Float[Tensor, "T N H"],
        k: Float[Tensor, "T N H"],
        v: Float[Tensor, "T N H"],
        plan: AttentionPlan,
        window: int | None,
    ) -> Float[Tensor, "T N H"]:
        """Attention of every token to what it sees."""


# In the order in which "auto" tries them.
BACKENDS: dict[str, Backend] = {
    "flash": cast(Backend, flash),
    "tiled": cast(Backend, tiled),
    "banded": cast(Backend, banded),
    "oracle": cast(Backend, oracle),
}


def check_name(name: str) -> None:
    """Refuse a backend that does not exist.

    Raises:
        InputError: naming those that do.
    """
    if name != "auto" and name not in BACKENDS:
        raise InputError(f"attention = {name!r} does not exist", how=f"use auto or {_names()}")


def _names() -> str:
    return " or ".join(BACKENDS)


def choose(name: str, device: torch.device, dtype: torch.dtype) -> Backend:
    """The backend called ``name``, or for "auto" the first that can run there; logs it once.

    Raises:
        InputError: the name is unknown, or the backend cannot run on this device and dtype.
    """
    check_name(name)
    reasons: list[str] = []
    for candidate in [name] if name != "auto" else list(BACKENDS):
        reason = BACKENDS[candidate].why_not(device, dtype)
        if reason is None:
            why = "asked for" if name != "auto" else "; ".join(["first that can run", *reasons])
            _announce(candidate, f"{device.type} {dtype}".replace("torch.", ""), why)
            return BACKENDS[candidate]
        reasons.append(f"{candidate}: {reason}")
    raise InputError("no attention backend can run", f"{device}, {dtype}", "; ".join(reasons))


@cache
def _announce(backend: str, where: str, why: str) -> None:
    log.info("attention on %s: %s (%s)", where, backend, why)
