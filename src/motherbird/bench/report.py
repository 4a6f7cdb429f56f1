"""Results of `motherbird bench cpu` as tables on a terminal, and in the page docs/performance.md.

The tables between two markers of the page are replaced; the text around them is kept. Every
measurement is shown, also where motherbird is slower, and systems that are wrong or did not run.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, require_extra
from ..files import read_json
from ..markdown import table
from .workloads import WORKLOADS

START, END = "<!-- tables: start -->", "<!-- tables: end -->"
MOTHERBIRD = "motherbird"
COLUMNS = ("system", "dtype", "tokens/s", "of best peer", "ms", "spread", "of roofline", "peak MB",
           "batch", "documents", "note")  # fmt: skip
LONGEST_NOTE = 120  # characters of a reason on a terminal

Document = dict[str, Any]
Row = dict[str, Any]


def read(path: Path) -> Document:
    """Read a file that ``motherbird bench cpu --out`` wrote, or raise InputError."""
    document = read_json(path)
    if not isinstance(document, dict) or not {"machine", "rows"} <= document.keys():
        raise InputError("not a result of motherbird bench cpu", str(path))
    return document


def best_peer(row: Row, rows: Sequence[Row]) -> float | None:
    """Return tokens/s of the fastest correct peer with the row's dtype and the same weights."""
    peers = [r for r in rows if r["dtype"] == row["dtype"] and r["system"] != MOTHERBIRD]
    same = [r for r in peers if r["correct"] and r["compared_with"] == "oracle"]
    return max((r["tokens_per_s"] for r in same if r["tokens_per_s"]), default=None)


def tables(document: Document) -> Iterator[tuple[str, list[list[str]]]]:
    """Yield a title and table rows per workload: motherbird, then the peers, fastest first."""
    for name, workload in WORKLOADS.items():
        rows = [row for row in document["rows"] if row["workload"] == name]
        rows.sort(key=lambda row: (row["system"] != MOTHERBIRD, -(row["tokens_per_s"] or 0)))
        if rows:
            yield f"{name}: {workload.what}", [_line(row, best_peer(row, rows)) for row in rows]


def _line(row: Row, best: float | None) -> list[str]:
    speed = row["tokens_per_s"]
    comparable = speed and best and row["compared_with"] == "oracle"
    batch = row["batch"]
    return [
        row["system"], row["dtype"],
        f"{speed:,.0f}" if speed else "-",
        f"{speed / best:.2f}x" if comparable else "-",
        f"{row['ms']:.1f}" if row["ms"] else "-",
        f"{row['spread']:.0%}" if row["spread"] is not None else "-",
        f"{row['roofline_fraction']:.0%}" if row["roofline_fraction"] else "-",
        f"{row['peak_mb']:,.0f}" if row["peak_mb"] else "-",
        "-" if batch is None else f"{batch:,} tok" if row["batch_of"] == "tokens" and batch > 1
        else f"{batch:,}",
        str(row["documents"] or "-"), row["reason"] or "",
    ]  # fmt: skip


