"""The results of an evaluation as a chart and as a table in Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import require_extra
from ..files import write_file
from ..markdown import table
from .measure import METRICS

METRIC = METRICS[0]  # of the chart and the table
COLORS = {
    "bm25": "#8a8a8a", "dense": "#1f77b4", "late": "#9467bd", "hybrid": "#2ca02c",
    "rerank": "#ff7f0e",
}  # fmt: skip
Rows = Sequence[dict[str, Any]]  # one for each set, of the JSON document


def markdown(rows: Rows) -> str:
    """Return nDCG@10 by set and mode, and the differences from a baseline if there are any."""
    modes = [*rows[0]["modes"]]
    head = ["nDCG@10", "documents", "queries", *modes]
    lines = [
        [row["dataset"], f"{row['documents']:,}", f"{row['queries']:,}", *_values(row, modes)]
        for row in rows
    ]
    if len(rows) > 1:
        means = [np.mean([row["modes"][mode][METRIC] for row in rows]) for mode in modes]
        lines.append(["mean", "", "", *(f"{mean:.4f}" for mean in means)])
    text = table(head, lines)
    compared = [
        [row["dataset"], f"{row['baseline']['queries']:,}", f"{mode} - baseline's {own['mode']}",
         f"{own['mean']:+.4f}", f"{own['low']:+.4f} to {own['high']:+.4f}"]
        for row in rows if row["baseline"] is not None
        for mode, own in row["baseline"]["differences"].items()
    ]  # fmt: skip
    if compared:
        text += "\n" + table(["set", "queries", "difference", "mean", "95% interval"], compared)
    return text


def _values(row: dict[str, Any], modes: Sequence[str]) -> list[str]:
    return [f"{row['modes'][mode][METRIC]:.4f}" for mode in modes]


def chart(rows: Rows, path: Path) -> None:
    """Draw nDCG@10 by set and mode, with the means over sets, into a .svg or .png file.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_extra("matplotlib", "train")
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    modes = [*rows[0]["modes"]]
    names = [row["dataset"] for row in rows]
    values = np.array([[row["modes"][mode][METRIC] for mode in modes] for row in rows])
    if len(rows) > 1:
        names, values = [*names, "mean"], np.vstack([values, values.mean(axis=0)])
    thick = 0.8 / len(modes)
    figure = Figure(figsize=(8, 1.3 + len(names) * (0.14 + 0.13 * len(modes))),
                    layout="constrained")  # fmt: skip
    axes = figure.subplots()
    heights = np.arange(len(names))
    for number, mode in enumerate(modes):
        where = heights + (number - (len(modes) - 1) / 2) * thick
        bars = axes.barh(where, values[:, number], thick, color=COLORS[mode], label=mode)
        axes.bar_label(bars, fmt="%.3f", fontsize=6.5, padding=2, color="#333333")
    axes.set_yticks(heights, names, parse_math=False)
    axes.invert_yaxis()
    axes.set_ylim(len(names) - 0.4, -0.6)
    if len(rows) > 1:
        axes.axhline(len(rows) - 0.5, color="#333333", linewidth=0.8)
    axes.set_xlim(0, min(1.08, values.max() * 1.12 + 0.02))
    axes.set_xlabel("nDCG@10")
    axes.set_axisbelow(True)
    axes.grid(axis="x", alpha=0.25, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(modes), fontsize="small")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "motherbird"}):
        kind = path.suffix.lower().removeprefix(".")
        metadata = {"Date": None} if kind == "svg" else None
        write_file(path, lambda file: figure.savefig(file, format=kind, dpi=150, metadata=metadata))
