"""Medians, spreads, and agreement of vectors."""

import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def median(values: Sequence[float]) -> float | None:
    """The median, or None of nothing."""
    return statistics.median(values) if values else None


def spread(values: Sequence[float]) -> float | None:
    """(largest - smallest) / median, or None where there are not two values."""
    return (max(values) - min(values)) / statistics.median(values) if len(values) > 1 else None


def cosines(ours: NDArray[np.float32], truth: NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosine of each row with the same row of the truth; NaN where a row is not finite."""
    a, b = ours.astype(np.float64), truth.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
