"""An HTML report of a run in one file: curves, stops, recipe, machine and evaluation."""

import io
import re
import signal
import time
from bisect import bisect_right
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Float
from ..errors import InputError, OutputExistsError, human, require_extra
from ..files import read_json, write_text
from . import card, run_info, run_log, state
from .runs import is_busy

Values = Float[np.ndarray, " _"]  # one for each step, or for each point of a curve
START = "<!doctype html>\n<!-- written by motherbird runs report -->\n"
POINTS = 2000  # per curve, at most
COLORS = {"stopped": "#8a8a8a", "killed": "#d62728", "rolled back": "#9467bd",
           "rewound": "#2ca02c"}  # fmt: skip


class Mark(NamedTuple):
    """The end of a process of the run, a rollback, or a rewind."""

    kind: str  # a key of `COLORS`
    step: int  # the step at which it happened
    time: float  # time of the log entry, in seconds since 1970
    what: str  # a description


def report(run: Path, out: Path) -> None:
    """Write the report; an existing report is replaced, but no other file."""
    info = run_info.read(run)
    require_extra("matplotlib", "train")
    _check_out(out)
    recipe = info.parsed_recipe(run)
    lines = run_log.read(run)
    found = marks(run_log.read(run, run_log.EVENTS), is_busy(run))
    head, rows = card.phase_table(recipe)
    stops = [(_when(m.time), f"{m.step:,}", m.kind, m.what) for m in found]
    text = card.render(
        "report.html.jinja", name=run.resolve().name, info=info, recipe=recipe,
        step=lines[-1]["step"] if lines else 0, tokens=sum(line["tokens"] for line in lines),
        now=_when(time.time()), curves=svg(figure(lines, found)) if lines else "",
        phases=(("", *head), [(str(n), *row) for n, row in enumerate(rows, 1)]),
        stops=(("time", "step", "event", ""), stops),
        evaluations=card.evaluation_table(card.evaluations(run)),
        checkpoints=(("step", "tokens", "size"), _checkpoints(run)),
        machine=card.machine_table(info.made_with),
    )  # fmt: skip
    write_text(out, text)


def _check_out(out: Path) -> None:
    how = "choose another file"
    if out.is_symlink() or (out.exists() and not out.is_file()):
        raise OutputExistsError("the output exists and is not a file", str(out), how)
    if out.exists() and not out.read_bytes().startswith(START.encode()):
        raise OutputExistsError("the output exists and is not a motherbird report", str(out), how)


def marks(events: Sequence[dict[str, Any]], busy: bool) -> list[Mark]:
    """Return the stops, rollbacks and rewinds of a run, from its event log.

    A process that is killed logs no event, so its end is inferred from the next start, or if the
    run is not ``busy``.
    """
    found: list[Mark] = []
    began: dict[str, Any] | None = None
    killed = "the process that began at step {step:,} was killed or failed"
    for event in events:
        kind, step, when = event["event"], event["step"], event["time"]
        if kind == "start":
            if began is not None:
                text = f"{killed.format_map(began)}; resumed at step {step:,}"
                found.append(Mark("killed", step, when, text))
            began = event
        elif kind in ("stop", "finish"):
            found.append(Mark("stopped", step, when, _end(kind, event.get("signal"))))
            began = None
        elif kind == "roll back":  # the same process logs another start
            found.append(Mark("rolled back", step, when, event["reason"]))
            began = None
        elif kind == "rewound":
            what = ", ".join(event["set"]) or "nothing"
            found.append(Mark(kind, step, when, f"to step {event['to']:,}, set: {what}"))
    if began is not None and not busy:
        found.append(Mark("killed", began["step"], began["time"], killed.format_map(began)))
    return found


def _end(kind: str, number: int | None) -> str:
    if kind == "finish":
        return "the run finished"
    if number is None:
        return "by --stop-after"
    return f"by {signal.Signals(number).name}"


def svg(drawn: Any) -> str:
    """Return a figure of matplotlib as an SVG element without external references."""
    from matplotlib import rc_context

    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "motherbird"}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        drawn.savefig(text, format="svg", metadata=nothing)
    element = text.getvalue()
    element = element[element.index("<svg") :]
    return re.sub(r' xmlns(:\w+)?="[^"]*"', "", element)  # not needed inside HTML


