"""``motherbird finetune``."""

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import options
from .finetune_multitask import multitask
from .finetune_vectors import dense, late
from .output import print_json, progress
from .training import Display, listed, max_length, metrics_line, read_settings, settings_options

if TYPE_CHECKING:
    from ..data.labelled import Labelled
    from ..train.tuning import FineTuning
    from ..train.tuning_plan import Parts

    Read = Callable[[str, Labelled | None], Labelled]  # of a file; see `read_parts`
F = TypeVar("F", bound=Callable[..., Any])


@click.group(name="finetune")
def command() -> None:
    """Fine-tune a model on labelled texts, tagged words, pairs of texts, or for search."""


def _gigabytes(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    """Read "8GB", "500MB" or a number of GB."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*(MB|GB)?\s*", value or "0", re.IGNORECASE)
    if found is None:
        raise click.BadParameter(f"{value!r} is not a size such as 8GB or 500MB.")
    gigabytes = float(found[1]) / (1000 if (found[2] or "").upper() == "MB" else 1)
    return None if value is None else gigabytes


def training_options(function: F) -> F:
    """Add the options of all commands that fine-tune."""
    for option in reversed([
        click.option("--train", required=True, metavar="FILE",
                     help="Labelled data: .jsonl, .csv, .tsv, .parquet, or a dataset directory of "
                     "the library datasets."),
        click.option("--dev", metavar="FILE",
                     help="Data by which the best epoch is chosen (default: a tenth of --train)."),
        click.option("--test", metavar="FILE", help="Data that is evaluated at the end."),
        click.option("--model", metavar="MODEL",
                     help="The model to start from: the included motherbird-nano (default), a "
                     "directory, or owner/name on the Hub."),
        click.option("--out", required=True, metavar="DIR", help="Directory of the new model."),
        click.option("--epochs", type=click.IntRange(1), metavar="N",
                     help="Largest number of passes over the data (default: 3 to 15, by size)."),
        click.option("--lr", type=float, metavar="RATE",
                     help="Peak learning rate (default: by the size of the model)."),
        click.option("--batch-size", type=click.IntRange(1), metavar="N",
                     help="Texts of a step (default: 32)."),
        max_length,
        click.option("--max-memory", metavar="SIZE", callback=_gigabytes,
                     help="Limit of memory, such as 8GB: smaller micro-batches and gradient "
                     "checkpointing, where needed (default: none)."),
        *settings_options("patience=5"),
    ]):  # fmt: skip
        function = option(function)
    return function


def _task_options(function: F) -> F:
    """Add the options of all tasks."""
    for option in (
        click.option("--trials", type=click.IntRange(1), metavar="N",
                     help="Number of random trials (default: all combinations)."),
        click.option("--search", "searched", multiple=True, metavar="KEY=VALUES",
                     help="Try several values of a setting: lr=1e-4,3e-4 or, with --trials, "
                     "lr=1e-5..1e-3; repeatable. The best by dev is kept."),
        training_options,
        click.option("--label", metavar="NAME", callback=options.not_empty,
                     help="Column of the labels (default: found by its name)."),
    ):  # fmt: skip
        function = option(function)
    return function


_few_shot = click.option(
    "--few-shot", is_flag=True, default=None,
    help="For 8 to 64 texts of each label: contrastive training, then a logistic regression, as "
    "SetFit does.",
)  # fmt: skip


@command.command(name="classify")
@click.option("--text", metavar="NAME", callback=options.not_empty,
              help="Column of the texts (default: found by its name).")  # fmt: skip
@_few_shot
@_task_options
def classify(**given: Any) -> None:
    """Fine-tune a model that labels texts, with one label or several.

    \b
    motherbird finetune classify --train train.csv --out model
    motherbird finetune classify --train train.jsonl --dev dev.jsonl --model BASE --out model

    A label is a text, a number or a boolean; a list of texts is any number of labels. Without
    --dev, a tenth of --train is set aside, the same for the same seed.

    The model card (README.md) and report.html in --out show metrics, data and errors. The same
    command resumes a run that was stopped or killed, with the same result. With --json:
    {"dev": {"accuracy", "macro_f1", "mcc", "auc", "loss"}, "test", "seconds", "model", "epoch",
    "labels", ...}; "auc" is that of the second label of two, or the mean of any number of labels.
    """  # noqa: D301
    _run("classify", **given)


@command.command(name="tag")
@click.option("--text", metavar="NAME", callback=options.not_empty,
              help="Column of the words (default: found by its name).")  # fmt: skip
@_task_options
def tag(**given: Any) -> None:
    """Fine-tune a model that tags words, such as names of people.

    \b
    motherbird finetune tag --train train.jsonl --out model

    A row has a list of words and a list of their tags, in BIO, IOB1, BIOES or without prefixes. The
    model has BIO tags where the data has prefixes.

    The model card (README.md) and report.html in --out show metrics, data and errors. The same
    command resumes a run that was stopped or killed, with the same result. With --json:
    {"dev": {"entity_f1", "accuracy", "loss"}, "test", "seconds", "model", "epoch", "labels", ...}.
    """  # noqa: D301
    _run("tag", **given)


@command.command(name="score")
@click.option("--text", metavar="NAME", callback=options.not_empty,
              help="Column of the first text (default: found by its name).")  # fmt: skip
@click.option("--pair", metavar="NAME", callback=options.not_empty,
              help="Column of the second text (default: found by its name).")  # fmt: skip
@_few_shot
@_task_options
def score(**given: Any) -> None:
    """Fine-tune a model that scores or labels pairs of texts.

    \b
    motherbird finetune score --train pairs.tsv --out model
    motherbird finetune score --train faq.tsv --text question --pair answer --out model

    Numbers are learned by regression. Names, such as "entailment", are labels. Integers are labels
    in a column called label, labels, intent, category, target or class, and numbers in others.

    The model card (README.md) and report.html in --out show metrics, data and errors. The same
    command resumes a run that was stopped or killed, with the same result. With --json:
    {"dev": {"spearman", "loss"} or as of classify, "test", "seconds", "model", "epoch", "labels",
    ...}.
    """  # noqa: D301
    _run("score", **given)


def _run(
    task: str, train: str, dev: str | None, test: str | None, out: str, device: str, json_: bool,
    searched: tuple[str, ...], trials: int | None, text: str | None = None,
    pair: str | None = None, label: str | None = None, **settings: Any,
) -> None:  # fmt: skip
    if trials is not None and not searched:
        raise click.UsageError("--trials needs --search.")
    files = [path for path in (train, dev, test) if path is not None]
    recipe = read_recipe(task, **settings)
    directory = options.output(out, [*options.directories(recipe.model), *files])
    from ..train.finetune import finetune
    from ..train.search import parse, search
    from ..train.tuning_run import check_output

    space = parse(searched)
    check_output(directory)
    parts = read_parts((train, dev, test), _read(recipe, text, pair, label), recipe.seed)
    quiet = json_ or not options.is_main_process()
    if not quiet:
        show_parts(parts)
    with progress("", total=1.0, quiet=quiet) as update:
        display = Display(quiet, update)
        if space:
            found = search(
                recipe, space, trials, parts, directory, device=device,
                on_trial=display.trial, on_plan=display.plan, on_start=display.start,
                on_step=display.step,
            )  # fmt: skip
        else:
            found = finetune(
                recipe, parts, directory, device=device, on_plan=display.plan,
                on_start=display.start, on_step=display.step,
            )  # fmt: skip
    if not options.is_main_process():
        return
    if json_:
        print_json({"model": str(directory), **found})
        return
    for number, row in enumerate(found.get("trials", ()), 1):
        click.echo(f"trial {number}: {listed(row['settings'])}: {metrics_line(row['dev'])}")
    for name in ("dev", "test"):
        if name in found:
            click.echo(f"{name}: {metrics_line(found[name])}")
    click.echo(f"{directory}: epoch {found['epoch']}, {found['seconds']:.0f} s")


def read_recipe(
    task: str, recipe: str | None, changes: tuple[str, ...], **given: Any
) -> "FineTuning":
    """Return the settings of the options, over those of a recipe."""
    from ..train.tuning import FineTuning

    own = {key: value for key, value in given.items() if value is not None}
    return read_settings(FineTuning, recipe, changes, own, task)


def _read(recipe: "FineTuning", text: str | None, pair: str | None, label: str | None) -> "Read":
    """Return what reads a file of labelled texts, and checks that of train."""
    from ..data.columns import Columns
    from ..data.labelled import check_training, read_labelled

    def read(file: str, train: "Labelled | None") -> "Labelled":
        kind = None if train is None else train.kind
        found = read_labelled(file, recipe.task, Columns(text, pair, label), kind)
        if train is None:
            check_training(found, file)
        return found

    return read


def read_parts(files: tuple[str, str | None, str | None], read: "Read", seed: int) -> "Parts":
    """Return the parts of labelled data.

    Args:
        files: of train, dev and test. Without one of dev, a tenth of train is set aside.
        read: reads a file; it is given the data of train, and None for train itself.
        seed: decides what is set aside.
    """
    from ..data.labelled import split_off
    from ..train.finetune import DEV
    from ..train.tuning_plan import Parts

    train = read(files[0], None)
    dev, test = (None if file is None else read(file, train) for file in files[1:])
    if dev is None:
        train, dev = split_off(train, DEV, seed)
    names = {
        part: Path(file).name
        for part, file in zip(("train", "dev", "test"), files, strict=True)
        if file is not None
    }
    sources = {"dev": f"{DEV:.0%} of {names['train']}", **names}
    return Parts(train, dev, test, sources, shlex.join(["motherbird", *sys.argv[1:]]))


def show_parts(parts: "Parts") -> None:
    """Say what the labelled texts contain."""
    from ..data.description import describe

    about = describe(parts.train, parts.dev, parts.test)
    for line in (*about.lines(), *about.warnings()):
        click.echo(line, err=True)


command.add_command(dense)
command.add_command(late)
command.add_command(multitask)
