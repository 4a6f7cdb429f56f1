"""One training step: gradients of all micro-batches, a verdict, an update."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ..errors import DivergedError, NoMemoryError
from ..nn.dropout import keyed
from ..nn.fused import Rounded
from .distributed import Distributed
from .gradients import DenseRows, Loss, step_gradients
from .health import Verdict
from .objectives import JointObjective, Objective, PackedBatch
from .optimizer import Optimizer
from .recipe import Limits
from .state import Progress
from .threads import executor_for

Batch = TypeVar("Batch", bound=PackedBatch)
DROPOUT = 3  # random stream of dropout; the loader uses 1 and 2
FLOAT16_SCALE = 2.0**16  # initial scale of the loss
SCALE_STEPS = 2000  # successful steps until the scale is doubled


@dataclass(frozen=True)
class StepReport:
    """The result of one training step, the same on every rank except where noted."""

    progress: Progress  # the state after the step
    lr: float  # learning rate of the update
    loss: float  # mean over all loss terms of all ranks, in nats
    norm: float  # L2 norm of the whole gradient
    tokens: int  # tokens of all ranks
    weight: int  # loss terms of all ranks, such as masked tokens
    verdict: Verdict  # whether the update was made
    lengths: Sequence[int] = ()  # tokens of each document of this rank
    started: float = 0.0  # `time.perf_counter` at the beginning of the step, on this rank
    wait: float = 0.0  # seconds of it spent waiting for data, on this rank
    seconds: float = 0.0  # duration of the step, on this rank
    save: float = 0.0  # seconds of it spent on the checkpoint, on this rank
    phase: str = ""  # name of the phase, in pretraining
    # the evaluation after the step, if there was one, by name
    evaluation: Mapping[str, float | None] | None = None

    @property
    def number(self) -> int:
        """The step's number, from 1."""
        return self.progress.step


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Raise NoMemoryError in place of the errors of torch's allocators."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        is_cpu = "can't allocate memory" in str(error)
        if is_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError):
            what = f"memory does not suffice for a step ({str(error).splitlines()[0]})"
            raise NoMemoryError(what, how="lower micro_tokens") from error
        raise