def figure(
    lines: Sequence[dict[str, Any]],
    found: Sequence[Mark],
    metrics: Sequence[str] = (),
    unit: str = ", nats",
) -> Any:
    """Plot loss, learning rate, gradient norm and speed over tokens, with matplotlib.

    Args:
        lines: the log of the run.
        found: its stops, which are marked.
        metrics: keys of evaluations that are plotted too.
        unit: of the loss.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    ends = np.cumsum([float(line["tokens"]) for line in lines])
    drawn = Figure(figsize=(9, 10), layout="constrained")
    ratios = [2, *[2] * bool(metrics), 1, 1, 1]
    panels = drawn.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
    loss, (rate, norm, speed) = panels[0], panels[-3:]
    _curve(loss, ends, _column(lines, "loss"), "loss" + unit, "in training")
    _evaluations(loss, ends, lines, "loss", color="#ff7f0e", label="held out")
    for name in metrics:
        _evaluations(panels[1], ends, lines, name, label=name)
    rate.plot(*_thin(ends, _column(lines, "lr")), color="#1f77b4", linewidth=1.2)
    rate.set_ylabel("learning rate")
    _curve(norm, ends, _column(lines, "norm"), "gradient norm")
    seconds = _column(lines, "seconds")
    per_second = np.divide(_column(lines, "tokens"), seconds, where=seconds > 0,
                           out=np.full(len(seconds), np.nan))  # fmt: skip
    _curve(speed, ends, per_second, "tokens/s")
    speed.yaxis.set_major_formatter(EngFormatter())
    speed.xaxis.set_major_formatter(EngFormatter())
    speed.set_xlabel("tokens")
    for panel in panels[:-3]:
        panel.legend(fontsize="small")
    for panel in panels:
        panel.grid(alpha=0.25, linewidth=0.5)
        panel.margins(x=0.01)
        _phases(panel, ends, lines)
        _marks(panel, ends, lines, found)
    loss.set_xlim(left=0)  # where the first phase is numbered
    handles, labels = rate.get_legend_handles_labels()
    if handles:
        drawn.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    return drawn


def _column(lines: Sequence[dict[str, Any]], key: str) -> Values:
    return np.array([line[key] for line in lines], float)  # None becomes NaN


def _evaluations(
    panel: Any, ends: Values, lines: Sequence[dict[str, Any]], key: str, **style: Any
) -> None:
    """Plot a value of the last evaluations."""
    found = [(x, line["evaluation"][key]) for x, line in zip(ends, lines, strict=True)
             if "evaluation" in line]  # fmt: skip
    if found:
        x, y = np.array(found[-POINTS:], float).T  # None becomes NaN
        panel.plot(x, y, "o-", markersize=3, linewidth=1, **style)


def _curve(panel: Any, x: Values, y: Values, label: str, name: str | None = None) -> None:
    """Plot a curve, and its moving mean on top."""
    panel.plot(*_thin(x, y), color="#aec7e8", linewidth=0.8)
    panel.plot(*_thin(x, smooth(y)), color="#1f77b4", linewidth=1.4, label=name)
    panel.set_ylabel(label)


def smooth(y: Values) -> Values:
    """Return the mean over 1% of the steps to each side, at least 2, of the finite values."""
    side = max(2, len(y) // 100)
    good = np.isfinite(y)
    sums, counts = (np.cumsum([0.0, *v]) for v in (np.where(good, y, 0.0), good.astype(float)))
    here = np.arange(len(y))
    begin, end = np.maximum(0, here - side), np.minimum(len(y), here + side + 1)
    total, count = sums[end] - sums[begin], counts[end] - counts[begin]
    return np.divide(total, count, where=count > 0, out=np.full(len(y), np.nan))


def _thin(x: Values, y: Values) -> tuple[Values, Values]:
    """Return at most `POINTS`: of each part the value furthest from its mean, to keep spikes."""
    size = -(-len(y) // POINTS)
    if size < 2:
        return x, y
    chosen = []
    for first in range(0, len(y), size):
        part = np.ma.masked_invalid(y[first : first + size])
        chosen.append(first + int(abs(part - part.mean()).argmax(fill_value=-1.0)))
    return x[chosen], y[chosen]


def _phases(panel: Any, ends: Values, lines: Sequence[dict[str, Any]]) -> None:
    """Number the phases, and shade every second one."""
    position = 0
    for number, (_, group) in enumerate(groupby(line["phase"] for line in lines)):
        left = ends[position - 1] if position else 0.0
        position += len(list(group))
        if number % 2:
            panel.axvspan(left, ends[position - 1], color="black", alpha=0.05, linewidth=0)
        panel.text(left, 0.98, f" {number + 1}", transform=panel.get_xaxis_transform(), fontsize=7,
                   va="top", color="#666666")  # fmt: skip


def _marks(
    panel: Any, ends: Values, lines: Sequence[dict[str, Any]], found: Sequence[Mark]
) -> None:
    """Plot thin vertical lines, all of one kind as one curve."""
    steps = [line["step"] for line in lines]
    for kind, color in COLORS.items():
        marked = []
        for mark in [mark for mark in found if mark.kind == kind][-POINTS // 4 :]:
            there = bisect_right(steps, mark.step)
            marked.append(ends[there - 1] if there else 0.0)
        if marked:
            x = [value for place in marked for value in (place, place, np.nan)]
            panel.plot(x, [0.0, 1.0, np.nan] * len(marked), color=color, linewidth=0.7,
                       linestyle="-" if kind == "killed" else "--", label=kind,
                       transform=panel.get_xaxis_transform())  # fmt: skip


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def _checkpoints(run: Path) -> list[tuple[str, str, str]]:
    """List the checkpoints, without verifying them."""
    rows = []
    for step in sorted(state.steps(run)):
        directory = state.folder(run, step)
        try:
            progress = read_json(directory / state.PROGRESS)
            size = sum(p.stat().st_size for p in directory.iterdir())
        except (InputError, OSError):  # deleted in the meantime
            continue
        rows.append((f"{step:,}", f"{progress['tokens']:,}", human(size, "B")))
    return rows
