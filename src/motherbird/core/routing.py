"""The cost and quality of routing: each of S texts goes to one of T targets, such as LLMs.

A text goes to the target with the highest probability of a good answer minus its cost times a
weight. The larger the weight, the cheaper the router: all weights give its cost-quality curve.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..arrays import Bool, Float, Int
from ..errors import InputError, counted
from . import metrics
from .arguments import check_list
from .measure import Metrics

POINTS = 201  # of the curve of a router, at most
Probabilities = Float[np.ndarray, "S T"]
Outcomes = Bool[np.ndarray, "S T"]
Number = int | float


@dataclass(frozen=True)
class Point:
    """A point of a cost-quality curve.

    Attributes:
        cost_weight: what a unit of cost counts, as a probability.
        cost: the mean cost of a text.
        quality: the fraction of texts that get a good answer.
    """

    cost_weight: float
    cost: float
    quality: float


@dataclass(frozen=True)
class RouterConfig:
    """How a router chooses by the probabilities that its targets give a good answer.

    Attributes:
        targets: the names of the targets.
        costs: the cost of a text for each target, in any unit.
        cost_weight: what a unit of cost counts, as a probability.
        curve: the cost-quality curve on dev, from the lowest cost to the highest.
        qualities: the quality of each target on dev, if all texts go to it.
        abstain: a text goes to no target if all probabilities are below it; None for never. Such
            texts are not counted in curve and qualities.
        metrics: those of `measure` on dev and test.

    Raises:
        InputError: a value is impossible.
    """

    targets: tuple[str, ...]
    costs: tuple[float, ...]
    cost_weight: float
    curve: tuple[Point, ...]
    qualities: tuple[float, ...]
    abstain: float | None = None
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_targets(self.targets, self.costs)
        check_fraction(self.abstain, "abstain")
        if len(self.qualities) != len(self.targets) or not self.curve:
            raise InputError("curve or qualities are incomplete")

    def choose(self, probabilities: Probabilities) -> Int[np.ndarray, " S"]:
        """Return the index of the target of each text, -1 for none."""
        gain = probabilities.astype(np.float64) - self.cost_weight * np.array(self.costs)
        chosen = gain.argmax(axis=1)
        if self.abstain is not None:
            chosen[probabilities.max(axis=1) < self.abstain] = -1
        return chosen

    def measure(self, probabilities: Probabilities, outcomes: Outcomes) -> Metrics:
        """Return the metrics of the router on texts with known outcomes.

        Returns:
            auc and apgr, see the functions; quality and cost, the means of the texts that go to a
            target; abstained, the fraction of texts that go to none. A metric that the texts do not
            define is None.
        """
        chosen = self.choose(probabilities)
        sent = np.flatnonzero(chosen >= 0)
        good, cost = outcomes[sent, chosen[sent]], np.array(self.costs)[chosen[sent]]
        return {
            "auc": auc(probabilities, outcomes, self.costs),
            "apgr": apgr(curve(probabilities, outcomes, self.costs)),
            "quality": float(good.mean()) if len(sent) else None,
            "cost": float(cost.mean()) if len(sent) else None,
            "abstained": 1 - len(sent) / len(chosen),
        }

    def at(self, budget: Number | None = None, quality: Number | None = None) -> "RouterConfig":
        """Return the configuration at another point of the curve.

        Args:
            budget: the largest mean cost of a text; the point of the highest quality is chosen.
            quality: the lowest quality; the cheapest point is chosen. Without both, it is the
                quality of the best target, or that of the curve if it is lower.

        Raises:
            InputError: no point has this cost or quality, or both are given.
        """
        check_point(self.targets, self.costs, budget, quality)
        found = [point for point in self.curve if budget is None or _within(point.cost, budget)]
        best = max(point.quality for point in found)
        if budget is not None:
            quality = best
        elif quality is None:
            quality = min(max(self.qualities), best)
        elif quality > best:
            highest = int(best * 1e4) / 1e4
            raise InputError(f"the router does not reach the quality {quality:g}",
                             how=f"use at most {highest:g}, the highest on dev")  # fmt: skip
        point = next(point for point in found if point.quality >= quality)
        return replace(self, cost_weight=point.cost_weight)


def fit(
    targets: Sequence[str],
    costs: Sequence[Number],
    probabilities: Probabilities,
    outcomes: Outcomes,
    abstain: Number | None = None,
) -> RouterConfig:
    """Return the configuration of a router, of texts with known outcomes.

    Raises:
        InputError: it would abstain from all texts.
    """
    kept = probabilities.max(axis=1) >= (0 if abstain is None else abstain)
    if not kept.any():
        highest = int(probabilities.max() * 1e4) / 1e4
        raise InputError(f"all texts of dev have lower probabilities than abstain = {abstain}",
                         how=f"use at most {highest:g}")  # fmt: skip
    points = curve(probabilities[kept], outcomes[kept], costs)
    chosen = np.linspace(0, len(points) - 1, min(POINTS, len(points))).round().astype(int)
    qualities = outcomes[kept].mean(axis=0).tolist()
    thinned = tuple(points[index] for index in chosen)
    limit = None if abstain is None else float(abstain)
    return RouterConfig(
        tuple(targets), tuple(map(float, costs)), 0.0, thinned, tuple(qualities), limit
    ).at()


def curve(probabilities: Probabilities, outcomes: Outcomes, costs: Sequence[Number]) -> list[Point]:
    """Return the cost-quality curve, from the lowest cost to the highest.

    The first point is that of the cheapest target, the last one that of the most expensive. There
    is a point for each value of the cost weight at which a text goes to another target.
    """
    p, c, count = probabilities.astype(np.float64), np.array(costs, np.float64), len(probabilities)
    # At a very large weight, a text goes to the cheapest target, and of several to the most
    # probable one. As the weight falls, its next target is the one with the steepest gain.
    current = np.where(c == c.min(), p, -np.inf).argmax(axis=1)
    start = np.array([c[current].sum(), outcomes[np.arange(count), current].sum()])
    texts, last = np.arange(count), np.full(count, np.inf)
    moves = []  # rows of weight, cost and quality: the changes of the sums over the texts
    while True:
        own = current[texts]
        more = c - c[own][:, None]
        gain = p[texts] - p[texts, own][:, None]
        slopes = np.divide(gain, more, out=np.full(gain.shape, -np.inf), where=more > 0)
        best = slopes.argmax(axis=1)
        steepest = slopes[np.arange(len(texts)), best]
        moved = steepest > -np.inf
        texts, best, own = texts[moved], best[moved], own[moved]
        if not len(texts):
            break
        last = np.minimum(last[moved], steepest[moved])  # rounding must not reverse the order
        better = outcomes[texts, best].astype(float) - outcomes[texts, own]
        moves.append(np.stack([last, c[best] - c[own], better]))
        current[texts] = best
    if not moves:
        return [Point(0.0, *(start / count).tolist())]
    found = np.concatenate(moves, axis=1)
    found = found[:, np.argsort(-found[0], kind="stable")]
    weights, ends = found[0], np.append(np.flatnonzero(np.diff(found[0])), len(found[0]) - 1)
    sums = np.cumsum(found[1:], axis=1)[:, ends] + start[:, None]
    # Between two weights nothing changes: a point has their mean.
    steps, beyond = weights[ends], 1 / (c.max() - c.min())
    between = (steps[:-1] + steps[1:]) / 2
    weight = np.concatenate([[steps[0] + beyond], between, [steps[-1] - beyond]])
    means = np.column_stack([start, sums]) / count
    return [Point(*row) for row in np.vstack([weight, means]).T.tolist()]


def apgr(points: Sequence[Point]) -> float | None:
    """Return the average performance gap recovered (Ong et al. 2024, RouteLLM).

    It is the area under the curve, where cost and quality are scaled so that the cheapest target is
    at 0 and the most expensive at 1. Random choices have 0.5. None if these do not differ in cost,
    or the most expensive one is not better.
    """
    first, last = points[0], points[-1]
    if last.quality <= first.quality or last.cost <= first.cost:
        return None
    x = (np.array([point.cost for point in points]) - first.cost) / (last.cost - first.cost)
    y = np.array([point.quality for point in points]) - first.quality
    y /= last.quality - first.quality
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())


def auc(probabilities: Probabilities, outcomes: Outcomes, costs: Sequence[Number]) -> float | None:
    """Return the AUC of the texts that need a more expensive target than the cheapest.

    These are the texts to which the cheapest target gives no good answer and another one does. The
    score of a text is the highest probability of another target minus that of the cheapest.
    """
    cheapest = int(np.argmin(costs))
    others = np.delete(probabilities, cheapest, axis=1).max(axis=1)
    needed = ~outcomes[:, cheapest] & outcomes.any(axis=1)
    return metrics.auc(others - probabilities[:, cheapest], needed)


def check_targets(targets: Sequence[str], costs: Sequence[Number]) -> None:
    """Raise InputError if these are not two or more targets with a cost for each."""
    names = list(targets)
    for name in names:
        if not isinstance(name, str) or not name.strip():
            raise InputError(f"a target is called {name!r}", how="give the name of each target")
    if len(set(names)) < max(2, len(names)):
        what = f"these are not two or more different targets: {', '.join(names)}"
        raise InputError(what, how="give each target once")
    if len(costs) != len(names):
        what = f"there are {len(names)} targets and {len(costs)} costs"
        raise InputError(what, how="give a cost for each target")
    for name, cost in zip(names, costs, strict=True):
        if not _is_number(cost) or not 0 <= cost < math.inf:
            what = f"the cost {cost!r} of {name} is not a number of at least 0"
            raise InputError(what, how="give the cost of a text, in any unit")


def check_point(
    targets: Sequence[str],
    costs: Sequence[Number],
    budget: Number | None = None,
    quality: Number | None = None,
) -> None:
    """Raise InputError if no router of these targets can have a budget or a quality."""
    if budget is not None and quality is not None:
        raise InputError("a budget and a quality exclude each other", how="give one")
    check_fraction(quality, "quality")
    if budget is None:
        return
    lowest = min(costs)
    if not _is_number(budget) or not _within(lowest, budget):
        name = targets[costs.index(lowest)]
        what = f"the budget {budget!r} does not reach the cost of the cheapest target, {name}"
        raise InputError(what, how=f"use {lowest:g} or more")


def check_fraction(value: Any, name: str) -> None:
    """Raise InputError if a value is neither None nor a number from 0 to 1."""
    if value is not None and (not _is_number(value) or not 0 <= value <= 1):
        raise InputError(f"{name} = {value!r} is not a number from 0 to 1")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _within(cost: Number, budget: Number) -> bool:
    return cost <= budget * (1 + 1e-9)  # a mean of equal costs is rounded


def outcomes_of(outcomes: Any, targets: Sequence[str], good: Number, count: int) -> Outcomes:
    """Return whether each target answers each of S texts well, of a mapping of targets to lists.

    Raises:
        InputError: a target is missing, it does not have S outcomes, or see `is_good`.
    """
    if not isinstance(outcomes, Mapping) or set(outcomes) != set(targets):
        what = "outcomes is not a mapping of each target to a list"
        raise InputError(what, how=f"the targets are {', '.join(targets)}")
    columns = [check_list(outcomes[name], f"outcomes of {name}", "outcomes") for name in targets]
    for name, column in zip(targets, columns, strict=True):
        if len(column) != count:
            found = counted(len(column), "outcome")
            what = f"there are {counted(count, 'text')} and {found} of {name}"
            raise InputError(what, how="pass one for each text")
    rows = [
        [is_good(value, good, f"text {number}, outcome of {name}")
         for number, value in enumerate(column)]
        for name, column in zip(targets, columns, strict=True)
    ]  # fmt: skip
    return np.array(rows, bool).T


def is_good(value: Any, good: Number, where: str) -> bool:
    """Return whether an outcome is a good answer.

    It is a boolean, or a number from 0 to 1 of at least ``good``, which may be strings.

    Raises:
        InputError: it is something else, or missing.
    """
    how = "write 0, 1, true, false, or a number from 0 to 1"
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, str):
        plain = {"true": True, "false": False}.get(plain.strip().lower(), plain.strip())
    if isinstance(plain, str) and "_" not in plain:
        try:
            plain = float(plain) if plain else None
        except ValueError:
            pass
    if plain is None or (isinstance(plain, float) and math.isnan(plain)):
        raise InputError("the outcome is missing", where, how)
    if not isinstance(plain, int | float):
        raise InputError(f"the outcome is not a number: {value!r:.50}", where, how)
    if not 0 <= plain <= 1:
        raise InputError(f"the outcome {plain!r:.50} is not within 0 and 1", where, how)
    return bool(plain >= good)
