"""GLUE by the protocol of the paper (section 3.1.1, appendix): a search for each of eight tasks.

Batches of 64, documents of at most 256 tokens, learning rates of 1, 3, 5 and 8e-5, weight decays of
1, 5 and 8e-6 and 1e-5, and three numbers of epochs. The result is that of the best trial on the
development set, as in the paper. RTE, MRPC and STS-B start from the model of MNLI.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import strict
from ..core.measure import Kind
from ..data.columns import Task
from ..data.labelled import Labelled, check_training, from_records, read_labelled
from ..data.readers.document import Record
from ..errors import FetchError, InputError, require_extra
from ..files import write_text
from .search import Values, search
from .tuning import FineTuning
from .tuning_plan import Parts, plan
from .tuning_run import check_output

HUB = "nyu-mll/glue"
RATES, DECAYS = (1e-5, 3e-5, 5e-5, 8e-5), (1e-6, 5e-6, 8e-6, 1e-5)
FEW, MANY = (1, 2, 3), (2, 5, 10)  # epochs
BATCH, LENGTH = 64, 256
SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".tsv", ".parquet", "")  # "": a dataset directory
DEV_NAMES = ("validation", "dev", "validation_matched", "dev_matched")


@dataclass(frozen=True)
class GlueTask:
    """A task of GLUE.

    Attributes:
        task: how it is learned.
        metric: by which the best trial is chosen, and which is reported.
        epochs: the numbers of epochs that are tried.
        from_mnli: whether it starts from the model of MNLI, if that is evaluated too.
    """

    task: Task
    metric: str
    epochs: tuple[int, ...]
    from_mnli: bool = False


# In this order, so that the model of MNLI is there for those that start from it.
TASKS: Mapping[str, GlueTask] = {
    "cola": GlueTask("classify", "mcc", MANY),
    "sst2": GlueTask("classify", "accuracy", FEW),
    "qqp": GlueTask("score", "accuracy", MANY),
    "mnli": GlueTask("score", "accuracy", FEW),
    "qnli": GlueTask("score", "accuracy", MANY),
    "mrpc": GlueTask("score", "accuracy", MANY, from_mnli=True),
    "stsb": GlueTask("score", "spearman", MANY, from_mnli=True),
    "rte": GlueTask("score", "accuracy", FEW, from_mnli=True),
}
# The paper's table 5, in percent; its other rows are quoted there from other papers.
PAPER: Mapping[str, Mapping[str, float]] = {
    "BERT base": dict(cola=59.0, sst2=93.1, mrpc=89.5, stsb=89.4, qqp=91.4, mnli=85.4, qnli=91.6,
                      rte=78.2),
    "RoBERTa base": dict(cola=63.6, sst2=94.8, mrpc=90.2, stsb=91.2, qqp=91.9, mnli=87.6,
                         qnli=92.8, rte=78.7),
    "DeBERTaV3 base": dict(cola=69.2, sst2=95.6, mrpc=89.5, stsb=91.6, qqp=92.4, mnli=90.0,
                           qnli=94.0, rte=83.8),
    "ModernBERT base": dict(cola=65.1, sst2=96.0, mrpc=92.2, stsb=91.8, qqp=92.1, mnli=89.1,
                            qnli=93.9, rte=87.4),
    "ModernBERT large": dict(cola=71.4, sst2=97.1, mrpc=91.7, stsb=92.8, qqp=92.7, mnli=90.8,
                             qnli=95.2, rte=92.1),
}  # fmt: skip


def load(data: Path | None, name: str) -> Parts:
    """Return the training and the development set of a task, from files or from the Hub.

    Args:
        data: directory with a directory for each task, which has files or dataset directories
            called "train" and "validation" or "dev"; None downloads the task.
        name: of the task.

    Raises:
        InputError: a file is missing or cannot be used.
        FetchError: the task cannot be downloaded.
    """
    if data is None:
        return _from_hub(name)
    kind = TASKS[name].task
    train = read_labelled(_find(data / name, ("train",)), kind)
    check_training(train)
    return Parts(train, read_labelled(_find(data / name, DEV_NAMES), kind, None, train.kind))


def _find(folder: Path, names: Sequence[str]) -> Path:
    found = [folder / (name + suffix) for name in names for suffix in SUFFIXES]
    for path in found:
        if path.exists():
            return path
    what = f"there is no {' or '.join(names[:2])} of .jsonl, .csv, .tsv or .parquet"
    raise InputError(what, str(folder), "see motherbird evaluate glue --help, or use fewer --tasks")


def _from_hub(name: str) -> Parts:
    datasets = require_extra("datasets", "train")
    kind = TASKS[name].task
    try:
        found = datasets.load_dataset(HUB, name)
    except Exception as error:  # of many libraries
        how = "connect to the network, or set --data"
        raise FetchError(
            f"the task cannot be downloaded ({error})", f"{HUB} {name}", how
        ) from error
    dev = next(found[each] for each in DEV_NAMES if each in found)
    train = _of(found["train"], kind, f"{name} train", None)
    return Parts(train, _of(dev, kind, f"{name} validation", train.kind))


def _of(rows: Any, task: Task, name: str, kind: Kind | None) -> Labelled:
    records = (Record(dict(row), f"{name}, row {n}") for n, row in enumerate(rows))
    return from_records(records, task, None, kind)


def evaluate(
    model: str,
    data: Path | None,
    out: Path,
    *,
    tasks: Sequence[str] = tuple(TASKS),
    space: Mapping[str, Values] | None = None,
    trials: int | None = None,
    seed: int = 0,
    device: str | None = None,
    settings: Mapping[str, Any] | None = None,
    on_task: Callable[[str, Parts], None] = lambda name, parts: None,
    on_trial: Callable[[int, int, dict[str, Any]], None] = lambda number, of, settings: None,
) -> dict[str, Any]:
    """Fine-tune and evaluate a model on tasks of GLUE; a repeated call resumes.

    Args:
        model: name or directory of the model.
        data: see `load`.
        out: directory of the models of the tasks, and of glue.json.
        tasks: names of tasks.
        space: values of settings that are tried instead of the paper's grid.
        trials: number of random trials for each task; None tries all combinations.
        seed: random seed.
        device: see `finetune`.
        settings: further settings of `FineTuning`.
        on_task: called before each task with its data.
        on_trial: see `search`.

    Returns:
        The content of glue.json: "model", "tasks" with metric, value, settings and start of each,
        and "mean" in percent, if all eight are evaluated.

    Raises:
        InputError: a name, a file or a setting cannot be used.
    """
    recipes = _recipes(model, tasks, {"seed": seed} | dict(settings or {}))
    parts = {name: load(data, name) for name in recipes}
    for name, recipe in recipes.items():  # mistakes before the first step
        check_output(out / name)
        plan(recipe, parts[name])
    results: dict[str, Any] = {}
    for name in recipes:
        on_task(name, parts[name])
        about = TASKS[name]
        start = str(out / "mnli") if about.from_mnli and "mnli" in results else model
        recipe = replace(recipes[name], model=start)
        found = search(recipe, space or _grid(about), trials, parts[name], out / name,
                       device=device, on_trial=on_trial)  # fmt: skip
        results[name] = _result(about, found) | {"from": "model" if start == model else "mnli"}
        report = {"model": model, "seed": seed, "tasks": results, "mean": _mean(results)}
        write_text(out / "glue.json", json.dumps(report, indent=1) + "\n")
    return report


def _recipes(model: str, tasks: Sequence[str], settings: dict[str, Any]) -> dict[str, FineTuning]:
    """Return the settings of each task."""
    unknown = [name for name in tasks if name not in TASKS]
    if unknown or not tasks:
        raise InputError(f"these are not tasks of GLUE: {', '.join(unknown) or 'none'}", "--tasks",
                         f"use {', '.join(TASKS)}")  # fmt: skip
    if own := sorted(settings.keys() & {"task", "model", "metric"}):
        raise InputError(f"the protocol of GLUE sets {' and '.join(own)}", "--set", "leave it out")
    shared = {"model": model, "batch_size": BATCH, "max_length": LENGTH, **settings}
    return {
        name: strict.build(FineTuning, {"task": t.task, "metric": t.metric, **shared}, "--set")
        for name, t in TASKS.items()
        if name in tasks
    }


def _grid(about: GlueTask) -> dict[str, Values]:
    """Return the values that the paper tries."""
    return {
        "lr": Values(RATES), "weight_decay": Values(DECAYS), "epochs": Values(about.epochs)
    }  # fmt: skip


def _result(about: GlueTask, found: Mapping[str, Any]) -> dict[str, Any]:
    best = found["trials"][found["best"] - 1]
    return {
        "metric": about.metric, "value": found["dev"][about.metric], "dev": found["dev"],
        "settings": best["settings"], "trials": len(found["trials"]),
        "seconds": round(sum(row["seconds"] for row in found["trials"]), 1),
    }  # fmt: skip


def _mean(results: Mapping[str, Any]) -> float | None:
    if len(results) < len(TASKS) or any(row["value"] is None for row in results.values()):
        return None
    return round(100 * sum(row["value"] for row in results.values()) / len(TASKS), 2)


def table(report: Mapping[str, Any]) -> list[list[str]]:
    """Return rows of text: the model's results and the paper's, in percent, and their means."""
    rows = [["", *TASKS, "mean"]]
    own = report["tasks"]
    values = [
        f"{100 * own[name]['value']:.1f}" if name in own and own[name]["value"] is not None else "-"
        for name in TASKS
    ]
    mean = report["mean"]
    rows.append([str(report["model"]), *values, "-" if mean is None else f"{mean:.1f}"])
    for name, paper in PAPER.items():
        average = sum(paper.values()) / len(paper)
        rows.append([name, *(f"{paper[task]:.1f}" for task in TASKS), f"{average:.1f}"])
    return rows
