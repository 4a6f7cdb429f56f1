"""``motherbird evaluate mteb``."""

import time
from typing import Any

import click

from ..core.hub import NANO
from . import options
from .output import print_json


@click.command(name="mteb")
@click.option("--tasks", required=True, metavar="A,B,...", callback=options.not_empty,
              help="Retrieval tasks of mteb, or benchmarks of such tasks.")  # fmt: skip
@click.option("--model", default=NANO, show_default=True, metavar="MODEL",
              help="A model of motherbird, static vectors, or a model of sentence-transformers: a "
              "directory, or owner/name on the Hub.")  # fmt: skip
@click.option("--mode", type=click.Choice(["dense", "late"]), default="dense", show_default=True,
              help="What --model computes: vectors of texts, or of tokens.")  # fmt: skip
@click.option("--out", required=True, metavar="DIR", callback=options.not_empty,
              help="Directory of the results, in the layout of mteb.")  # fmt: skip
@options.loading
@options.as_json
def mteb(
    tasks: str, model: str, mode: str, out: str, json_: bool,
    **load: Any,  # options of `Embedder.load`
) -> None:  # fmt: skip
    """Evaluate a model on retrieval tasks of the library mteb.

    \b
    motherbird evaluate mteb --tasks NanoBEIR --model DIR --out results
    motherbird evaluate mteb --tasks SciFact,NFCorpus --model DIR --mode late --out results

    mteb downloads the data from the Hugging Face Hub. Texts longer than the limit of a model of
    motherbird are computed in windows, as by motherbird evaluate retrieval; other models truncate
    them, and queries of late are truncated.

    With --json: {"model", "mode", "tasks": {name: score}, "mean", "seconds"}; a score is the main
    one of the task, which is nDCG@10 for most.
    """  # noqa: D301
    from pathlib import Path

    from ..retrieval.embedders import open_embedder, open_late
    from ..retrieval.mteb_tasks import MtebEncoder, evaluate, find_tasks

    directory = options.output(out, options.directories(model))
    start = time.perf_counter()
    found = find_tasks(tasks)
    late = mode == "late"
    embed = open_late(model, **load) if late else open_embedder(model, windows=True, **load)
    name = f"motherbird/{Path(model).resolve().name}" if Path(model).is_dir() else model
    encoder = MtebEncoder(name, load["revision"], embed, late=late)
    results: dict[str, float] = {}
    for task, score in evaluate(encoder, found, directory):
        results[task] = score
        if not json_:
            click.echo(f"{task:<40}{score:>8.4f}")
    mean = sum(results.values()) / len(results)
    if json_:
        print_json({"model": model, "mode": mode, "tasks": results, "mean": mean,
                    "seconds": round(time.perf_counter() - start, 3)})  # fmt: skip
    elif len(results) > 1:
        click.echo(f"{'mean':<40}{mean:>8.4f}")
