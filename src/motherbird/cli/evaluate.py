"""``motherbird evaluate``: evaluate a model on a task."""

import json
import time
from dataclasses import asdict
from typing import Any

import click

from ..core.hub import NANO
from ..errors import counted
from . import options
from .output import print_json, progress


@click.group(name="evaluate")
def command() -> None:
    """Evaluate a model: masked-LM loss (lm), search (retrieval), or fine-tuned on GLUE (glue)."""


@command.command(name="lm")
@options.model
@click.option("--data", required=True, metavar="DIR", help="A dataset from motherbird prepare.")
@click.option("--seq-len", type=click.IntRange(8), default=1024, show_default=True, metavar="N",
              help="Tokens per row; the dataset has to be prepared for it.")  # fmt: skip
@click.option("--tokens", type=click.IntRange(1), default=200_000, show_default=True, metavar="N",
              help="Maximum number of tokens per source.")  # fmt: skip
@click.option("--masking", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.15,
              show_default=True, metavar="FRACTION", help="Fraction of masked tokens.")  # fmt: skip
@options.loading
@options.as_json
def lm(
    model: str,
    data: str,
    seq_len: int,
    tokens: int,
    masking: float,
    json_: bool,
    **load: Any,  # options of `MaskedLM.load`
) -> None:
    """Measure masked-LM loss and accuracy on held-out text, by source.

    \b
    motherbird evaluate lm --model model --data dataset

    The text is what motherbird prepare --eval held out; the masks are always the same. "unigram" is
    the loss of predicting by the text's token frequencies; "gain" is "unigram" minus "loss".

    With --json: {"model", "data", "seq_len", "masking", "sources": {name: {"loss", "accuracy",
    "masked", "unigram", "bytes_per_token", "nats_per_byte"}}}; losses in nats per token,
    "all" last. Where no token is masked, "masked" is 0 and the other values are null (in the table
    "-").
    """  # noqa: D301
    from ..data.prepared import PreparedDataset
    from ..errors import HeadError
    from ..nn.heads import MaskedLM
    from ..train.evaluation import evaluate_by_source

    prepared = PreparedDataset(data)
    try:
        loaded = MaskedLM.load(model, **load)
    except HeadError as error:
        how = "use one with a masked-LM head"
        raise HeadError("this model cannot predict tokens", error.where, how) from error
    sources: dict[str, dict[str, float | None]] = {}
    found = evaluate_by_source(
        loaded, prepared, seq_len, tokens=tokens, rate=masking, model_name=model
    )
    with progress("evaluating", total=len(prepared.about.sources) + 1, quiet=json_) as advance:
        for name, each in found:
            advance(1, name)
            if not json_ and not sources:
                click.echo(f"{'source':<22}{'loss':>8}{'gain':>8}{'accuracy':>10}{'masked':>9}")
            sources[name] = {**asdict(each), "nats_per_byte": each.nats_per_byte}
            if not json_:
                loss, gain = (_shown(value, ".3f") for value in (each.loss, each.gain))
                accuracy = _shown(each.accuracy, ".1%")
                click.echo(f"{name:<22}{loss:>8}{gain:>8}{accuracy:>10}{each.masked:>9,}")
    if json_:
        print_json(
            {"model": model, "data": data, "seq_len": seq_len, "masking": masking,
             "sources": sources}
        )  # fmt: skip


