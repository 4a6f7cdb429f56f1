"""Metrics of logits on labelled texts; the temperature and the thresholds of probabilities."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..arrays import Float
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
    thresholds: Mapping[str, float] | None = None,
) -> Metrics:
    """Return the metrics of S texts; a true label that the model does not have counts as wrong.

    Args:
        kind: what is predicted.
        truth: for each text its label, a list of labels, a number, or a list of tags.
        logits: for each text (C,), or (tokens, C) for tags.
        labels: the names of the labels, in the order of the logits.
        firsts: for tags, the first token of each word of each text, or -1 for a word without one,
            which is tagged "O".
        thresholds: for "multi", the probability from which a label is predicted; 0.5 by default.

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
    loss = mean_loss(rows, targets)
    if kind == "multi":
        unknown = np.array([[bool({*own} - {*labels})] for own in truth])
        reached = sigmoid(rows) >= [(thresholds or {}).get(name, 0.5) for name in labels]
        predicted = np.hstack([reached, np.zeros_like(unknown)])
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
    losses = [mean_loss(rows / scale, targets) or 0.0 for scale in TEMPERATURES]
    return round(float(TEMPERATURES[int(np.argmin(losses))]), 4) if any(losses) else 1.0


def best_thresholds(
    truth: Sequence[Sequence[str]],
    logits: Sequence[NDArray[np.float32]],
    labels: Sequence[str],
) -> dict[str, float]:
    """Return for each label the probability from which predicting it gives the best F1.

    A threshold is in the middle between two probabilities; if several are as good, it is the one
    next to 0.5. Labels that occur in no text are left out.

    Args:
        truth: for each text a list of labels.
        logits: for each text (C,), divided by the temperature.
        labels: the names of the C labels.
    """
    probabilities = sigmoid(np.stack(logits)).T
    applies = _targets("multi", truth, labels).T > 0
    return {
        name: _best_threshold(column, own)
        for name, column, own in zip(labels, probabilities, applies, strict=True)
        if own.any()
    }


def _best_threshold(probabilities: Float[np.ndarray, " S"], applies: NDArray[np.bool_]) -> float:
    values, positives = np.sort(probabilities), np.sort(probabilities[applies])
    distinct = np.unique(values.astype(np.float64))
    cuts = np.concatenate([[0.5, distinct[0] / 2], (distinct[1:] + distinct[:-1]) / 2])
    predicted = len(values) - np.searchsorted(values, cuts)
    right = len(positives) - np.searchsorted(positives, cuts)
    f1 = 2 * right / (predicted + len(positives))
    return float(cuts[np.lexsort([abs(cuts - 0.5), -f1])[0]])


def sigmoid(logits: Float[np.ndarray, "*rows C"]) -> Float[np.ndarray, "*rows C"]:
    """Return the probability of each logit."""
    return np.exp(-np.logaddexp(logits.dtype.type(0), -logits))


def predicted_tags(
    rows: Float[np.ndarray, "tokens C"], firsts: Sequence[int], labels: Sequence[str]
) -> list[str]:
    """Return the tag of each word of a text: that of its first token, or "O" without one."""
    best = rows.argmax(axis=1)
    return [labels[best[token]] if token >= 0 else spans.OUTSIDE for token in firsts]


def losses(rows: Float[np.ndarray, "S C"], targets: NDArray[Any]) -> Float[np.ndarray, " S"]:
    """Return the cross entropy of each row in nats.

    Args:
        rows: logits.
        targets: the index of each label (S,), of which negative ones have the loss NaN; or for each
            label whether it applies (S, C), of which the mean is returned.
    """
    rows = rows.astype(np.float64)
    if targets.ndim == 2:
        return (np.logaddexp(0, rows) - rows * targets).mean(axis=1)
    found = np.logaddexp.reduce(rows, axis=1) - rows[np.arange(len(rows)), np.maximum(targets, 0)]
    return np.where(targets >= 0, found, np.nan)


def _of_tags(
    truth: Sequence[Sequence[str]],
    logits: Sequence[NDArray[Any]],
    labels: Sequence[str],
    firsts: Sequence[Sequence[int]],
) -> Metrics:
    scheme = spans.scheme_of(labels)
    predicted = [
        predicted_tags(rows, own, labels) for rows, own in zip(logits, firsts, strict=True)
    ]
    words = [tag for own in truth for tag in own]
    kept = [(row, i, tag) for own, row, tags in zip(firsts, logits, truth, strict=True)
            for i, tag in zip(own, tags, strict=True) if i >= 0]  # fmt: skip
    return {
        "entity_f1": metrics.entity_f1(
            [spans.spans(tags, scheme) for tags in predicted],
            [spans.spans(tags, scheme) for tags in truth],
        ),
        "accuracy": metrics.accuracy([tag for tags in predicted for tag in tags], words),
        "loss": mean_loss(
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


def mean_loss(rows: Float[np.ndarray, "S C"], targets: NDArray[Any]) -> float | None:
    """Return the mean of `losses` without unknown labels; None if nothing is left."""
    found = losses(rows, targets)
    found = found if targets.ndim == 2 else found[targets >= 0]
    return float(found.mean()) if len(found) else None
