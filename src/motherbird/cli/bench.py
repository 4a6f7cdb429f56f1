"""``motherbird bench``: benchmarks of motherbird and other libraries on this machine."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..machine import MAX_THREADS
from . import options
from .output import is_terminal, print_result, progress


@click.group(name="bench")
def command() -> None:
    """Measure motherbird and other libraries on this machine."""


@command.command(name="cpu", short_help="Measure speed and memory, compared with peers.")
@click.option("--workloads", metavar="NAME,NAME",
              help="Workloads to measure, comma-separated (default: all).")  # fmt: skip
@click.option("--systems", metavar="NAME,NAME",
              help="Systems, comma-separated: name or name/dtype (default: all).")  # fmt: skip
@click.option("--repeats", type=click.IntRange(1, 1000), default=3, show_default=True,
              metavar="N", help="Measurements per system; slow ones may get fewer.")  # fmt: skip
@click.option("--model", default="base", show_default=True, metavar="MODEL",
              help="base, large, mini, nano (random weights), motherbird-nano, or a model's "
              "directory.")  # fmt: skip
@click.option("--minutes", type=click.FloatRange(1, 24 * 60), default=55.0, show_default=True,
              metavar="M", help="Time limit; a shorter run measures fewer documents.")  # fmt: skip
@click.option("--out", metavar="FILE.json",
              help="Also write the JSON to this file, after every workload.")  # fmt: skip
@click.option("--threads", type=click.IntRange(1, MAX_THREADS), metavar="N",
              help="Number of CPU threads (default: all cores).")  # fmt: skip
@options.as_json
def cpu(
    workloads: str | None,
    systems: str | None,
    repeats: int,
    model: str,
    minutes: float,
    out: str | None,
    threads: int | None,
    json_: bool,
) -> None:
    """Measure tokens/s, latency and memory of motherbird and of every installed peer.

    Workloads: short-fixed (512 tokens), short-variable (N(256, 64)), long-fixed (8,192),
    long-variable (N(4096, 1024)), queries (16 to 64), latency (one query of 16).

    Systems: motherbird, transformers, transformers-sorted, openvino, openvino-dynamic, onnxruntime,
    llama.cpp, sentence-transformers, and the other models of the paper's table: bert, roberta,
    deberta-v3, nomic-bert, gte. Each runs in a process of its own, and its vectors are checked
    before it is measured; if one cannot run, the table says why. Install the peers with
    pip install -c constraints.txt '.[bench]'.

    With --json: {"machine", "model", "roofline_tflops": {"float32", "bfloat16", "int8"},
    "roofline_runs", "rows": [{"system", "workload", "dtype", "batch", "batch_of", "documents",
    "tokens_per_s", "ms", "spread", "repeats", "tried", "peak_mb", "loaded_mb", "roofline_fraction",
    "correct", "cosine", "compared_with", "reason"}], "seconds", "finished"}. "spread" is (largest -
    smallest) / median, "ms" the median call of the latency workload, "roofline_fraction" the
    throughput relative to this machine's fastest matmuls, "cosine" the smallest of the check.
    """
    inputs = options.directories(model) if Path(model).is_dir() else []
    path = None if out is None else options.output_file(out, inputs, "--out", ".json")
    from .. import machine
    from ..bench import cpu as bench
    from ..bench import report
    from ..files import write_text

    selected = bench.Options(
        model, bench.parse_workloads(workloads), bench.parse_systems(systems), repeats, minutes,
        threads or machine.physical_cores(),
    )  # fmt: skip

    def on_result(document: dict[str, Any]) -> None:
        if path is not None:
            write_text(path, json.dumps(document, indent=1, allow_nan=False) + "\n")

    start = time.monotonic()
    with progress("measuring", total=bench.steps(selected)) as advance:

        def on_step(line: str, steps: int) -> None:
            advance(steps, line)
            if line and not is_terminal():
                click.echo(f"{time.monotonic() - start:6.0f} s  {line}", err=True)

        document = bench.run(selected, on_step, on_result)
    print_result(document, report.plain(document), json_)


@command.command(name="report", short_help="Write results into a page as tables and charts.")
@click.argument("files", metavar="FILE.json...", nargs=-1, required=True)
@click.option("--page", required=True, metavar="PAGE.md",
              help="Markdown page; the tables between its two markers are replaced.")  # fmt: skip
@options.as_json
def report_(files: tuple[str, ...], page: str, json_: bool) -> None:
    """Write results of `bench cpu --out` into a page as tables, with charts in its directory.

    The tables are written between the comments "tables: start" and "tables: end" of the page; the
    rest of it is kept.

    With --json: {"page", "charts"}.
    """
    from ..bench import report
    from ..errors import InputError
    from ..files import write_file, write_text

    path = options.output(page, list(files))
    documents = [report.read(Path(file)) for file in files]
    try:
        before = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the page cannot be read", page, "use a Markdown file") from error
    charts = [report.chart_name(document) for document in documents]
    text = report.into_page(before, report.markdown(documents, charts), page)
    for document, name in zip(documents, charts, strict=True):
        write_file(path.parent / name, partial(report.chart, document))
    write_text(path, text)
    value = {"page": page, "charts": [str(path.parent / name) for name in charts]}
    text = f"{len(documents)} results in {page}, charts in {', '.join(charts)}"
    print_result(value, text, json_)