@command.command(name="glue")
@click.option(
    "--model",
    default=NANO,
    show_default=True,
    metavar="MODEL",
    help="The model that is fine-tuned: a directory, or owner/name on the Hub.",
)
@click.option(
    "--out",
    required=True,
    metavar="DIR",
    callback=options.not_empty,
    help="Directory of the fine-tuned models and of glue.json.",
)
@click.option(
    "--data",
    metavar="DIR",
    callback=options.not_empty,
    help="A directory with a directory for each task: train and validation or dev, as "
    ".jsonl, .csv, .tsv, .parquet or datasets (default: nyu-mll/glue of the Hub).",
)
@click.option("--tasks", metavar="A,B,...", help="Names of tasks (default: all eight).")
@click.option(
    "--trials",
    type=click.IntRange(1),
    metavar="N",
    help="Number of random trials for each task (default: all 48 of the paper's grid).",
)
@click.option(
    "--search",
    "searched",
    multiple=True,
    metavar="KEY=VALUES",
    help="Values to try instead of the paper's, as of motherbird finetune; repeatable.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a setting of all trials, such as batch_size=32; repeatable.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Random seed.",
)
@options.device
@options.threads
@options.as_json
def glue(
    model: str, out: str, data: str | None, tasks: str | None, trials: int | None,
    searched: tuple[str, ...], changes: tuple[str, ...], seed: int, device: str, json_: bool,
) -> None:  # fmt: skip
    """Fine-tune and evaluate a model on the tasks of GLUE.

    The protocol is that of the paper, whose results are printed below for comparison.

    \b
    motherbird evaluate glue --model MODEL --out glue --device cuda
    motherbird evaluate glue --out glue --data GLUE --tasks rte,cola --trials 4

    For each of cola, sst2, qqp, mnli, qnli, mrpc, stsb and rte, the result is that of the best of
    48 trials on the development set: Matthews correlation for cola, Spearman correlation for stsb,
    accuracy for the others. If mnli is evaluated, mrpc, stsb and rte start from its model. The same
    command resumes.

    With --json: {"model", "seed", "tasks": {name: {"metric", "value", "dev", "settings", "trials",
    "from", "seconds"}}, "mean"}; "from" is "mnli" or "model", "mean" in percent, or null without
    all tasks.
    """  # noqa: D301
    from pathlib import Path

    from .. import strict
    from ..train import glue as tasks_of_glue
    from ..train.search import parse

    directory = options.output(out, [*options.directories(model), *([data] if data else [])])
    settings: dict[str, Any] = {}
    for change in changes:
        strict.change(settings, change)
    names = tuple(tasks_of_glue.TASKS)
    if tasks is not None:
        names = tuple(name.strip() for name in tasks.split(","))

    def say(text: str) -> None:
        if not json_:
            click.echo(text, err=True)

    def of_trial(number: int, of: int, own: dict[str, Any]) -> None:
        say(f"  trial {number} of {of}: " + ", ".join(f"{k}={v}" for k, v in own.items()))

    report = tasks_of_glue.evaluate(
        model, None if data is None else Path(data), directory, tasks=names, seed=seed,
        space=parse(searched) or None, trials=trials, device=device, settings=settings,
        on_task=lambda name, parts: say(f"{name}: {len(parts.train.texts):,} texts"),
        on_trial=of_trial,
    )  # fmt: skip
    if json_:
        print_json(report)
        return
    for row in tasks_of_glue.table(report):
        click.echo(f"{row[0]:<22}" + "".join(f"{value:>8}" for value in row[1:]))


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


@command.command(name="retrieval")
@click.option("--data", required=True, metavar="DIR", callback=options.not_empty,
              help="A retrieval set in the layout of BEIR, or a directory of several.")  # fmt: skip
@click.option("--split", default="test", show_default=True, metavar="SPLIT",
              callback=options.not_empty,
              help="The judgements, qrels/SPLIT.tsv; of dev,train the first that is there.",
              )  # fmt: skip
@click.option("--mode", "modes", default="bm25,dense,hybrid", show_default=True, metavar="A,B,...",
              help="Ways of searching: bm25, dense (vectors of --model), hybrid (both).",
              )  # fmt: skip
@click.option("--model", default=NANO, show_default=True, metavar="MODEL",
              help="A model of motherbird, static vectors, or a model of sentence-transformers: a "
              "directory, or owner/name on the Hub.")  # fmt: skip
@click.option("--max-queries", type=click.IntRange(1), metavar="N",
              help="Queries of a set, the first ones (default: all).")  # fmt: skip
@click.option("--out", metavar="FILE", callback=options.not_empty,
              help="A .jsonl file with the metrics of each query.")  # fmt: skip
