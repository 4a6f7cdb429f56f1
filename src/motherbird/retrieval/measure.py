"""How good rankings are: the metrics of ir-measures, and intervals of their differences."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..arrays import Float64
from ..errors import require_extra
from .ranking import Ranking
from .sets import RetrievalSet

METRICS = ("nDCG@10", "recall@100", "MRR@10")
_NAMES = ("nDCG@10", "R@100", "RR@10")  # in ir-measures
DEEPEST = 100  # rank that a metric looks at
RESAMPLES = 10_000  # of the bootstrap

Values = dict[str, Float64[np.ndarray, " queries"]]  # by metric


def measure(data: RetrievalSet, ranking: Ranking) -> Values:
    """Return each metric of each query."""
    ir = require_extra("ir_measures", "retrieval")
    measures = dict(zip(map(ir.parse_measure, _NAMES), METRICS, strict=True))
    qrels = {
        str(query): {str(document): grade for document, grade in own.items()}
        for query, own in enumerate(data.relevant)
    }
    # Ranks as scores: documents of equal scores keep their order.
    run = {
        str(query): {str(d): -float(rank) for rank, d in enumerate(own) if d >= 0}
        for query, own in enumerate(ranking.documents[:, :DEEPEST].tolist())
    }
    found: Values = {name: np.zeros(len(data.queries)) for name in METRICS}
    for each in ir.iter_calc(list(measures), qrels, run):
        found[measures[each.measure]][int(each.query_id)] = each.value
    return found


def means(values: Mapping[str, Sequence[float] | np.ndarray]) -> dict[str, float]:
    """Return the mean of each metric over queries."""
    return {name: float(np.mean(own)) for name, own in values.items()}


def interval(
    one: Float64[np.ndarray, " queries"], other: Float64[np.ndarray, " queries"], seed: int = 0
) -> tuple[float, float, float]:
    """Return the mean of one - other over queries, and its 95% interval by a paired bootstrap."""
    difference = np.asarray(one, float) - np.asarray(other, float)
    draw, count = np.random.default_rng(seed), len(difference)
    # Counts of how often each query is drawn: one multinomial instead of `count` integers.
    means = np.array([draw.multinomial(count, np.full(count, 1 / count)) @ difference
                      for _ in range(RESAMPLES)]) / count  # fmt: skip
    low, high = np.quantile(means, (0.025, 0.975))
    return float(difference.mean()), float(low), float(high)
