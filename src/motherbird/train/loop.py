"""The training loop. Pretraining, the demo and everything else that trains uses it."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from .. import machine
from ..data.loader import Cursor
from ..errors import InputError
from ..nn.devices import fastest_dtype
from .distributed import Distributed
from .objectives import JointObjective, Objective
from .optimizer import Optimizer
from .schedule import LearningRateSchedule
from .state import Progress
from .step import Batch, Stepper, StepReport

# Steps after which freed memory is returned to the system: documents of ever new lengths fragment
# it, by some 50 MB per step at nano size (docs/log.md).
TRIM_EVERY = 10
WHOLE = 1_000_000  # `train` measures its schedule in millionths of the run
WARM_UP, DECAY = 30_000, 500_000
WEIGHT_DECAY = 2e-5  # of a step at the peak rate: 1e-2 times a rate of 2e-3


def run_steps(
    stepper: Stepper[Batch],
    batches: Iterator[tuple[Sequence[Batch], Cursor]],
    progress: Progress,
    lr: Callable[[Progress], float],
    stop: Callable[[Progress], bool],
) -> Iterator[StepReport]:
    """Take steps until ``stop``, and yield the report of each.

    ``batches`` yields this rank's micro-batches of each step, and the cursor after it. ``lr`` and
    ``stop`` are called with the state before every step.
    """
    while not stop(progress):
        started = time.perf_counter()
        micro_batches, cursor = next(batches)
        wait = time.perf_counter() - started
        rate = lr(progress)
        report = stepper.step(micro_batches, replace(progress, cursor=cursor), rate)
        progress = report.progress
        yield replace(report, wait=wait, started=started)
        if progress.step % TRIM_EVERY == 0:
            machine.release_memory()


def train(
    objective: Objective[Batch] | JointObjective[Batch],
    batches: Iterator[tuple[Sequence[Batch], Cursor]],
    *,
    lr: float,
    seconds: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    on_step: Callable[[StepReport, float], None] = lambda report, done: None,
) -> StepReport:
    """Train a model in this process, without checkpoints; those with checkpoints are `process`.

    AdamW, with a linear warm-up over 3% of the run and a 1 - sqrt decay over its second half. The
    learning rate follows the clock (``seconds``), or the ``steps``; then the run is repeatable. At
    least one step is taken.
    ``on_step`` gets the report of every step and the fraction of the run that is done.

    Returns:
        The report of the last step.

    Raises:
        InputError: not exactly one of seconds and steps is set and positive.
        DivergedError: the loss is not finite.
    """
    if (seconds is None) == (steps is None) or not (seconds or steps or 0) > 0:
        raise InputError("training needs either seconds or steps, more than 0")
    model = objective.model.train()
    optimizer = Optimizer(model, "adamw")
    optimizer.begin_phase(lr, WEIGHT_DECAY)
    device = next(model.parameters()).device
    alone = Distributed(0, 1, device)
    stepper = Stepper(objective, optimizer, alone, fastest_dtype(device), seed=seed)
    schedule = LearningRateSchedule(lr, WARM_UP, DECAY, final=0.0)
    start = time.perf_counter()

    def done(progress: Progress) -> float:
        part = progress.step / steps if steps else (time.perf_counter() - start) / (seconds or 1)
        return min(1.0, part)

    def rate(progress: Progress) -> float:
        return schedule.at(int(WHOLE * max(1e-3, done(progress))), WHOLE)

    reported = 0.0  # the fraction after the last step: 1 ends the run, and not before it is told

    def stop(progress: Progress) -> bool:
        return reported >= 1

    for report in run_steps(stepper, batches, Progress(Cursor(seed)), rate, stop):
        reported = done(report.progress)
        on_step(report, reported)
    model.eval()
    return report
