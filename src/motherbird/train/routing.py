"""Fitting a router: fine-tune a classifier, and measure its cost-quality curve on dev.

The classifier is trained in a hidden directory next to the output, which appears when it has all
files: those of the classifier, router.json and curve.svg.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import strict
from ..core import routing
from ..core.arguments import check_list
from ..core.routing import Number, Outcomes, Probabilities, RouterConfig
from ..data.labelled import Labelled, from_records, split_off
from ..data.readers.document import Record
from ..errors import InputError
from ..files import MANIFEST, UNFINISHED, check_names, new_directory
from ..models.classifier import Classifier
from ..models.router import FILE, target_probabilities
from .finetune import DEV, finetune
from .tuning import FineTuning
from .tuning_plan import Parts
from .tuning_run import INFO, check_output

log = logging.getLogger(__name__)

CHART = "curve.svg"


@dataclass(frozen=True)
class Targets:
    """The targets of a router with their costs, and its point on the curve; see `Router.fit`."""

    names: tuple[str, ...]
    costs: tuple[Number, ...]
    budget: Number | None = None
    quality: Number | None = None
    abstain: Number | None = None

    def __post_init__(self) -> None:
        routing.check_targets(self.names, self.costs)
        routing.check_point(self.names, self.costs, self.budget, self.quality)
        routing.check_fraction(self.abstain, "abstain")

    def outcomes(self, data: Labelled) -> Outcomes:
        """Return whether each target answers each text well."""
        return np.array([[name in own for name in self.names] for own in data.labels], bool)

    def check(self, parts: Parts) -> None:
        """Raise InputError if a router cannot be fitted on these texts."""
        good = self.outcomes(parts.train).mean(axis=0)
        for name, fraction in zip(self.names, good, strict=True):
            if fraction == 0:
                what = f"{name} answers no text of the training data well"
                raise InputError(what, how="leave it out, or use a lower bound of good answers")
        cheapest = self.costs.index(min(self.costs))
        if good[cheapest] == 1:
            log.warning("%s, the cheapest target, answers all texts of the training data well: "
                        "no router is needed", self.names[cheapest])  # fmt: skip
        highest = self.outcomes(parts.dev).any(axis=1).mean()
        if self.abstain is None and self.quality is not None and self.quality > highest:
            what = f"no router reaches the quality {self.quality:g}"
            highest = int(highest * 1e4) / 1e4
            how = f"use at most {highest:g}, the fraction of dev that some target answers well"
            raise InputError(what, how=how)

    def fit(self, probabilities: Probabilities, outcomes: Outcomes) -> RouterConfig:
        """Return the configuration of the router."""
        config = routing.fit(self.names, self.costs, probabilities, outcomes, self.abstain)
        return config.at(self.budget, self.quality)


def fit_router(
    recipe: FineTuning,
    parts: Parts,
    targets: Targets,
    out: Path,
    *,
    device: str | None = None,
    **callbacks: Any,
) -> dict[str, Any]:
    """Fit a router, or resume that, and write it.

    Args:
        recipe: settings of the classifier; the best epoch is that of the highest auc by default.
        parts: texts, whose labels are the targets that answer them well.
        targets: the targets, and the point on the curve.
        out: directory of the router. If the classifier in it is that of the same recipe and texts,
            it is not trained again.
        device: a torch device; None is the CPU.
        callbacks: those of `finetune`.

    Returns:
        "dev" and "test", the metrics of `core.routing.RouterConfig.measure`; "targets", the cost
        and the quality on dev of each one alone; "cost_weight", "epoch" and "seconds".

    Raises:
        InputError: the targets, the texts or the directory cannot be used, or the router does not
            reach the wanted quality; then its classifier is kept, and another call uses it.
        DivergedError: see `finetune`.
        StoppedError: see `finetune`.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("a router is fitted by a single process", how="start it without torchrun")
    targets.check(parts)
    check_output(out)
    recipe = replace(recipe, metric=recipe.metric or "auc")
    work = out.absolute().parent / f".{out.name}.router{UNFINISHED}"
    source = out if (out / INFO).is_file() else work / "model"
    info = finetune(recipe, parts, source, device=device, **callbacks)
    classifier = Classifier.load(source, device=device)

    def probabilities(data: Labelled) -> Probabilities:
        ids, _ = classifier.tokenize(data.texts, max_length=recipe.max_length, truncate=True)
        return target_probabilities(classifier, ids, targets.names)

    on_dev, outcomes = probabilities(parts.dev), targets.outcomes(parts.dev)
    config = targets.fit(on_dev, outcomes)
    measured = {"dev": config.measure(on_dev, outcomes)}
    if parts.test is not None:
        measured["test"] = config.measure(probabilities(parts.test), targets.outcomes(parts.test))
    _write(replace(config, metrics=measured), source, out)
    shutil.rmtree(work, ignore_errors=True)
    alone = {
        name: {"cost": cost, "quality": quality}
        for name, cost, quality in zip(targets.names, targets.costs, config.qualities, strict=True)
    }
    return {
        "dev": measured["dev"], "test": measured.get("test"), "targets": alone,
        "cost_weight": config.cost_weight, "epoch": info["epoch"], "seconds": info["seconds"],
    }  # fmt: skip


