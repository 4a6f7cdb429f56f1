"""The model card (README.md) of a fine-tuned model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import markdown, strict
from ..core import hub
from ..data.description import Description, describe
from . import card
from .card import Table
from .tuning import FineTuning
from .tuning_plan import Plan

LABELS = 200  # of the table, at most
# The class that predicts, by task.
CLASSES = {"classify": "Classifier", "tag": "Tagger", "score": "Scorer"}
# Its method, the pipeline of the Hub and its options, by what is predicted.
METHODS = {"single": "predict", "multi": "predict", "number": "score", "tags": "tag"}
PIPELINES = {"single": "text-classification", "multi": "text-classification",
             "number": "text-ranking", "tags": "token-classification"}  # fmt: skip
OPTIONS = {"multi": ", top_k=None", "tags": ', aggregation_strategy="simple"'}
# Names of metrics on the Hub.
METRICS = {"accuracy": "accuracy", "macro_f1": "f1", "entity_f1": "f1", "auc": "roc_auc",
           "mcc": "matthews_correlation", "spearman": "spearmanr"}  # fmt: skip


def write(directory: Path, name: str, plan: Plan, info: Mapping[str, Any]) -> None:
    """Write the card of a model.

    Args:
        directory: of the model, which is being written.
        name: of the model.
        plan: what it was trained on and with.
        info: the content of finetune.json.
    """
    recipe, parts, thresholds = plan.recipe, plan.parts, info["thresholds"]
    kind, about = plan.train.kind, describe(parts.train, parts.dev, parts.test)
    default = strict.plain(FineTuning(task=recipe.task))
    settings = {k: v for k, v in strict.plain(recipe).items() if v != default.get(k)}
    is_directory = not hub.is_included(recipe.model) and Path(recipe.model).is_dir()
    text = card.render(
        "tuning_card.md.jinja", name=name, plan=plan, info=info, recipe=recipe, about=about,
        cls=CLASSES[recipe.task], kind=kind, method=METHODS[kind], pipeline=PIPELINES[kind],
        options=OPTIONS,
        # The Hub takes its own names, not directories.
        base=None if is_directory or hub.is_included(recipe.model) else recipe.model,
        base_name=Path(recipe.model).absolute().name if is_directory else recipe.model,
        metric_names=dict.fromkeys(METRICS[n] for n in info["dev"] if n in METRICS),
        metrics=metric_table(info), data=_data_table(plan), labels=_label_table(about),
        thresholds=(("label", "threshold"), [(n, f"{t:.4g}") for n, t in thresholds.items()]),
        settings={"task": recipe.task, **settings}, machine=card.machine_table(info["machine"]),
        limit=recipe.max_length or plan.config.max_position_embeddings,
        table=lambda content: markdown.table(*content),
    )  # fmt: skip
    (directory / "README.md").write_text(text, encoding="utf-8", errors="replace")


def metric_table(info: Mapping[str, Any]) -> Table:
    """Return a table of the metrics of dev and test."""
    parts = [part for part in ("dev", "test") if part in info]
    return ("metric", *parts), [
        (name, *("-" if info[p][name] is None else f"{info[p][name]:.4f}" for p in parts))
        for name in info["dev"]
    ]


def _data_table(plan: Plan) -> Table:
    """Return a table of where each part is from, and how long its texts are."""
    head = ("part", "source", "texts", "mean tokens", "most tokens", "truncated")
    parts = {"train": plan.train, **{name: e for name, (_, e) in plan.evaluated().items()}}
    return head, [
        (name, plan.parts.sources.get(name, "-"), f"{len(part):,}", f"{np.mean(part.lengths):.0f}",
         f"{max(part.lengths):,}", f"{part.truncated:,}")
        for name, part in parts.items()
    ]  # fmt: skip


def _label_table(about: Description) -> Table:
    """Return a table of the number of examples of each label, or of the range of numbers."""
    if about.numbers:
        return ("part", "smallest", "mean", "largest"), [
            (part, *(f"{value:.4g}" for value in row.values()))
            for part, row in about.numbers.items()
        ]
    names = list(dict.fromkeys(name for counts in about.labels.values() for name in counts))
    rows = [
        (name, *(f"{counts.get(name, 0):,}" for counts in about.labels.values()))
        for name in names[:LABELS]
    ]
    if len(names) > LABELS:
        rows.append((f"{len(names) - LABELS:,} more", *("" for _ in about.labels)))
    return ("label", *about.labels), rows
