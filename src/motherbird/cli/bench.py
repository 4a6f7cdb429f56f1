"""``motherbird bench``: measured against the peers, on this machine."""

import json
import time
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

    Systems: motherbird, transformers, transformers-sorted, openvino, onnxruntime,
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
    path = options.output(out, []) if out is not None else None
    from ..bench import cpu as bench
    from ..bench import machine, report
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
