"""The optimizers: StableAdamW (paper 2.2.2; torch-optimi), AdamW, or Muon for the layers' matrices.

State is read and written by parameter name, so that files say what they contain, and in its own
dtype: torch's own ``load_state_dict`` would cast it to that of the parameter.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import DamagedError, require_extra
from .muon import Muon

BETAS, EPS = (0.9, 0.98), 1e-6
MOMENTS = ("exp_avg", "exp_avg_sq", "momentum_buffer")
Name = Literal["adamw", "stableadamw", "muon"]


class Optimizer:
    """One or two optimizers behind one interface, with named state.

    Matrices decay, norms and biases do not. "muon" is Muon for the matrices of the layers, and
    StableAdamW for everything else.

    Args:
        model: the model, on its device.
        name: the optimizer.
        scale: the factor of the learning rate for a parameter's name; not for Muon.
    """

    def __init__(
        self, model: nn.Module, name: Name, scale: Callable[[str], float] = lambda name: 1.0
    ) -> None:
        self.named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.steps = 0
        muon = [
            parameter
            for key, parameter in self.named.items()
            if name == "muon" and parameter.ndim == 2 and ".layers." in key
        ]
        rest = {n: p for n, p in self.named.items() if all(p is not m for m in muon)}
        by_kind: dict[tuple[float, bool], list[Tensor]] = {}
        for key, parameter in rest.items():
            by_kind.setdefault((scale(key), parameter.ndim > 1), []).append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": parameters, "weight_decay": 0.0, "scale": factor, "decays": decays}
            for (factor, decays), parameters in by_kind.items()
        ]
        self._adam: torch.optim.Optimizer
        if name == "adamw":
            self._adam = torch.optim.AdamW(
                groups, lr=1.0, betas=BETAS, eps=EPS, weight_decay=0.0, fused=True
            )
        else:
            self._adam = require_extra("optimi", "train").StableAdamW(
                groups, lr=1.0, betas=BETAS, eps=EPS, weight_decay=0.0, decouple_lr=True,
                max_lr=1.0, foreach=groups[0]["params"][0].device.type != "cpu", triton=False,
            )  # fmt: skip
        self._all = [self._adam, *([Muon(muon, lr=1.0, weight_decay=0.0)] if muon else [])]

    def begin_phase(self, peak: float, weight_decay: float) -> None:
        """Set a phase's peak learning rate and its weight decay, which is that of a peak step."""
        for group in self._adam.param_groups:
            decay = weight_decay if group["decays"] else 0.0
            if "max_lr" in group:  # StableAdamW multiplies the decay by lr / max_lr
                group["max_lr"], group["weight_decay"] = peak * group["scale"], decay
            else:  # AdamW and Muon multiply it by lr
                group["weight_decay"] = decay / peak
        for group in (group for muon in self._all[1:] for group in muon.param_groups):
            group["weight_decay"] = weight_decay / peak

    def step(self, lr: float, gradients: list[Tensor]) -> None:
        """Update the parameters with a learning rate and gradients in the order of `named`."""
        for parameter, gradient in zip(self.named.values(), gradients, strict=True):
            parameter.grad = gradient
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = lr * group.get("scale", 1.0)
            optimizer.step()
        for parameter in self.named.values():
            parameter.grad = None
        self.steps += 1

    def state(self) -> dict[str, Tensor]:
        """Return the state as "<moment>.<parameter>" to tensor, not copied; empty at first."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.named.items():
            for optimizer in self._all:
                moments = optimizer.state.get(parameter, {})
                found |= {f"{key}.{name}": moments[key] for key in MOMENTS if key in moments}
        return found

    def restore(self, tensors: Mapping[str, Tensor] | None, steps: int) -> None:
        """Restore what `state` returned after some steps; without tensors only allocate it."""
        if steps:
            # A step with zero gradients and rate 0 changes nothing, and allocates all state.
            self.step(0.0, [torch.zeros_like(parameter) for parameter in self.named.values()])
            for holder in (*self._adam.param_groups, *self._adam.state.values()):
                if "step" in holder:  # StableAdamW counts per group, AdamW per parameter
                    holder["step"].fill_(steps)
        self.steps = steps
        if tensors is None:
            return
        fresh = self.state()
        if fresh.keys() != tensors.keys():
            odd = sorted(fresh.keys() ^ tensors.keys())
            raise DamagedError(f"optimizer state does not match the model: {', '.join(odd[:5])}")
        for name, moment in fresh.items():
            saved = tensors[name]
            if saved.shape != moment.shape or saved.dtype != moment.dtype:
                raise DamagedError(
                    f"{name} is {saved.dtype} {tuple(saved.shape)}, "
                    f"not {moment.dtype} {tuple(moment.shape)}"
                )
            moment.copy_(saved)
