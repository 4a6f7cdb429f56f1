"""One step of a run: gradients of all micro-batches, a judgement, an update."""

import math
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from ..core.config import EncoderConfig
from ..data.loader import Batch, MicroBatch
from ..nn.devices import DTYPES, fastest_dtype
from ..nn.dropout import keyed
from ..nn.heads import MaskedLM
from .distributed import World
from .gradients import Leaf, Threads, of_step
from .health import Judgement
from .optimizer import Optimizer
from .phase import Phase
from .recipe import Recipe
from .state import Progress

DROPOUT = 3  # what a draw is for: the loader has 1 and 2
SCALE = 2.0**16  # of float16's loss, at first
SCALE_STEPS = 2000  # good ones until the scale doubles


@dataclass(frozen=True)
class Step:
    """What a step came to.

    Attributes:
        number: from 1.
        lr: the rate of its update.
        loss: mean over all masked tokens of all ranks, nats.
        norm: of the whole gradient.
        tokens, masked: of all ranks.
        judgement: whether the update was made.
    """

    number: int
    lr: float
    loss: float
    norm: float
    tokens: int
    masked: int
    judgement: Judgement


class Stepper:
    """Takes steps with a model and its optimizer, in place.

    Args:
        model: on its device, in training.
        optimizer: of its parameters.
        recipe: of the run.
        world, threads: who computes.
    """

    def __init__(
        self,
        model: MaskedLM,
        optimizer: Optimizer,
        recipe: Recipe,
        world: World,
        threads: Threads,
    ) -> None:
        self.model, self.optimizer, self.recipe = model, optimizer, recipe
        self.world, self.threads = world, threads
        self.dtype = dtype_of(recipe, world.device)
        self.parameters = list(optimizer.named.values())

    def enter(self, phase: Phase, config: EncoderConfig) -> None:
        """Begin a phase, or go on within it: its theta, rate and weight decay."""
        self.phase = phase
        self.rate = phase.rate(self.recipe.train.lr)
        decay = phase.weight_decay
        self.model.model.set_context(config)
        self.optimizer.begin_phase(
            self.rate.peak, self.recipe.train.weight_decay if decay is None else decay
        )

    def take(self, batch: Batch, progress: Progress) -> tuple[Progress, Step]:
        """A step with this rank's rows; what it came to is the same on every rank."""
        before = progress.cursor.rows
        rows = batch.cursor.rows - before
        lr = self.rate.at(before * self.phase.seq_len, self.phase.tokens)
        counts = self.world.gather([len(batch.ids), len(batch.positions)])
        tokens, masked = (int(sum(column)) for column in zip(*counts, strict=True))
        micro = list(batch.micro_batches(self.recipe.micro_rows(self.phase, rows)))
        losses, gradients = of_step(
            self.parameters, self._leaves(micro, progress, masked), self.threads, self.world,
            tree=self.recipe.train.reduce == "tree",
        )  # fmt: skip
        loss = sum(losses) / progress.scale
        norm = _unscale(gradients, progress.scale)
        number = progress.step + 1
        progress = replace(
            progress, cursor=batch.cursor, step=number, tokens=progress.tokens + tokens,
            masked=progress.masked + masked, loss=loss if math.isfinite(loss) else None,
            world=self.world.size,
        )  # fmt: skip
        judgement, progress = self._judge(loss, norm, progress)
        if judgement.verdict == "apply":
            with self.threads.together():
                self.optimizer.step(lr, gradients)
            progress = replace(progress, updates=progress.updates + 1)
        return progress, Step(number, lr, loss, norm, tokens, masked, judgement)

    def _leaves(self, micro: list[MicroBatch], progress: Progress, masked: int) -> list[Leaf]:
        share = progress.scale / max(1, masked)  # of the loss of the whole step
        first = self.world.rank * len(micro)
        key = (DROPOUT, progress.cursor.seed, progress.step)
        return [
            partial(self._loss, batch, share, (*key, first + number))
            for number, batch in enumerate(micro)
        ]

    def _loss(self, batch: MicroBatch, share: float, key: tuple[int, ...]) -> Tensor:
        device, fast = self.world.device, self.dtype != torch.float32
        with (
            keyed(device, key),
            # Its cache would be shared by threads, and every weight is cast once anyway.
            torch.autocast(device.type, self.dtype, enabled=fast, cache_enabled=False),
        ):
            return self.model.loss(batch.packed, batch.positions, batch.targets) * share

    def _judge(self, loss: float, norm: float, progress: Progress) -> tuple[Judgement, Progress]:
        """What becomes of the step; float16's scale moves by what it finds."""
        if self.dtype == torch.float16:
            if not (math.isfinite(loss) and math.isfinite(norm)) and progress.scale > 1:
                smaller = replace(progress, scale=progress.scale / 2, good=0)
                return Judgement("skip", "float16 overflowed; the scale is halved"), smaller
            progress = replace(progress, good=progress.good + 1)
            if progress.good == SCALE_STEPS:
                progress = replace(progress, scale=progress.scale * 2, good=0)
        judgement = progress.health.judge(progress.step, loss, norm, self.recipe.health)
        return judgement, progress

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds, not copied."""
        weights = {f"model.{n}": t.detach() for n, t in self.model.state_dict().items()}
        return weights | {f"optimizer.{n}": t for n, t in self.optimizer.state().items()}

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Whether all weights and moments are, on every rank."""
        norms = torch._foreach_norm([*self.parameters, *self.optimizer.state().values()])
        total = float(torch.stack(list(norms)).sum())
        return all(math.isfinite(value) for [value] in self.world.gather([total]))


def dtype_of(recipe: Recipe, device: torch.device) -> torch.dtype:
    """In which products are computed."""
    name = recipe.train.dtype
    return fastest_dtype(device) if name == "auto" else DTYPES[name]


def _unscale(gradients: list[Tensor], scale: float) -> float:
    """Take the loss's scale off, in place; the norm of the whole gradient."""
    if scale != 1.0:
        torch._foreach_mul_(gradients, 1 / scale)
    norms = torch.stack(list(torch._foreach_norm(gradients))).tolist()
    return math.sqrt(math.fsum(norm**2 for norm in norms))
