"""Runs that train a model further: from data to a model directory, exact over any stops.

The state of a run is in a hidden directory next to the output, which appears when the run is
finished: the model of the best epoch, finetune.json with settings and metrics, and the log.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..errors import DivergedError, InputError, OutputExistsError, StoppedError
from ..files import UNFINISHED, read_json_object, resumable_directory
from ..nn.encoder import Encoder
from . import run_log, signals
from .distributed import Distributed, join
from .gradients import in_fixed_order
from .process import RollBack, Session
from .state import Best
from .step import Stepper, StepReport
from .tuning_process import TuningPlan, TuningProcess

INFO = "finetune.json"


@dataclass(frozen=True)
class Caller:
    """What a run is given besides what its result depends on.

    Attributes:
        device: see `distributed.join`.
        max_steps: stop after this many steps of this process.
        on_plan: called on rank 0 with what will be done, before the first step.
        on_start: called on rank 0 at the start of training, with the number of steps.
        on_step: called on rank 0 after every step.
    """

    device: str | None = None
    max_steps: int | None = None
    on_plan: Callable[[Any], None] = lambda plan: None
    on_start: Callable[[Stepper[Any], int], None] = lambda stepper, steps: None
    on_step: Callable[[StepReport], None] = lambda report: None


SILENT = Caller()
P = TypeVar("P", bound=TuningPlan)
Of = TypeVar("Of", bound=TuningProcess[Any])


def run(
    make: Callable[[Distributed], P],
    process: Callable[[Session, P], Of],
    write: Callable[[Of, Best, Path, Path, dict[str, Any]], dict[str, Any]],
    out: Path,
    timeout: float,
    caller: Caller,
    *,
    prepare: Callable[[P, Distributed, Path], P] = lambda made, distributed, work: made,
    signs: Sequence[str] = ("checkpoints",),
) -> dict[str, Any]:
    """Run, or resume, and write the model of the best epoch.

    Args:
        make: reads the data and the settings of the model, on every rank.
        process: makes the process that trains.
        write: writes the model, and returns the content of finetune.json: it is given the process,
            its best epoch, the directory of the state, that of the output, and the key of the plan.
        out: directory of the model; if it is that of the same run, nothing is computed.
        timeout: see `distributed.join`.
        caller: who is told what the run does.
        prepare: computes on every rank what the process needs besides; only rank 0 may use the
            directory of the state, its last argument.
        signs: files or directories in it that are worth keeping; see `check_unfinished`.

    Returns:
        The content of finetune.json.

    Raises:
        InputError: model, texts or directory cannot be used.
        DivergedError: the loss is not finite.
        StoppedError: a signal or ``max_steps`` stopped it; its state is saved.
    """
    with contextlib.ExitStack() as stack:
        distributed = stack.enter_context(join(caller.device, timeout))
        made = make(distributed)
        key = made.key()
        finished = distributed.in_turns(lambda: _finished(out, key))
        if (finished := distributed.broadcast_object(finished)) is not None:
            return finished
        work = out  # only rank 0 uses it
        if distributed.is_main:
            caller.on_plan(made)
            check_unfinished(out, key, signs)
            work = stack.enter_context(resumable_directory(out, "model", key))
        made = prepare(made, distributed, work)
        received = stack.enter_context(signals.deferred())
        stack.enter_context(in_fixed_order(distributed.device))
        session = Session(
            work, distributed, received, lambda: None, caller.max_steps,
            on_start=caller.on_start, on_step=caller.on_step,
        )  # fmt: skip
        running = process(session, made)
        best = _train(running, out)
        info = write(running, best, work, out, key) if distributed.is_main else {}
        return distributed.broadcast_object(info)


def _train(process: TuningProcess[Any], out: Path) -> Best:
    """Train to the end, and return the best epoch."""
    try:
        outcome = process.resume()
    except RollBack as error:
        raise DivergedError(str(error), str(out), "use a lower learning rate") from error
    progress = outcome.progress
    if not progress.finished:
        what = f"stopped at step {progress.step}, the state is saved"
        where, how = str(process.run), "the same command resumes"
        raise StoppedError(what, where, how, outcome.signal or 0)
    assert progress.best is not None
    return progress.best


def _finished(out: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """Return finetune.json of a finished run of the same recipe and data, or None for a new run."""
    check_output(out)
    if not (out / INFO).is_file():
        return None
    found = read_json_object(out / INFO)
    if {name: found.get(name) for name in key} == key:
        return found
    what = "the output is the model of another run"
    raise OutputExistsError(what, str(out), "choose another directory, or delete this one")


def check_unfinished(out: Path, key: dict[str, Any], signs: Sequence[str]) -> None:
    """Raise InputError if there is unfinished work of another run, which would be removed.

    Args:
        out: directory of the model.
        key: what the result of this run depends on.
        signs: files or directories of work that is worth keeping.
    """
    work = out.absolute().parent / f".{out.name}{UNFINISHED}"
    if (
        any((work / name).exists() for name in signs)
        and read_json_object(work / "plan.json") != key
    ):
        how = "repeat its command, choose another --out, or delete the directory"
        raise InputError("there is an unfinished run of other settings or data", str(work), how)


def check_output(out: Path) -> None:
    """Raise OutputExistsError if something other than a model of a run is at a path."""
    if (
        out.exists()
        and not (out / INFO).is_file()
        and not (out.is_dir() and not any(out.iterdir()))
    ):
        how = "choose another directory, or delete this one"
        raise OutputExistsError("the output exists", str(out), how)


def write_info(directory: Path, info: dict[str, Any], work: Path) -> None:
    """Write finetune.json and the log of a run into the directory of its model."""
    text = json.dumps(info, indent=1, ensure_ascii=False) + "\n"
    (directory / INFO).write_text(text, encoding="utf-8")
    shutil.copyfile(work / run_log.LOG, directory / run_log.LOG)


@torch.no_grad()
def restore_embeddings(encoder: Encoder, initial: Encoder, tokens: NDArray[np.int32]) -> None:
    """Give a trained encoder the embeddings of all tokens; others than ``tokens`` are initial."""
    whole = initial.embeddings.tok_embeddings.weight.detach().clone()
    embedding = encoder.embeddings.tok_embeddings
    whole[tokens] = embedding.weight.detach().cpu()
    embedding.weight = nn.Parameter(whole)
