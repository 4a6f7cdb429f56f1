"""The metrics of logits, and the thresholds of labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from motherbird.core.measure import best_thresholds, losses, mean_loss, measure, sigmoid

LABELS = ("a", "b")
# Few values, so that many are equal.
LOGITS = st.sampled_from([-9.0, -1.0, -0.5, 0.0, 0.25, 3.0]).map(np.float32)
ROWS = st.lists(
    st.tuples(arrays(np.float32, 2, elements=LOGITS), st.sets(st.sampled_from(LABELS))), min_size=1
)


def f1(applies, reached):
    applies = np.array(applies)
    return 2 * (applies & reached).sum() / (applies.sum() + reached.sum())


@given(ROWS)
def test_no_threshold_is_better(rows):
    logits, truth = [row for row, _ in rows], [sorted(own) for _, own in rows]
    found = best_thresholds(truth, logits, LABELS)
    assert set(found) == {name for own in truth for name in own}
    probabilities = sigmoid(np.stack(logits))
    for name, threshold in found.items():
        assert 0 < threshold < 1
        column = probabilities[:, LABELS.index(name)]
        applies = [name in own for own in truth]
        best = f1(applies, column >= threshold)
        for other in (*np.unique(column), 0.5):
            assert f1(applies, column >= other) <= best + 1e-12
        if f1(applies, column >= 0.5) == pytest.approx(best, abs=1e-12):
            assert threshold == 0.5
        assert abs(column - threshold).min() > 1e-6 or threshold == 0.5  # between two, on none


@given(ROWS, st.floats(0, 1))
def test_metrics_use_thresholds(rows, threshold):
    logits, truth = [row for row, _ in rows], [sorted(own) for _, own in rows]
    found = measure("multi", truth, logits, LABELS, thresholds={"b": threshold})
    probabilities = sigmoid(np.stack(logits))
    reached = [
        {name for name, p, cut in zip(LABELS, row, (0.5, threshold), strict=True) if p >= cut}
        for row in probabilities
    ]
    right = [got == {*own} for got, own in zip(reached, truth, strict=True)]
    assert found["accuracy"] == pytest.approx(np.mean(right))


def test_losses():
    rows = np.array([[2.0, 0.0], [0.0, 1.0], [5.0, 5.0]])
    found = losses(rows, np.array([0, 0, -100]))
    expected = -np.log(np.exp([2.0, 0.0]) / (np.exp([2.0, 0.0]) + np.exp([0.0, 1.0])))
    np.testing.assert_allclose(found[:2], expected, rtol=1e-6)
    assert np.isnan(found[2]) and mean_loss(rows, np.array([0, 0, -100])) == found[:2].mean()
    assert mean_loss(rows, np.full(3, -1)) is None
    applies = np.array([[1, 0], [0, 0], [1, 1]])
    chosen = np.where(applies > 0, sigmoid(rows), 1 - sigmoid(rows))
    np.testing.assert_allclose(losses(rows, applies), -np.log(chosen).mean(1), rtol=1e-5)