def facts(document: Document) -> list[tuple[str, str]]:
    """Return the machine, the versions and the settings of a run, as (name, value)."""
    machine = document["machine"]
    rooflines = [f"{dtype} {x:.3f}" for dtype, x in document["roofline_tflops"].items() if x]
    versions = [f"{package} {version}" for package, version in machine["versions"].items()]
    variables = [f"{name}={value}" for name, value in machine["environment"].items()]
    return [
        ("model", document["model"]),
        ("cpu", f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB"),
        ("engine", machine.get("engine", "-")),
        ("ISA extensions", ", ".join(machine["isa_extensions"]) or "none of the known ones"),
        ("threads", str(machine["threads"])),
        ("roofline, TFLOPS", ", ".join(rooflines)),
        ("versions", ", ".join(versions)),
        *([("environment", ", ".join(variables))] if variables else []),
        ("time", f"{document['seconds'] / 60:.0f} minutes")
        if document["finished"]
        else ("incomplete", "the run was stopped before its end"),
    ]


def plain(document: Document) -> str:
    """Return the tables for a terminal."""
    lines = [f"{name:<18}{value}" for name, value in facts(document)]
    for title, rows in tables(document):
        used = [i for i, _ in enumerate(COLUMNS) if any(row[i] not in ("", "-") for row in rows)]
        grid = [[row[i] for i in used] for row in [list(COLUMNS), *rows]]
        widths = [max(map(len, column)) for column in zip(*grid, strict=True)]
        lines += ["", title]
        for row in grid:
            row[-1] = row[-1][:LONGEST_NOTE]
            cells = [
                cell.ljust(width) if i in (0, 1, len(COLUMNS) - 1) else cell.rjust(width)
                for i, cell, width in zip(used, row, widths, strict=True)
            ]
            lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def markdown(documents: Sequence[Document], charts: Sequence[str] = ()) -> str:
    """Return the tables for the page, one section per document, with its chart if it has one."""
    parts = []
    for number, document in enumerate(documents):
        parts.append(f"## {_title(document)}\n")
        if number < len(charts):
            parts.append(f"![Tokens per second of all systems]({charts[number]})\n")
        parts.append(table(["", ""], facts(document)))
        for title, rows in tables(document):
            parts += [f"### {title}\n", table(COLUMNS, rows)]
    return "\n".join(parts)


def _title(document: Document) -> str:
    machine = document["machine"]
    limit = machine.get("environment", {}).get("ATEN_CPU_CAPABILITY")
    name = f"{Path(document['model']).name} on {machine['cpu']}"
    return f"{name}, limited to {limit.upper()}" if limit else name


def into_page(text: str, tables: str, where: str) -> str:
    """Return the page with its tables replaced; InputError without exactly one pair of markers."""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        raise InputError("the page has no table markers", where, f"write {START} and {END} into it")
    before, after = text.split(START)[0], text.split(END)[1]
    return f"{before}{START}\n\n{tables}\n{END}{after}"


def chart_name(document: Document) -> str:
    """Return the name of a chart: performance-<title>.svg, in lower-case letters and digits."""
    words = re.sub(r"[^a-z0-9]+", "-", _title(document).lower().replace(" on ", " "))
    return f"performance-{words.strip('-')}.svg"


def chart(document: Document, path: Path) -> None:
    """Draw tokens/s of every system that ran, one panel per workload; wrong systems are hatched."""
    require_extra("matplotlib", "bench").use("svg")
    pyplot = require_extra("matplotlib.pyplot", "bench")
    shown = {
        name: [r for r in document["rows"] if r["workload"] == name and r["tokens_per_s"]]
        for name in WORKLOADS
    }
    shown = {name: rows for name, rows in shown.items() if rows}
    colors = {
        "float32": "#4c72b0", "float16": "#8172b3", "bfloat16": "#dd8452", "int8": "#55a868"
    }  # fmt: skip
    tallest = max(map(len, shown.values()), default=1)
    figure, axes = pyplot.subplots(
        len(shown) or 1, 1, figsize=(9, 0.4 + (0.25 * tallest + 0.5) * len(shown)), squeeze=False
    )
    for panel, (name, rows) in zip(axes[:, 0], shown.items(), strict=False):
        rows = sorted(rows, key=lambda row: row["tokens_per_s"])
        labels = [f"{row['system']} {row['dtype']}" for row in rows]
        color = [colors.get(row["dtype"], "#888888") for row in rows]
        bars = panel.barh(labels, [row["tokens_per_s"] for row in rows], color=color, alpha=0.75)
        for bar, row in zip(bars, rows, strict=True):
            bar.set_hatch("" if row["correct"] else "///")
            bar.set_linewidth(1.5 if row["system"] == MOTHERBIRD else 0)
            bar.set_edgecolor("black")
        panel.set_title(f"{name}, tokens/s", fontsize=9, loc="left")
        panel.tick_params(labelsize=7)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
