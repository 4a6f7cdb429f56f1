"""``motherbird bench``: measured against the peers, on this machine."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import click

from . import options
from .output import is_terminal, print_json, progress


@click.group(name="bench")
def command() -> None:
    """Measure motherbird against its peers on this machine."""


@command.command(name="cpu")
@click.option("--workload", metavar="LIST", help="Some of the workloads, with commas between.")
@click.option("--systems", metavar="LIST",
              help="Some of the systems: name or name/dtype, with commas between.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(1, 1000), default=3, show_default=True,
              metavar="N", help="Runs of every figure; slow ones may get fewer.")  # fmt: skip
@click.option("--model", default="base", show_default=True, metavar="MODEL",
              help="base, large, mini, nano (random weights), or a model's folder.")  # fmt: skip
@click.option("--minutes", type=click.FloatRange(1, 24 * 60), default=45.0, show_default=True,
              metavar="M", help="How long it may take; documents follow from that.")  # fmt: skip
@click.option("--out", metavar="FILE.json",
              help="Also write the JSON here, after every workload.")  # fmt: skip
@options.threads
@options.as_json
def cpu(
    workload: str | None,
    systems: str | None,
    repeats: int,
    model: str,
    minutes: float,
    out: str | None,
    threads: int | None,
    json_: bool,
) -> None:
    """Measure tokens a second, latency and memory of motherbird and of every installed peer.

    Workloads: short-fixed (512 tokens), short-variable (N(256, 64)), long-fixed (8,192),
    long-variable (N(4096, 1024)), queries (16 to 64), latency (one query of 16).

    Systems: motherbird, transformers, transformers-sorted, openvino, openvino-dynamic, onnxruntime,
    sentence-transformers, and the other models of the paper's table: bert, roberta, deberta-v3,
    nomic-bert, gte. Each runs in a process of its own and is checked before it is timed; one that
    cannot run is listed with the reason. The peers come with pip install 'motherbird[bench]'.

    With --json: {"machine", "model", "ceiling_tflops": {"float32", "bfloat16", "int8"},
    "ceiling_runs", "rows": [{"system", "workload", "dtype", "batch", "batch_of", "documents",
    "tokens_per_s", "ms", "spread", "repeats", "tried", "peak_mb", "loaded_mb", "ceiling_share",
    "correct", "cosine", "compared_with", "reason"}], "seconds", "finished"}. "spread" is (largest -
    smallest) / median, "ms" the median call of the latency workload, "ceiling_share" the share of
    what this machine's best products give, "cosine" the worst of the check.
    """
    from ..errors import InputError

    path = None
    if out is not None:
        path = options.output(out, [model] if Path(model).is_dir() else [])
        if path.is_dir():
            raise InputError("--out is a folder", out, "name a file in it")
    from .. import machine
    from ..bench import cpu as bench
    from ..bench import report
    from ..files import write_file

    chosen = bench.Options(
        model,
        bench.named_workloads(workload),
        bench.named_systems(systems),
        repeats,
        minutes,
        threads or machine.physical_cores(),
    )

    def keep(document: dict[str, Any]) -> None:
        text = json.dumps(document, indent=1, allow_nan=False) + "\n"

        def write(temporary: Path) -> None:
            temporary.write_text(text, encoding="utf-8")

        if path is not None:
            write_file(path, write)

    start = time.monotonic()
    with progress("measuring", total=bench.steps(chosen)) as advance:

        def on_step(line: str, steps: int) -> None:
            advance(steps, line)
            if line and not is_terminal():
                click.echo(f"{time.monotonic() - start:6.0f} s  {line}", err=True)

        document = bench.run(chosen, on_step, keep)
    if json_:
        print_json(document)
    else:
        click.echo(report.plain(document))


@command.command(name="report")
@click.argument("files", metavar="FILE.json...", nargs=-1, required=True)
@click.option("--page", required=True, metavar="PAGE.md",
              help="Its tables, between two markers, are written anew.")  # fmt: skip
@options.as_json
def report_(files: tuple[str, ...], page: str, json_: bool) -> None:
    """Turn results of `bench cpu --out` into the tables of a page, and into charts beside it.

    The page has two comments, of which the rest is left alone: "tables: start" and "tables: end".

    With --json: {"page", "charts"}.
    """
    from ..bench import report
    from ..errors import InputError
    from ..files import write_file

    path = options.output(page, list(files))
    documents = [report.read(Path(file)) for file in files]
    try:
        before = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the page cannot be read", page, "name a Markdown file") from error
    charts = [report.chart_name(document) for document in documents]
    text = report.into_page(before, report.markdown(documents, charts), page)

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    for document, name in zip(documents, charts, strict=True):
        write_file(path.parent / name, partial(report.chart, document))
    write_file(path, write)
    if json_:
        print_json({"page": page, "charts": [str(path.parent / name) for name in charts]})
    else:
        click.echo(f"{len(documents)} results in {page}, charts in {', '.join(charts)}")
