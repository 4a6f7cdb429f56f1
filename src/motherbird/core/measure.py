"""Metrics of a model's logits on labelled texts, and the temperature of its probabilities."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from . import metrics, spans

# What is predicted: one label of a text, any number of them, a number, or a tag of each word.
Kind = Literal["single", "multi", "number", "tags"]
Metrics = dict[str, float | None]
TEMPERATURES, MIN_TEXTS = np.geomspace(0.25, 4.0, 81), 50


def measure(
    kind: Kind,
    truth: Sequence[Any],
    logits: Sequence[NDArray[np.float32]],
    labels: Sequence[str],
    firsts: Sequence[Sequence[int]] = (),
) -> Metrics:
    """Return the metrics of S texts; a true label that the model does not have counts as wrong.

    Args:
        kind: what is predicted.
        truth: for each text its label, a list of labels, a number, or a list of tags.
        logits: for each text (C,), or (tokens, C) for tags.
        labels: the names of the labels, in the order of the logits.
        firsts: for tags, the first token of each word of each text, or -1 for a word without one,
            which is tagged "O".

    Returns:
        "single": accuracy, macro_f1, mcc, of two labels auc (of the second), loss in nats. "multi":
        accuracy (all labels of a text are right), macro_f1, auc (the mean over labels), loss.
        "number": spearman, loss (mean squared error). "tags": entity_f1, accuracy of words, loss.
    """
    if kind == "tags":
        return _of_tags(truth, logits, labels, firsts)
    rows = np.stack(logits)
    if kind == "number":
        wanted = np.array(truth, np.float64)
        error = float(np.square(rows[:, 0] - wanted).mean())
        return {"spearman": metrics.spearman(rows[:, 0], wanted), "loss": error}
    targets = _targets(kind, truth, labels)
    loss = _loss(rows, targets)
    if kind == "multi":
        unknown = np.array([[bool({*own} - {*labels})] for own in truth])
        predicted = np.hstack([rows > 0, np.zeros_like(unknown)])
        wanted = np.hstack([targets > 0, unknown])
        accuracy, f1 = metrics.accuracy(predicted, wanted), metrics.macro_f1(predicted, wanted)
        areas = [metrics.auc(row, own) for row, own in zip(rows.T, targets.T > 0, strict=True)]
        known = [area for area in areas if area is not None]
        auc = float(np.mean(known)) if known else None
        return {"accuracy": accuracy, "macro_f1": f1, "auc": auc, "loss": loss}
    wanted, predicted = np.array(truth), np.array(labels)[rows.argmax(axis=1)]
    found = {
        "accuracy": metrics.accuracy(predicted, wanted),
        "macro_f1": metrics.macro_f1(predicted, wanted),
        "mcc": metrics.mcc(predicted, wanted),
    }
    if len(labels) == 2:
        found["auc"] = metrics.auc(rows[:, 1] - rows[:, 0], wanted == labels[1])
    return {**found, "loss": loss}


def temperature(
    kind: Kind,
    truth: Sequence[Any],
    logits: Sequence[NDArray[np.float32]],
    labels: Sequence[str],
) -> float:
    """Return what logits are divided by so that probabilities fit best (Guo et al. 2017).

    It is 1 for numbers and tags, and where there are fewer than 50 texts. Arguments are those of
    `measure`.
    """
    if kind in ("number", "tags") or len(truth) < MIN_TEXTS:
        return 1.0
    rows, targets = np.stack(logits), _targets(kind, truth, labels)
    losses = [_loss(rows / scale, targets) or 0.0 for scale in TEMPERATURES]
    return round(float(TEMPERATURES[int(np.argmin(losses))]), 4) if any(losses) else 1.0


def _of_tags(
    truth: Sequence[Sequence[str]],
    logits: Sequence[NDArray[Any]],
    labels: Sequence[str],
    firsts: Sequence[Sequence[int]],
) -> Metrics:
    scheme = spans.scheme_of(labels)
    predicted = []
    for own, rows in zip(firsts, logits, strict=True):
        best = rows.argmax(axis=1)
        predicted.append([labels[best[i]] if i >= 0 else spans.OUTSIDE for i in own])
    words = [tag for own in truth for tag in own]
    kept = [(row, i, tag) for own, row, tags in zip(firsts, logits, truth, strict=True)
            for i, tag in zip(own, tags, strict=True) if i >= 0]  # fmt: skip
    return {
        "entity_f1": metrics.entity_f1(
            [spans.spans(tags, scheme) for tags in predicted],
            [spans.spans(tags, scheme) for tags in truth],
        ),
        "accuracy": metrics.accuracy([tag for tags in predicted for tag in tags], words),
        "loss": _loss(
            np.array([row[i] for row, i, _ in kept]),
            _targets("single", [tag for _, _, tag in kept], labels),
        ) if kept else None,
    }  # fmt: skip


def _targets(kind: Kind, truth: Sequence[Any], labels: Sequence[str]) -> NDArray[Any]:
    """Return the index of each label, -1 for unknown ones; for "multi" 1 for those that apply."""
    numbers = {name: number for number, name in enumerate(labels)}
    if kind == "single":
        return np.array([numbers.get(own, -1) for own in truth], np.int64)
    targets = np.zeros((len(truth), len(labels)))
    for row, own in zip(targets, truth, strict=True):
        row[[numbers[name] for name in own if name in numbers]] = 1
    return targets


def _loss(rows: Float[np.ndarray, "S C"], targets: NDArray[Any]) -> float | None:
    """Return the mean cross entropy in nats; that of each label where any number may apply."""
    rows = rows.astype(np.float64)
    if targets.ndim == 2:
        return float((np.logaddexp(0, rows) - rows * targets).mean())
    rows, targets = rows[targets >= 0], targets[targets >= 0]
    if not len(rows):
        return None
    return float((np.logaddexp.reduce(rows, axis=1) - rows[np.arange(len(rows)), targets]).mean())