@options.loading
@options.as_json
def retrieval(
    data: str, split: str, modes: str, model: str, max_queries: int | None, out: str | None,
    json_: bool, **load: Any,  # options of `Embedder.load`
) -> None:  # fmt: skip
    """Measure how well a model finds documents, beside BM25 and both together.

    \b
    motherbird evaluate retrieval --data scifact --split test --model DIR
    motherbird evaluate retrieval --data sets --split dev,train --mode dense --model DIR --json

    A set has corpus.jsonl (_id, title, text), queries.jsonl (_id, text), also as .jsonl.gz, and
    qrels/SPLIT.tsv (query-id, corpus-id, score). Documents are ranked by the cosine of vectors, by
    BM25, or by the sum of 1 / (60 + rank) over both. Texts longer than the model's limit are
    truncated. The metrics are nDCG@10, recall@100 and MRR@10, see docs/evaluation.md.

    With several modes, differences from the first one have 95% intervals (paired bootstrap).

    With --json: {"model", "sets": [{"dataset", "split", "documents", "queries", "without",
    "empty", "modes": {mode: {"nDCG@10", "recall@100", "MRR@10"}}, "differences": {mode: {"mean",
    "low", "high"}}}], "mean": {mode: {"nDCG@10", "recall@100", "MRR@10"}}, "seconds"}. "without"
    are queries without a relevant document, which are left out, and "empty" documents without
    text. "differences" are those of nDCG@10.
    """  # noqa: D301
    from ..files import write_file
    from ..retrieval.embedders import open_embedder
    from ..retrieval.evaluate import check_modes, evaluate
    from ..retrieval.measure import METRICS, interval, means
    from ..retrieval.sets import find_sets, read_set

    chosen = check_modes(modes)
    path = None if out is None else options.output_file(out, [data, model], "--out", ".jsonl")
    start = time.perf_counter()
    found = [read_set(directory, split, max_queries) for directory in find_sets(data)]
    embed = None if chosen == ["bm25"] else open_embedder(model, **load)
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    if not json_:
        click.echo(f"{'nDCG@10':<22}{'documents':>10}{'queries':>9}"
                   + "".join(f"{mode:>9}" for mode in chosen))  # fmt: skip
    with progress("evaluating", total=len(found), quiet=json_) as advance:
        for own in found:
            values = evaluate(own, chosen, embed)
            first, *others = chosen
            differences = {
                mode: dict(zip(("mean", "low", "high"),
                               interval(values[mode][METRICS[0]], values[first][METRICS[0]]),
                               strict=True))
                for mode in others
            }  # fmt: skip
            rows.append({
                "dataset": own.name, "split": own.split, "documents": len(own.documents),
                "queries": len(own.queries), "without": own.without, "empty": own.empty,
                "modes": {mode: means(values[mode]) for mode in chosen},
                "differences": differences,
            })  # fmt: skip
            for number, query in enumerate(own.query_ids):
                each = {mode: {n: v[number] for n, v in values[mode].items()} for mode in chosen}
                lines.append(json.dumps({"dataset": own.name, "query": query, "modes": each}))
            advance(1, own.name)
            if not json_:
                _show_set(rows[-1], chosen)
    mean = {
        mode: means({name: [row["modes"][mode][name] for row in rows] for name in METRICS})
        for mode in chosen
    }
    if path is not None:
        write_file(path, lambda file: file.write_text("\n".join(lines) + "\n", encoding="utf-8"))
    if json_:
        print_json({"model": None if embed is None else model, "sets": rows, "mean": mean,
                    "seconds": round(time.perf_counter() - start, 3)})  # fmt: skip
    elif len(rows) > 1:
        click.echo(f"{'mean':<41}" + "".join(f"{mean[m][METRICS[0]]:>9.4f}" for m in chosen))


def _show_set(row: dict[str, Any], modes: list[str]) -> None:
    values = "".join(f"{row['modes'][mode]['nDCG@10']:>9.4f}" for mode in modes)
    click.echo(f"{row['dataset']:<22}{row['documents']:>10,}{row['queries']:>9,}{values}")
    for mode, own in row["differences"].items():
        click.echo(f"  {mode} - {modes[0]}: {own['mean']:+.4f} ({own['low']:+.4f} to "
                   f"{own['high']:+.4f})")  # fmt: skip
    if row["without"]:
        what = counted(row["without"], "query", "queries")
        click.echo(f"  {what} without a relevant document left out")
