"""Routing: the curve has all cost weights, and the metrics are those of their definitions."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird import InputError
from motherbird.core import routing
from motherbird.core.routing import Point, RouterConfig, check_targets, is_good, outcomes_of


@st.composite
def problems(draw, most=4):
    """Probabilities, outcomes and costs; values are multiples of 1/64, so that sums are exact."""
    count, size = draw(st.integers(1, 12)), draw(st.integers(2, most))
    grid = st.integers(0, 64).map(lambda n: n / 64)
    row = st.lists(grid, min_size=size, max_size=size)
    probabilities = np.array(draw(st.lists(row, min_size=count, max_size=count)), np.float32)
    flags = st.lists(st.booleans(), min_size=size, max_size=size)
    outcomes = np.array(draw(st.lists(flags, min_size=count, max_size=count)), bool)
    costs = draw(st.lists(st.integers(0, 8).map(float), min_size=size, max_size=size))
    return probabilities, outcomes, costs


def routed(probabilities, outcomes, costs, weight):
    """Mean cost and quality at a weight, text by text."""
    costs_of, good = [], []
    for row, own in zip(probabilities.tolist(), outcomes, strict=True):
        gains = [p - weight * cost for p, cost in zip(row, costs, strict=True)]
        target = gains.index(max(gains))
        costs_of.append(costs[target])
        good.append(own[target])
    return float(np.mean(costs_of)), float(np.mean(good))


@given(problems())
def test_the_curve_is_that_of_all_weights(problem):
    points = routing.curve(*problem)
    for point in points:
        wanted = routed(*problem, point.cost_weight)
        assert (point.cost, point.quality) == pytest.approx(wanted)
    assert all(a.cost_weight > b.cost_weight for a, b in zip(points, points[1:], strict=False))
    assert all(a.cost <= b.cost + 1e-9 for a, b in zip(points, points[1:], strict=False))
    costs = problem[2]
    assert points[0].cost == pytest.approx(min(costs))
    assert points[-1].cost == pytest.approx(max(costs))
    found = [(p.cost, p.quality) for p in points]
    for weight in np.linspace(-2.013, 2.017, 40):  # no point at which two targets are equal
        wanted = routed(*problem, weight)
        assert any(pair == pytest.approx(wanted) for pair in found)


@given(problems(most=2), st.integers(0, 2**32 - 1))
def test_apgr_and_auc_of_two_targets(problem, seed):
    """By the definitions of RouteLLM: texts go to the strong target in the order of a score."""
    probabilities, outcomes, _ = problem
    draw = np.random.default_rng(seed)
    probabilities = draw.random(probabilities.shape).astype(np.float32)  # no two are equal
    costs = [1.0, 20.0]
    score = probabilities[:, 1].astype(float) - probabilities[:, 0]
    weak, strong = outcomes.T.astype(float)
    recovered = []
    for calls in range(len(score) + 1):
        to_strong = np.zeros(len(score), bool)
        to_strong[np.argsort(-score)[:calls]] = True
        quality = np.where(to_strong, strong, weak).mean()
        recovered.append((quality - weak.mean()) / (strong.mean() - weak.mean() or np.nan))
    area = np.mean((np.array(recovered)[1:] + np.array(recovered)[:-1]) / 2)
    found = routing.apgr(routing.curve(probabilities, outcomes, costs))
    if strong.mean() > weak.mean():
        assert found == pytest.approx(area)
    else:
        assert found is None
    needed = (weak == 0) & (strong == 1)
    auc = routing.auc(probabilities, outcomes, costs)
    if 0 < needed.sum() < len(needed):
        sklearn = pytest.importorskip("sklearn.metrics")
        assert auc == pytest.approx(sklearn.roc_auc_score(needed, score))
    else:
        assert auc is None


def test_targets_of_one_cost_are_chosen_by_probability():
    probabilities = np.array([[0.2, 0.9], [0.8, 0.1]], np.float32)
    outcomes = np.array([[False, True], [True, False]])
    assert routing.curve(probabilities, outcomes, [3.0, 3.0]) == [Point(0.0, 3.0, 1.0)]
    assert routing.apgr(routing.curve(probabilities, outcomes, [3.0, 3.0])) is None


def config(**changes):
    """A router whose curve is at its best before its end."""
    draw = np.random.default_rng(0)
    p = draw.random((400, 3)).astype(np.float32)
    outcomes = draw.random((400, 3)) < 0.3 + 0.5 * p + [0.0, 0.05, 0.1]
    return routing.fit(("a", "b", "c"), (1.0, 4.0, 9.5), p, outcomes, **changes), p, outcomes


def test_a_point_is_chosen_by_budget_or_quality():
    router, p, outcomes = config()
    assert len(router.curve) == routing.POINTS
    for budget in (1.0, 1.5, 3.3, 100.0):
        found = router.at(budget=budget).measure(p, outcomes)
        allowed = [point for point in router.curve if point.cost <= budget]
        assert found["cost"] <= budget
        assert found["quality"] == pytest.approx(max(point.quality for point in allowed))
    for quality in (0.0, 0.5, 0.7):
        found = router.at(quality=quality).measure(p, outcomes)
        enough = [point for point in router.curve if point.quality >= quality]
        assert found["quality"] >= quality
        assert found["cost"] == pytest.approx(min(point.cost for point in enough))
    best = max(outcomes.mean(axis=0))
    assert router.measure(p, outcomes)["quality"] >= best
    assert router == router.at(quality=best)


def test_a_point_that_does_not_exist(no_type_checker):
    router, _, _ = config()
    with pytest.raises(
        InputError, match=r"the budget 0.9 does not reach .* target, a: use 1 or more"
    ):
        router.at(budget=0.9)
    with pytest.raises(InputError, match=r"does not reach the quality 1: use at most 0\.\d+"):
        router.at(quality=1.0)
    with pytest.raises(InputError, match="exclude each other"):
        router.at(budget=2.0, quality=0.5)
    for quality in (-0.1, 1.1, float("nan"), "x"):
        with pytest.raises(InputError, match="not a number from 0 to 1"):
            router.at(quality=quality)
    for budget in (float("nan"), "x"):
        with pytest.raises(InputError, match="the budget"):
            router.at(budget=budget)


def test_abstaining():
    router, p, outcomes = config(abstain=0.6)
    low = p.max(axis=1) < 0.6
    assert 0 < low.mean() < 1
    assert (router.choose(p) == -1).tolist() == low.tolist()
    plain, _, _ = config()
    found = router.measure(p, outcomes)
    assert found["abstained"] == pytest.approx(low.mean())
    assert found["quality"] > plain.at(budget=found["cost"]).measure(p, outcomes)["quality"]
    assert router.curve[0].quality == pytest.approx(outcomes[~low, 0].mean())
    assert replace(router, abstain=1.0).measure(p, outcomes)["quality"] is None
    with pytest.raises(InputError, match=r"abstain = 1.0: use at most 0.99"):
        config(abstain=1.0)


@pytest.mark.parametrize("value", [True, np.bool_(True), "true", " TRUE ", 1, 1.0, "1", "0.5", 0.5])
def test_good_outcomes(value):
    assert is_good(value, 0.5, "here") is True


@pytest.mark.parametrize("value", [False, "false", 0, "0", "0.4999", 0.3, np.float32(0.3)])
def test_other_outcomes(value):
    assert is_good(value, 0.5, "here") is False


@pytest.mark.parametrize(
    ("value", "says"),
    [(None, "missing"), ("", "missing"), ("nan", "missing"), (float("nan"), "missing"),
     ("yes", "not a number: 'yes'"), ("1_0", "not a number"), ([1], "not a number"),
     (2, "2 is not within"), ("-1", "not within"), ("inf", "not within")],
)  # fmt: skip
def test_what_is_not_an_outcome(value, says):
    with pytest.raises(InputError, match=rf"{says}.*here: write 0, 1, true, false"):
        is_good(value, 0.5, "here")


def test_outcomes_of_lists():
    found = outcomes_of({"b": [0, 1, 1], "a": [True, False, 0.7]}, ("a", "b"), 0.5, 3)
    assert found.tolist() == [[True, False], [False, True], [True, True]]
    for given_, says in (
        ({"a": [1]}, "not a mapping of each target to a list: the targets are a, b"),
        ([[1], [1]], "not a mapping"),
        ({"a": [1, 1], "b": [1]}, "1 text and 2 outcomes of a"),
        ({"a": [1], "b": ["x"]}, "'x': text 0, outcome of b"),
        ({"a": "1", "b": [1]}, "outcomes of a is a string"),
    ):
        with pytest.raises(InputError, match=says):
            outcomes_of(given_, ("a", "b"), 0.5, 1)


@pytest.mark.parametrize(
    ("targets", "costs", "says"),
    [(("a",), (1.0,), "not two or more different targets: a"),
     (("a", "b"), (1.0,), "2 targets and 1 costs"),
     (("a", "a"), (1.0, 2.0), "different targets: a, a"),
     (("a", ""), (1.0, 2.0), "a target is called ''"), (("a", "b"), (1.0, -2.0), "-2.0 of b"),
     (("a", "b"), (float("nan"), 2.0), "nan of a"), (("a", "b"), (1, "2"), "'2' of b")],
)  # fmt: skip
def test_targets_that_cannot_be_used(targets, costs, says, no_type_checker):
    with pytest.raises(InputError, match=says):
        check_targets(targets, costs)
    with pytest.raises(InputError, match=says):
        RouterConfig(targets, costs, 0.0, (Point(0.0, 1.0, 1.0),), (0.5,) * len(targets))
