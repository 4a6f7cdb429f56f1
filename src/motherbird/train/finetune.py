"""Fine-tuning: from labelled texts to a model directory, exact over any stops; see `process`.

The state of the run is in a hidden directory next to the output, which appears when the run is
finished: the model of the best epoch, finetune.json with settings and metrics, and the log.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .. import __version__, machine
from ..core import hf_config
from ..core.hf_config import HeadConfig
from ..core.measure import best_thresholds, temperature
from ..errors import DivergedError, InputError, OutputExistsError, StoppedError
from ..files import UNFINISHED, read_json_object, resumable_directory
from ..nn import checkpoint
from . import lora, run_log, signals, state, tuning_card, tuning_report
from .distributed import join
from .few_shot import FewShotProcess
from .gradients import in_fixed_order
from .objectives.labels import LabelledBatch
from .predict import logits_of
from .process import RollBack, Session
from .state import Best
from .step import Stepper, StepReport
from .threads import executor_for
from .tuning import FineTuning
from .tuning_memory import fit_memory
from .tuning_plan import Parts, Plan, initial_model, plan
from .tuning_process import FineTuningProcess

INFO = "finetune.json"
DEV = 0.1  # fraction of the training data that is set aside where there is no dev data


def finetune(
    recipe: FineTuning,
    parts: Parts,
    out: Path,
    *,
    device: str | None = None,
    max_steps: int | None = None,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_start: Callable[[Stepper[LabelledBatch], int], None] = lambda stepper, steps: None,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> dict[str, Any]:
    """Fine-tune a model, or resume it, and write the best one.

    Args:
        recipe: defines the run.
        parts: what it trains and is evaluated on.
        out: directory of the model; if it is that of the same run, nothing is computed.
        device: see `distributed.join`.
        max_steps: stop after this many steps of this process.
        on_plan: called on rank 0 with what will be done, before the first step.
        on_start: called on rank 0 at the start, with the number of steps.
        on_step: called on rank 0 after every step.

    Returns:
        The content of finetune.json.

    Raises:
        InputError: model, texts or directory cannot be used.
        DivergedError: the loss is not finite.
        StoppedError: a signal or ``max_steps`` stopped it; its state is saved.
    """
    with contextlib.ExitStack() as stack:
        distributed = stack.enter_context(join(device, recipe.timeout))
        made = distributed.in_turns(lambda: plan(recipe, parts))
        made = fit_memory(made, distributed.device, executor_for(distributed.device).count)
        key = made.key()
        finished = distributed.in_turns(lambda: _finished(out, key))
        if (finished := distributed.broadcast_object(finished)) is not None:
            return finished
        work = out  # only rank 0 uses it
        if distributed.is_main:
            on_plan(made)
            check_unfinished(out, key, ["checkpoints"])
            work = stack.enter_context(resumable_directory(out, "model", key))
        received = stack.enter_context(signals.deferred())
        stack.enter_context(in_fixed_order(distributed.device))
        session = Session(
            work, distributed, received, lambda: None, max_steps, on_start=on_start, on_step=on_step
        )
        process = (FewShotProcess if recipe.few_shot else FineTuningProcess)(session, made)
        try:
            progress = process.resume().progress
        except RollBack as error:
            raise DivergedError(str(error), str(out), "use a lower learning rate") from error
        if not progress.finished:
            what = f"stopped at step {progress.step}, the state is saved"
            raise StoppedError(what, str(work), "the same command resumes", received.number or 0)
        assert progress.best is not None
        info = _write(process, progress.best, work, out, key) if distributed.is_main else {}
        return distributed.broadcast_object(info)


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
    """Raise OutputExistsError if something other than a fine-tuned model is at a path."""
    if (
        out.exists()
        and not (out / INFO).is_file()
        and not (out.is_dir() and not any(out.iterdir()))
    ):
        how = "choose another directory, or delete this one"
        raise OutputExistsError("the output exists", str(out), how)


def _write(
    process: FineTuningProcess, best: Best, work: Path, out: Path, key: dict[str, Any]
) -> dict[str, Any]:
    """Write the model of the best epoch with its metrics, and return finetune.json."""
    made, model = process.plan, process.model
    model.load_state_dict(state.find(work, best.step).weights_and_optimizer_state()[0])
    if made.recipe.lora_rank:
        lora.merge(process.lora)
    model.eval()
    kind, evaluated = made.train.kind, made.evaluated()
    logits = {
        name: logits_of(model, examples.renumbered(made.tokens), process.stepper.dtype)
        for name, (_, examples) in evaluated.items()
    }
    scale = temperature(kind, made.parts.dev.labels, logits["dev"], made.labels)
    scaled = {name: [row / scale for row in rows] for name, rows in logits.items()}
    thresholds: dict[str, float] = {}
    if made.recipe.thresholds:
        thresholds = best_thresholds(made.parts.dev.labels, scaled["dev"], made.labels)
    results = {
        name: made.measure(*evaluated[name], rows, thresholds) for name, rows in scaled.items()
    }
    seconds = sum(line["seconds"] for line in run_log.read(work))
    info: dict[str, Any] = {
        **results, "epoch": best.epoch, "seconds": round(seconds, 1), "temperature": scale,
        "thresholds": thresholds, "documents": {"train": len(made.train), "dev": len(made.dev)},
        "truncated": made.train.truncated, **key, "motherbird": __version__,
        "machine": {
            **machine.describe(process.stepper.threads.count),
            "device": str(process.distributed.device),
        },
    }  # fmt: skip

    def write_more(directory: Path) -> None:
        hf_config.write_head(directory, HeadConfig(model.labels, kind, scale, thresholds))
        text = json.dumps(info, indent=1, ensure_ascii=False) + "\n"
        (directory / INFO).write_text(text, encoding="utf-8")
        shutil.copyfile(work / run_log.LOG, directory / run_log.LOG)
        name = out.absolute().name
        tuning_card.write(directory, name, made, info)
        tuning_report.write(directory, name, made, info, logits, work)

    whole = initial_model(made).model.embeddings.tok_embeddings.weight.detach()
    embedding = model.model.embeddings.tok_embeddings
    whole[made.tokens] = embedding.weight.detach().cpu()
    embedding.weight = nn.Parameter(whole)
    checkpoint.save(model, out, write_more=write_more)
    return info