def _write(config: RouterConfig, source: Path, out: Path) -> None:
    """Write a router with the files of its classifier."""
    check_names(source, "model")
    with new_directory(out, "model") as fresh:
        ignore = shutil.ignore_patterns(MANIFEST)
        shutil.copytree(source, fresh, ignore=ignore, dirs_exist_ok=True)
        text = json.dumps(strict.plain(config), indent=1) + "\n"
        (fresh / FILE).write_text(text, encoding="utf-8")
        draw(config, fresh / CHART)


def fit_lists(
    train: tuple[Any, Any],
    dev: tuple[Any, Any] | None,
    costs: Mapping[str, Number],
    out: Path,
    *,
    good: Number,
    device: str | None,
    settings: dict[str, Any],
    **wanted: Number | None,
) -> None:
    """Fit a router on lists of texts and outcomes; the implementation of `Router.fit`."""
    recipe = strict.build(FineTuning, {**settings, "task": "classify"}, "the settings")
    if not isinstance(costs, Mapping):
        raise InputError("costs is not a mapping", how="pass the cost of each target by its name")
    targets = Targets(tuple(costs), tuple(costs.values()), **wanted)
    own = _labelled(train, targets.names, good, "train")
    if dev is None:
        own, held_out = split_off(own, DEV, recipe.seed)
    else:
        held_out = _labelled(dev, targets.names, good, "dev")
    fit_router(recipe, Parts(own, held_out), targets, out, device=device)


def _labelled(given: Any, targets: Sequence[str], good: Number, name: str) -> Labelled:
    """Return lists of texts and outcomes as labelled data."""
    if not isinstance(given, tuple) or len(given) != 2:
        what = f"{name} is not a pair of texts and outcomes"
        raise InputError(what, how="pass (texts, outcomes)")
    texts = check_list(given[0], f"texts of {name}", "texts")
    truth = routing.outcomes_of(given[1], targets, good, len(texts))
    labels = ([targets[index] for index in np.flatnonzero(row).tolist()] for row in truth)
    rows = (
        Record({"text": text, "label": own}, f"{name}, text {number}")
        for number, (text, own) in enumerate(zip(texts, labels, strict=True))
    )
    return from_records(rows, "classify", None, "multi", name)


def draw(config: RouterConfig, path: Path) -> None:
    """Draw the curve as SVG, with each target alone and random choices between two of them."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    first, last = config.curve[0], config.curve[-1]
    chosen = next(point for point in config.curve if point.cost_weight == config.cost_weight)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    costs, qualities = zip(*((point.cost, point.quality) for point in config.curve), strict=True)
    axes.plot(costs, qualities, color="#1f77b4", label="router")
    axes.plot([first.cost, last.cost], [first.quality, last.quality], "--", color="#8a8a8a",
              label="random choice")  # fmt: skip
    for name, cost, quality in zip(config.targets, config.costs, config.qualities, strict=True):
        axes.plot(cost, quality, "s", color="#333333", markersize=5)
        axes.annotate(name, (cost, quality), xytext=(4, -10), textcoords="offset points",
                      fontsize=8, parse_math=False)  # fmt: skip
    axes.plot(chosen.cost, chosen.quality, "o", color="#d62728", label="chosen point")
    axes.set_xlabel("mean cost of a text")
    axes.set_ylabel("fraction of good answers")
    axes.grid(alpha=0.25, linewidth=0.5)
    axes.margins(x=0.08)
    axes.legend(fontsize="small", loc="lower right")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "motherbird"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
