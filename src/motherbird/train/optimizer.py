"""StableAdamW (paper 2.2.2; torch-optimi), or Muon for the layers' matrices beside it.

State goes in and out by parameters' names, so that files say what they hold, and by its own dtypes:
torch's own ``load_state_dict`` would cast it to that of the parameter.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import DamagedError, require_extra
from .muon import Muon

BETAS, EPS = (0.9, 0.98), 1e-6
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")


class Optimizer:
    """One or two optimizers, with what a phase sets and what a checkpoint holds.

    Args:
        model: its parameters; matrices decay, norms and biases do not.
        kind: "stableadamw" or "muon".

    Raises:
        MissingExtraError: torch-optimi is not installed.
    """

    def __init__(self, model: nn.Module, kind: Literal["stableadamw", "muon"]) -> None:
        optimi = require_extra("optimi", "train")
        self.named = dict(model.named_parameters())
        self.kind = kind
        self.steps = 0
        muon = [
            parameter
            for name, parameter in self.named.items()
            if kind == "muon" and parameter.ndim == 2 and ".layers." in name
        ]
        others = [p for p in self.named.values() if all(p is not m for m in muon)]
        self._stable = optimi.StableAdamW(
            [
                {"params": [p for p in others if p.ndim > 1]},
                {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0},
            ],
            lr=1.0, betas=BETAS, eps=EPS, weight_decay=0.0, decouple_lr=True, max_lr=1.0,
            foreach=others[0].device.type != "cpu", triton=False,
        )  # fmt: skip
        self._muon = Muon(muon, lr=1.0, weight_decay=0.0) if muon else None

    def begin_phase(self, peak: float, weight_decay: float) -> None:
        """Set what a phase has its own of; weights decay at full strength at the peak rate."""
        for number, group in enumerate(self._stable.param_groups):
            group["max_lr"] = peak
            group["weight_decay"] = 0.0 if number else weight_decay
        if self._muon is not None:
            for group in self._muon.param_groups:
                group["weight_decay"] = weight_decay / peak  # it multiplies by the rate

    def step(self, lr: float, gradients: list[Tensor]) -> None:
        """Update the parameters at a rate, by gradients in the order of `named`."""
        for parameter, gradient in zip(self.named.values(), gradients, strict=True):
            parameter.grad = gradient
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
        for parameter in self.named.values():
            parameter.grad = None
        self.steps += 1

    @property
    def _all(self) -> list[torch.optim.Optimizer]:
        return [self._stable] if self._muon is None else [self._stable, self._muon]

    def state(self) -> dict[str, Tensor]:
        """Its moments: "<moment>.<parameter>" to tensor, not copied; none before the first step."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.named.items():
            for optimizer in self._all:
                held = optimizer.state.get(parameter, {})
                found |= {f"{key}.{name}": held[key] for key in MOMENTS if key in held}
        return found

    def restore(self, tensors: Mapping[str, Tensor] | None, steps: int) -> None:
        """Put back what `state` gave after so many steps; without tensors only make room for it.

        Raises:
            DamagedError: a moment is missing, too much, or of another shape or dtype.
        """
        self.steps = steps
        if steps:
            # A step that changes nothing sets up what a step sets up.
            zeros = [torch.zeros_like(parameter) for parameter in self.named.values()]
            self.step(0.0, zeros)
            self.steps = steps
            for group in self._stable.param_groups:  # its count is there, not in the state
                group["step"].fill_(steps)
        if tensors is None:
            return
        fresh = self.state()
        if fresh.keys() != tensors.keys():
            odd = sorted(fresh.keys() ^ tensors.keys())
            raise DamagedError(f"moments do not fit the model: {', '.join(odd[:5])}")
        for name, moment in fresh.items():
            saved = tensors[name]
            if saved.shape != moment.shape or saved.dtype != moment.dtype:
                raise DamagedError(
                    f"{name} is {saved.dtype} {tuple(saved.shape)}, "
                    f"not {moment.dtype} {tuple(moment.shape)}"
                )
            moment.copy_(saved)
