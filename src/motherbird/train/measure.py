"""Metrics of a fine-tuned model on labelled texts, and the temperature of its probabilities."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from numpy.typing import NDArray

from ..core import metrics, spans
from ..core.batching import split_by_tokens
from ..data.labelled import Labelled
from ..nn.heads import IGNORED, SequenceClassifier, TokenClassifier
from .examples import Examples
from .threads import executor_for

Metrics = dict[str, float | None]
MICRO_TOKENS = 4096  # of a batch
TEMPERATURES = np.geomspace(0.25, 4.0, 81)


def logits_of(
    model: SequenceClassifier | TokenClassifier, examples: Examples, dtype: torch.dtype
) -> list[Float32[np.ndarray, "..."]]:
    """Return the logits of each document: (C,), or (tokens, C) for tags."""
    device = model.model.device
    batches = split_by_tokens(examples.lengths, MICRO_TOKENS)

    @torch.inference_mode()
    def compute(numbers: list[int]) -> list[Float32[np.ndarray, "..."]]:
        packed = examples.batch(numbers).packed
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = model(packed).float().cpu().numpy()
        if examples.kind == "tags":
            return np.split(logits, packed.cu_seqlens[1:-1].tolist())
        return list(logits)

    training = model.training
    model.eval()
    found: list[Float32[np.ndarray, ...]] = [np.empty(0, np.float32)] * len(examples)
    for numbers, rows in zip(batches, executor_for(device).in_order(compute, batches), strict=True):
        for number, row in zip(numbers, rows, strict=True):
            found[number] = row
    model.train(training)
    return found


def measure(
    data: Labelled,
    examples: Examples,
    logits: Sequence[Float32[np.ndarray, "..."]],
    labels: Sequence[str],
) -> Metrics:
    """Return the metrics of labelled texts; a label that the model does not have counts as wrong.

    Args:
        data: the texts, with the true labels.
        examples: the same, tokenized.
        logits: those of `logits_of`.
        labels: the names of the labels, in the order of the logits.

    Returns:
        "single": accuracy, macro_f1, mcc, of two labels auc (of the second), loss in nats. "multi":
        accuracy (of all labels of a document), macro_f1, loss. "number": spearman, loss (mean
        squared error). "tags": entity_f1, accuracy of words, loss.
    """
    if examples.kind == "tags":
        return _of_tags(data, examples, logits, labels)
    rows, targets = np.stack(logits), np.stack(examples.targets)
    if examples.kind == "number":
        loss = float(np.square(rows - targets).mean())
        return {"spearman": metrics.spearman(rows[:, 0], targets[:, 0]), "loss": loss}
    if examples.kind == "multi":
        unknown = [[bool({*own} - {*labels})] for own in data.labels]
        truth = np.hstack([targets > 0.5, unknown])
        predicted = np.hstack([rows > 0, np.zeros_like(unknown)])
        return {
            "accuracy": metrics.accuracy(predicted, truth),
            "macro_f1": metrics.macro_f1(predicted, truth),
            "loss": _loss(examples.kind, rows, targets),
        }
    truth, predicted = np.array(data.labels), np.array(labels)[rows.argmax(axis=1)]
    found = {
        "accuracy": metrics.accuracy(predicted, truth),
        "macro_f1": metrics.macro_f1(predicted, truth),
        "mcc": metrics.mcc(predicted, truth),
    }
    if len(labels) == 2:
        found["auc"] = metrics.auc(rows[:, 1] - rows[:, 0], truth == labels[1])
    return {**found, "loss": _loss(examples.kind, rows, targets)}


def _of_tags(
    data: Labelled,
    examples: Examples,
    logits: Sequence[Float32[np.ndarray, "..."]],
    labels: Sequence[str],
) -> Metrics:
    scheme = spans.scheme_of(labels)
    predicted, words = [], [word for own in data.labels for word in own]
    for firsts, rows in zip(examples.firsts, logits, strict=True):
        best = rows.argmax(axis=1)
        predicted.append([labels[best[i]] if i >= 0 else spans.OUTSIDE for i in firsts])
    return {
        "entity_f1": metrics.entity_f1(
            [spans.spans(tags, scheme) for tags in predicted],
            [spans.spans(tags, scheme) for tags in data.labels],
        ),
        "accuracy": metrics.accuracy([word for tags in predicted for word in tags], words),
        "loss": _loss("single", np.concatenate(logits), np.concatenate(examples.targets)),
    }


def _loss(
    kind: str, rows: Float32[np.ndarray, "S C"], targets: NDArray[Any], scale: float = 1.0
) -> float | None:
    """Return the mean cross entropy in nats; of "multi" for each label."""
    rows = rows.astype(np.float64) / scale
    if kind == "multi":
        return float((np.logaddexp(0, rows) - rows * targets).mean())
    rows, targets = rows[targets != IGNORED], targets[targets != IGNORED]
    if not len(rows):
        return None
    return float((np.logaddexp.reduce(rows, axis=1) - rows[np.arange(len(rows)), targets]).mean())


def temperature(examples: Examples, logits: Sequence[Float32[np.ndarray, "..."]]) -> float:
    """Return what the logits are divided by so that probabilities fit best (Guo et al. 2017).

    It is 1 for numbers and tags.
    """
    if examples.kind in ("number", "tags"):
        return 1.0
    rows, targets = np.stack(logits), np.stack(examples.targets)
    losses = [_loss(examples.kind, rows, targets, scale) or 0.0 for scale in TEMPERATURES]
    return round(float(TEMPERATURES[int(np.argmin(losses))]), 4) if any(losses) else 1.0
