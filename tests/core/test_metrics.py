"""Metrics, compared with scikit-learn, scipy and seqeval."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from motherbird.core import metrics
from motherbird.core.measure import measure
from motherbird.core.spans import Span, bio_tags

sklearn = pytest.importorskip("sklearn.metrics")

LABELS = st.lists(st.tuples(*[st.sampled_from(["a", "b", "c", "dd"])] * 2), min_size=1)
ROWS = st.integers(1, 4).flatmap(
    lambda c: st.lists(
        st.tuples(*[st.lists(st.booleans(), min_size=c, max_size=c)] * 2), min_size=1
    )
)
# Few values, so that many are equal.
NUMBERS = st.one_of(st.integers(-3, 3).map(float), st.floats(-1e6, 1e6))


@pytest.fixture(autouse=True)
def _undefined_metrics_of_others():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@given(LABELS)
def test_labels(pairs):
    predicted, labels = zip(*pairs, strict=True)
    assert metrics.accuracy(predicted, labels) == pytest.approx(
        sklearn.accuracy_score(labels, predicted)
    )
    assert metrics.macro_f1(predicted, labels) == pytest.approx(
        sklearn.f1_score(labels, predicted, average="macro")
    )
    expected = sklearn.matthews_corrcoef(labels, predicted)
    if len(set(labels)) == 1:
        assert metrics.mcc(predicted, labels) is None and expected == 0
    else:
        assert metrics.mcc(predicted, labels) == pytest.approx(expected)


@given(ROWS)
def test_labels_of_which_several_apply(rows):
    predicted, labels = (np.array(side, bool) for side in zip(*rows, strict=True))
    assert metrics.accuracy(predicted, labels) == pytest.approx((predicted == labels).all(1).mean())
    found = metrics.macro_f1(predicted, labels)
    if not (predicted | labels).any():
        assert found is None
        return
    used = (predicted | labels).any(0)
    each = sklearn.f1_score(labels[:, used], predicted[:, used], average=None)
    # Of one column, scikit-learn gives the F1 of both values.
    assert found == pytest.approx(each[1] if used.sum() == 1 and len(each) == 2 else each.mean())


@given(st.lists(st.tuples(NUMBERS, st.booleans()), min_size=1))
def test_area_under_the_curve(rows):
    scores, positive = zip(*rows, strict=True)
    found = metrics.auc(scores, positive)
    if len(set(positive)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(sklearn.roc_auc_score(positive, scores))


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1))
def test_rank_correlation(rows):
    stats = pytest.importorskip("scipy.stats")
    first, second = zip(*rows, strict=True)
    found = metrics.spearman(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)


@st.composite
def documents(draw):
    """Predicted and true spans of some documents, that do not overlap."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        sides = []
        for _ in range(2):
            ends = sorted(draw(st.sets(st.integers(0, 8), max_size=6)))
            pairs = zip(ends[::2], ends[1::2], strict=False)
            sides.append([Span(draw(st.sampled_from("XY")), *pair) for pair in pairs])
        found.append(sides)
    return found


@given(documents())
def test_entities(pairs):
    seqeval = pytest.importorskip("seqeval.metrics")
    predicted, entities = zip(*pairs, strict=True)
    assume(any(predicted) or any(entities))
    tags = [[bio_tags(spans, 8) for spans in side] for side in (entities, predicted)]
    assert metrics.entity_f1(predicted, entities) == pytest.approx(seqeval.f1_score(*tags))


def test_what_is_undefined():
    assert metrics.accuracy([], []) is None
    assert metrics.macro_f1([], []) is None
    assert metrics.mcc([], []) is None
    assert metrics.auc([], []) is None
    assert metrics.spearman([], []) is None
    assert metrics.entity_f1([[]], [[]]) is None
    assert metrics.mcc(["a", "a"], ["a", "b"]) == 0
    assert metrics.auc([0.5, 0.5], [True, False]) == 0.5


def test_shapes_that_differ():
    with pytest.raises(ValueError, match="shapes differ"):
        metrics.accuracy(["a"], ["a", "b"])
    with pytest.raises(ValueError):
        metrics.entity_f1([[]], [])


@given(ROWS.flatmap(lambda rows: st.tuples(st.just(rows), st.integers(0, 2**32 - 1))))
def test_auc_of_any_number_of_labels(case):
    """The mean over labels that apply to some texts and not to others."""
    rows, seed = case
    truth = np.array([row for row, _ in rows])
    names = "abcd"[: truth.shape[1]]
    logits = np.random.default_rng(seed).normal(size=truth.shape).astype(np.float32)
    labels = [[n for n, applies in zip(names, row, strict=True) if applies] for row in truth]
    found = measure("multi", labels, list(logits), list(names))["auc"]
    both = truth.any(0) & ~truth.all(0)
    if both.any():
        assert found == pytest.approx(sklearn.roc_auc_score(truth[:, both], logits[:, both]))
    else:
        assert found is None
