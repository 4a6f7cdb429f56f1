"""Compare an evaluation with an earlier one, query by query."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.readers.document import Record
from ..data.readers.records import records
from ..errors import DamagedError, InputError
from .measure import METRICS, Values, interval
from .sets import RetrievalSet

METRIC = METRICS[0]  # that is compared


@dataclass(frozen=True)
class Baseline:
    """The metric of each query in an earlier evaluation.

    Attributes:
        path: the file.
        modes: the modes that every query has.
        values: by set, by query and by mode.
    """

    path: Path
    modes: tuple[str, ...]
    values: dict[str, dict[str, dict[str, float]]]


def read_baseline(path: str | Path) -> Baseline:
    """Read the file that ``motherbird evaluate retrieval --out`` wrote.

    Raises:
        InputError: there is no such file, or a line is not one of such a file, or has other modes
            or the same query as another one; with the line.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError("the baseline is not a file", str(file))
    values: dict[str, dict[str, dict[str, float]]] = {}
    modes: tuple[str, ...] = ()
    for row in records(file):
        if isinstance(row, DamagedError):
            raise row
        name, query, own = _line(row)
        modes = modes or tuple(own)
        if set(own) != {*modes}:
            raise InputError(f"the modes are not {', '.join(modes)}", row.where)
        if query in values.setdefault(name, {}):
            raise InputError(f"query {query!r} of {name} occurs twice", row.where)
        values[name][query] = own
    if not values:
        raise InputError("the baseline is empty", str(file))
    return Baseline(file, modes, values)


def _line(row: Record) -> tuple[str, str, dict[str, float]]:
    """Return set, query and the metric of each mode of a line."""
    name, query, modes = (row.values.get(key) for key in ("dataset", "query", "modes"))
    if isinstance(name, str) and isinstance(query, str) and isinstance(modes, dict) and modes:
        found = {mode: each.get(METRIC) for mode, each in modes.items() if isinstance(each, dict)}
        own = {mode: float(v) for mode, v in found.items() if isinstance(v, int | float)}
        if len(own) == len(modes):
            return name, query, own
    how = "use a file of motherbird evaluate retrieval --out"
    raise InputError("this is not the result of a query", row.where, how)


def other_modes(baseline: Baseline, modes: list[str]) -> dict[str, str]:
    """Return the mode of the baseline that each mode is compared with.

    It is the same one, or that of a baseline with one mode only. Modes that the baseline lacks are
    left out.

    Raises:
        InputError: it lacks all.
    """
    if len(baseline.modes) == 1:
        return dict.fromkeys(modes, baseline.modes[0])
    found = {mode: mode for mode in modes if mode in baseline.modes}
    if not found:
        what = f"the baseline has no mode {' or '.join(modes)}"
        raise InputError(what, str(baseline.path), f"use --mode {','.join(baseline.modes)}")
    return found


def check(baseline: Baseline, modes: list[str], sets: list[RetrievalSet]) -> None:
    """Raise InputError if the baseline has none of the modes, or no query of any of the sets."""
    other_modes(baseline, modes)
    if not any({*baseline.values.get(own.name, {})} & {*own.query_ids} for own in sets):
        how = "use the result of the same sets and split"
        raise InputError("the baseline has none of the queries", str(baseline.path), how)


def compare(baseline: Baseline, data: RetrievalSet, values: dict[str, Values]) -> dict[str, Any]:
    """Return the differences of a set's modes from the baseline.

    Args:
        baseline: the earlier evaluation.
        data: the set.
        values: the metrics of each of its queries by mode.

    Returns:
        "queries" that both have, "missing" ones that the baseline lacks, "unused" ones that it has
        alone, and "differences" of nDCG@10 by mode: the "mode" of the baseline, and "mean", "low"
        and "high" (95%, paired bootstrap), or none without a common query.
    """
    theirs = baseline.values.get(data.name, {})
    common = [number for number, query in enumerate(data.query_ids) if query in theirs]
    differences = {}
    for mode, other in other_modes(baseline, [*values]).items():
        if common:
            before = np.array([theirs[data.query_ids[n]][other] for n in common], float)
            found = interval(values[mode][METRIC][common], before)
            differences[mode] = {
                "mode": other,
                **dict(zip(("mean", "low", "high"), found, strict=True)),
            }
    return {
        "queries": len(common), "missing": len(data.query_ids) - len(common),
        "unused": len(theirs) - len(common), "differences": differences,
    }  # fmt: skip
