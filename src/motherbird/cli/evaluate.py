"""``motherbird evaluate``: evaluate a model on a task."""

from dataclasses import asdict
from typing import Any

import click

from ..core.hub import NANO
from . import options
from .evaluate_mteb import mteb
from .evaluate_search import search
from .output import print_json, progress
from .retrieval import retrieval


@click.group(name="evaluate")
def command() -> None:
    """Evaluate a model: masked-LM loss (lm), search (retrieval, mteb), or fine-tuned (glue).

    search measures motherbird search itself.
    """


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
    """Measure masked-LM loss and accuracy by source.

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


command.add_command(retrieval)
command.add_command(mteb)
command.add_command(search)
