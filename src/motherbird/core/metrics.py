"""Metrics of classification, regression and tagging.

S is the number of examples and C the number of labels. A metric that the data does not define, such
as the AUC of examples of one class, is None.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .spans import Span

Values = NDArray[Any] | Sequence[Any]


def accuracy(predicted: Values, labels: Values) -> float | None:
    """Return the fraction of examples whose prediction is right.

    Args:
        predicted: labels, integers or strings of shape (S,); or for each label whether it applies,
            booleans of shape (S, C), of which a whole row has to be right.
        labels: the true labels, of the same shape.

    Returns:
        A fraction from 0 to 1, or None without examples.
    """
    first, second = _pair(predicted, labels)
    if not len(first):
        return None
    return float((first == second).reshape(len(first), -1).all(1).mean())


def macro_f1(predicted: Values, labels: Values) -> float | None:
    """Return the mean F1 of the labels that occur in the predictions or among the true labels.

    Args:
        predicted: labels, integers or strings of shape (S,); or for each label whether it applies,
            booleans of shape (S, C).
        labels: the true labels, of the same shape.

    Returns:
        A mean from 0 to 1, or None if no label occurs.
    """
    first, second = _pair(predicted, labels)
    if first.ndim == 1:
        names = np.unique(np.concatenate([first, second]))
        first, second = first[:, None] == names, second[:, None] == names
    used = first.sum(0) + second.sum(0)
    right = (first & second).sum(0)[used > 0]
    return float((2 * right / used[used > 0]).mean()) if len(right) else None


def mcc(predicted: Values, labels: Values) -> float | None:
    """Return the Matthews correlation coefficient, for two or more classes (Gorodkin 2004).

    Args:
        predicted: labels, integers or strings of shape (S,).
        labels: the true labels, of shape (S,).

    Returns:
        A coefficient from -1 to 1, 0 if all predictions are equal, or None if all true labels are.
    """
    first, second = _pair(predicted, labels)
    names, codes = np.unique(np.concatenate([first, second]), return_inverse=True)
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (codes[: len(first)], codes[len(first) :]), 1)
    guessed, true, total = counts.sum(1), counts.sum(0), counts.sum()
    spread, wanted = total**2 - guessed @ guessed, total**2 - true @ true
    if not wanted:
        return None
    covariance = counts.trace() * total - guessed @ true
    return float(covariance / np.sqrt(spread * wanted)) if spread else 0.0


def auc(scores: Values, positive: Values) -> float | None:
    """Return the area under the ROC curve.

    It is the probability that a positive example has a higher score than a negative one, where
    equal scores count one half.

    Args:
        scores: the scores of the positive class, such as probabilities, of shape (S,).
        positive: whether each example is positive, booleans of shape (S,).

    Returns:
        An area from 0 to 1, or None if there is one class only.
    """
    ranks, truth = _pair(_ranks(scores), np.asarray(positive, bool))
    positives = int(truth.sum())
    pairs = positives * (len(truth) - positives)
    if not pairs:
        return None
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / pairs)


def spearman(predicted: Values, scores: Values) -> float | None:
    """Return Spearman's rank correlation; equal values have the mean of their ranks.

    Args:
        predicted: numbers of shape (S,).
        scores: the true numbers, of shape (S,).

    Returns:
        A correlation from -1 to 1, or None if all predictions or all true numbers are equal.
    """
    first, second = _pair(_ranks(predicted), _ranks(scores))
    first, second = first - (len(first) + 1) / 2, second - (len(second) + 1) / 2
    spread = np.sqrt((first @ first) * (second @ second))
    return float(np.clip(first @ second / spread, -1, 1)) if spread else None


def entity_f1(
    predicted: Sequence[Iterable[Span]], entities: Sequence[Iterable[Span]]
) -> float | None:
    """Return the F1 of entities, over all documents (micro average).

    An entity is right if its type, its first word and its last word are.

    Args:
        predicted: the spans of each document, S of them.
        entities: the true spans of each document, S of them.

    Returns:
        A fraction from 0 to 1, or None if there are neither predictions nor entities.
    """
    right = used = 0
    for first, second in zip(predicted, entities, strict=True):
        guessed, true = set(first), set(second)
        right += len(guessed & true)
        used += len(guessed) + len(true)
    return 2 * right / used if used else None


def _pair(first: Values, second: Values) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return two arrays; ValueError if their shapes differ."""
    one, other = np.asarray(first), np.asarray(second)
    if one.shape != other.shape:
        raise ValueError(f"shapes differ: {one.shape} and {other.shape}")
    return one, other


def _ranks(values: Values) -> NDArray[np.float64]:
    """Return ranks from 1; equal values have the mean of their ranks."""
    _, codes, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return (ends - (counts - 1) / 2)[codes]
