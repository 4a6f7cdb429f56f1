"""Fine-tuning on labels: from labelled texts to a model directory; see `tuning_run`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import __version__, machine
from ..core import hf_config
from ..core.hf_config import HeadConfig
from ..core.measure import best_thresholds, temperature
from ..nn import checkpoint
from . import lora, run_log, state, tuning_card, tuning_report
from .distributed import Distributed
from .few_shot import FewShotProcess
from .labels_process import LabelsProcess
from .objectives.labels import LabelledBatch
from .predict import logits_of
from .process import Session
from .state import Best
from .step import Stepper, StepReport
from .threads import executor_for
from .tuning import FineTuning
from .tuning_memory import fit_memory
from .tuning_plan import Parts, Plan, initial_model, plan
from .tuning_run import Caller, restore_embeddings, run, write_info

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

    def make(distributed: Distributed) -> Plan:
        made = distributed.in_turns(lambda: plan(recipe, parts))
        return fit_memory(made, distributed.device, executor_for(distributed.device).count)

    def process(session: Session, made: Plan) -> LabelsProcess:
        return (FewShotProcess if recipe.few_shot else LabelsProcess)(session, made)

    caller = Caller(device, max_steps, on_plan, on_start, on_step)
    return run(make, process, _write, out, recipe.timeout, caller)


def _write(
    process: LabelsProcess, best: Best, work: Path, out: Path, key: dict[str, Any]
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
        write_info(directory, info, work)
        name = out.absolute().name
        tuning_card.write(directory, name, made, info)
        tuning_report.write(directory, name, made, info, logits, work)

    restore_embeddings(model.model, initial_model(made).model, made.tokens)
    checkpoint.save(model, out, write_more=write_more)
    return info