class Stepper(Generic[Batch]):
    """Takes training steps: updates a model and its optimizer in place.

    The objective's model is on its device and in training mode. Weights stay float32; ``dtype`` is
    that of matrix products. ``tree``: see `gradients`; ``micro_tokens``: see `_joint_losses`.
    Without ``limits``, a loss or a gradient that is not finite is an error instead of a skipped
    step or a rollback.
    """

    def __init__(
        self,
        objective: Objective[Batch] | JointObjective[Batch],
        optimizer: Optimizer,
        distributed: Distributed,
        dtype: torch.dtype,
        *,
        seed: int,
        tree: bool = False,
        limits: Limits | None = None,
        micro_tokens: int = 0,
    ) -> None:
        self.objective, self.optimizer, self.distributed = objective, optimizer, distributed
        self.dtype, self.seed, self.tree, self.limits = dtype, seed, tree, limits
        self.micro_tokens = micro_tokens
        self.threads = executor_for(distributed.device)
        self.parameters = list(optimizer.named.values())
        self.dense = DenseRows()
        self.rounded = Rounded(getattr(objective.model, "encoder", None), dtype)

    def step(self, batches: Sequence[Batch], progress: Progress, lr: float) -> StepReport:
        """Take a step.

        Raises:
            DivergedError: it is not finite, and there are no limits.
            NoMemoryError: the gradients need more memory; no weight has changed.

        Every rank passes the same number of micro-batches. ``progress`` is the state before the
        step, with the cursor after it.
        """
        counts = self.distributed.all_gather(
            [sum(len(b.packed.ids) for b in batches), sum(map(self.objective.weight, batches))]
        )
        tokens, weight = (int(sum(column)) for column in zip(*counts, strict=True))
        with _memory_errors(), self.rounded:
            closures = self._losses(batches, progress, weight)
            losses, gradients = step_gradients(
                self.parameters, closures, self.threads,
                self.distributed, tree=self.tree, dense=self.dense,
            )  # fmt: skip
        loss = sum(losses) / progress.scale
        norm = _unscale(gradients, progress.scale)
        progress = replace(
            progress, step=progress.step + 1, tokens=progress.tokens + tokens,
            masked=progress.masked + weight, loss=loss if math.isfinite(loss) else None,
            world_size=self.distributed.world_size,
        )  # fmt: skip
        verdict, progress = self._judge(loss, norm, progress)
        if verdict.action == "apply":
            self.optimizer.step(lr, gradients)
            progress = replace(progress, updates=progress.updates + 1)
        lengths = [n for batch in batches for n in batch.packed.lengths]
        return StepReport(progress, lr, loss, norm, tokens, weight, verdict, lengths)

    def _losses(self, batches: Sequence[Batch], progress: Progress, weight: int) -> list[Loss]:
        factor = progress.scale / max(1, weight)
        first = self.distributed.rank * len(batches)
        key = (DROPOUT, self.seed, progress.step)
        keys = [(*key, first + number) for number in range(len(batches))]
        if isinstance(self.objective, JointObjective):
            return self._joint_losses(self.objective, batches, factor, keys)
        loss = self.objective.loss
        return [
            partial(self._compute, lambda own=own: loss(own) * factor, key)  # type: ignore[misc]
            for own, key in zip(batches, keys, strict=True)
        ]

    def _joint_losses(
        self,
        objective: JointObjective[Batch],
        batches: Sequence[Batch],
        factor: float,
        keys: Sequence[tuple[int, ...]],
    ) -> list[Loss]:
        """Return functions whose gradients are those of the joint loss, and sum up to it.

        Graphs are kept for as many micro-batches as are computed at the same time, or for as many
        tokens as these may have; if there are more, vectors are computed twice.
        """
        own = [objective.own_loss(batch) for batch in batches]
        joint = [number for number, loss in enumerate(own) if loss is None]
        tokens = sum(len(batches[number].packed.ids) for number in joint)
        kept = len(joint) <= self.threads.count or tokens <= self.threads.count * self.micro_tokens

        def vectors(number: int) -> Tensor:
            batch = batches[number]
            return self._compute(lambda: objective.model(batch.packed), keys[number])

        def first(number: int) -> Tensor:
            with torch.set_grad_enabled(kept):
                return vectors(number)

        found = dict(zip(joint, self.threads.in_order(first, joint), strict=True))
        detached = {number: each.detach().requires_grad_() for number, each in found.items()}
        gradients: dict[int, Tensor] = {}
        value = torch.zeros(())
        if joint:
            loss = objective.joint_loss([batches[n] for n in joint], list(detached.values()))
            loss = loss * factor
            gradients = dict(
                zip(joint, torch.autograd.grad(loss, list(detached.values())), strict=True)
            )
            value = loss.detach() / len(joint)

        def pull(number: int) -> Tensor:
            if (alone := own[number]) is not None:
                return self._compute(lambda: alone() * factor, keys[number])
            product = ((found[number] if kept else vectors(number)) * gradients[number]).sum()
            return product + (value - product.detach())

        return [partial(pull, number) for number in range(len(batches))]

    def _compute(self, work: Callable[[], Tensor], key: tuple[int, ...]) -> Tensor:
        device, lower = self.distributed.device, self.dtype != torch.float32
        with (
            keyed(device, key),
            # autocast's cache is shared by threads, and every weight is cast only once anyway.
            torch.autocast(device.type, self.dtype, enabled=lower, cache_enabled=False),
        ):
            return work()

    def _judge(self, loss: float, norm: float, progress: Progress) -> tuple[Verdict, Progress]:
        """Decide about the update, and adapt the scale of float16."""
        finite = math.isfinite(loss) and math.isfinite(norm)
        if self.dtype == torch.float16:
            if not finite and progress.scale > 1:
                halved = replace(progress, scale=progress.scale / 2, scale_steps=0)
                return Verdict("skip", "float16 overflowed; the scale is halved"), halved
            progress = replace(progress, scale_steps=progress.scale_steps + 1)
            if progress.scale_steps == SCALE_STEPS:
                progress = replace(progress, scale=progress.scale * 2, scale_steps=0)
        if self.limits is not None:
            return progress.health.judge(progress.step, loss, norm, self.limits), progress
        if not finite:
            raise DivergedError(
                f"the loss is {loss} and the gradient norm is {norm} at step {progress.step}",
                how="use a lower learning rate",
            )
        return Verdict("apply"), progress

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint, not copied."""
        state = self.objective.model.state_dict()
        weights = {f"model.{name}": tensor.detach() for name, tensor in state.items()}
        return weights | {f"optimizer.{n}": t for n, t in self.optimizer.state().items()}

    @torch.no_grad()
    def is_finite(self) -> bool:
        """Return whether all weights and optimizer state are finite on every rank."""
        norms = torch._foreach_norm([*self.parameters, *self.optimizer.state().values()])
        total = float(torch.stack(list(norms)).sum())
        return all(math.isfinite(value) for [value] in self.distributed.all_gather([total]))


def _unscale(gradients: list[Tensor], scale: float) -> float:
    """Divide by the loss's scale, in place, and return the norm of the whole gradient."""
    if scale != 1.0:
        torch._foreach_mul_(gradients, 1 / scale)
    norms = torch.stack(list(torch._foreach_norm(gradients))).tolist()
    return math.sqrt(math.fsum(norm**2 for norm in norms))
