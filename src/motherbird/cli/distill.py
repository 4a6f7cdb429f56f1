"""``motherbird distill``."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..core.hub import NANO
from ..errors import InputError
from . import options
from .output import print_json, progress
from .training import Display, print_trained, read_settings, settings_options

F = TypeVar("F", bound=Callable[..., Any])


@click.group(name="distill")
def command() -> None:
    """Make a small model that learns the vectors of a larger one."""


_teacher = click.option("--teacher", required=True, metavar="MODEL", callback=options.not_empty,
                        help="A model of sentence-transformers: a directory, or owner/name on the "
                        "Hub.")  # fmt: skip
_data = click.option("--data", multiple=True, required=True, metavar="FILE",
                     help="Texts to learn from: .jsonl, .csv, .tsv or .parquet, also compressed, "
                     "or a directory of datasets; repeatable.")  # fmt: skip
_out = click.option("--out", required=True, metavar="DIR", callback=options.not_empty,
                    help="Directory of the result.")  # fmt: skip
_columns = click.option("--column", "columns", multiple=True, metavar="NAME",
                        help="A column or field of texts; repeatable (default: usual names, such "
                        "as text, query, answer).")  # fmt: skip
_vectors = click.option("--vectors", metavar="DIR", callback=options.not_empty,
                        help="Directory in which the teacher's vectors are kept for other runs on "
                        "the same texts (default: they are removed at the end).")  # fmt: skip


def _directory_of_vectors(vectors: str | None, inputs: list[str]) -> Path | None:
    if vectors is None:
        return None
    path = options.output(vectors, inputs)
    if path.exists() and not path.is_dir():
        raise InputError("it is not a directory", vectors, "use another name for --vectors")
    return path


@command.command(name="static")
@_teacher
@_data
@_out
@click.option("--tokenizer", default=NANO, show_default=True, metavar="MODEL",
              callback=options.not_empty, help="A directory with tokenizer.json.")  # fmt: skip
@_columns
@click.option("--texts", type=click.IntRange(100), default=80_000, show_default=True, metavar="N",
              help="Number of texts, at most; equally many of each file.")  # fmt: skip
@click.option("--dimensions", type=click.IntRange(1), metavar="N",
              help="Dimensions of the vectors (default: those of the teacher).")  # fmt: skip
@click.option("--epochs", type=click.IntRange(1), default=4, show_default=True, metavar="N",
              help="Passes over the texts.")  # fmt: skip
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=5e-4, show_default=True,
              metavar="RATE", help="Learning rate at the beginning.")  # fmt: skip
@_vectors
@options.seed
@options.device
@options.threads
@options.as_json
def static(
    teacher: str, data: tuple[str, ...], out: str, tokenizer: str, vectors: str | None,
    device: str, json_: bool,
    **settings: Any,  # those of StaticTraining
) -> None:  # fmt: skip
    """Make static vectors: one for each token, and no network.

    \b
    motherbird distill static --teacher all-MiniLM-L6-v2 --data texts.jsonl --out static
    motherbird evaluate retrieval --data scifact --model static

    A text is the mean of the vectors of its tokens. The table begins as the teacher's vectors of
    the tokens, weighted by their frequency, and is trained so that the vectors of texts have the
    direction of the teacher's, and pairs of texts the same cosines. Questions, short queries and
    code among the texts matter more than many texts. Texts of more than 100 words are divided into
    passages of up to 200 words.

    The directory loads in motherbird.StaticEmbedder, sentence-transformers and model2vec. Its
    first dimensions vary most, and can be used alone. A command that was stopped or killed resumes
    when it is repeated: the teacher's vectors are kept.

    With --json: {"model", "cosine": {"before", "after"}, "documents", "dimensions", "seconds"}.
    "cosine" is the mean cosine with the teacher's vectors of held-out texts.
    """  # noqa: D301
    import time

    from ..train.vectors.static import StaticTraining, distill_static

    inputs = [*data, *options.directories(teacher, tokenizer)]
    directory = options.output_directory(out, inputs)
    kept = _directory_of_vectors(vectors, inputs)
    start = time.perf_counter()
    with progress("distilling", total=1.0, quiet=json_) as advance:
        found = distill_static(
            teacher, tokenizer, data, directory, StaticTraining(**settings), vectors=kept,
            device=device, on_part=advance,
        )  # fmt: skip
    result = {
        "model": str(directory), "cosine": found["cosine"], "documents": found["documents"],
        "dimensions": found["dimensions"], "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip
    if json_:
        print_json(result)
    else:
        cosine = found["cosine"]
        click.echo(f"{directory}: {found['documents']:,} texts, cosine with the teacher "
                   f"{cosine['before']:.3f} before and {cosine['after']:.3f} after training, "
                   f"{result['seconds']:.0f} s")  # fmt: skip


def _settings(function: F) -> F:
    for option in reversed(settings_options("cosines=0")):
        function = option(function)
    return function


@command.command(name="dense")
@_teacher
@_data
@_out
@click.option("--model", required=True, metavar="MODEL", callback=options.not_empty,
              help="The model to start from. Static vectors (see distill static): a new encoder "
              "begins as them, which learns faster than any other start that we tried.",
              )  # fmt: skip
@click.option("--preset", type=click.Choice(["nano", "mini", "base", "large"]),
              help="Configuration of an encoder that begins as static vectors (default: nano).",
              )  # fmt: skip
@_columns
@click.option("--texts", type=click.IntRange(100), metavar="N",
              help="Number of texts, at most; equally many of each file (default: 120000).",
              )  # fmt: skip
@click.option("--epochs", type=click.IntRange(1), metavar="N",
              help="Passes over the texts (default: 5).")  # fmt: skip
@click.option("--lr", type=click.FloatRange(0, min_open=True), metavar="RATE",
              help="Peak learning rate (default: 3e-4, less for a width above 320).",
              )  # fmt: skip
@click.option("--batch-size", type=click.IntRange(2), metavar="N",
              help="Texts of a step (default: 64).")  # fmt: skip
@_vectors
@_settings
def dense(
    data: tuple[str, ...], out: str, vectors: str | None, recipe: str | None,
    changes: tuple[str, ...], device: str, json_: bool, **given: Any,
) -> None:  # fmt: skip
    """Train an encoder to compute the vectors of a larger model.

    \b
    motherbird distill static --teacher all-MiniLM-L6-v2 --data texts.jsonl --out static
    motherbird distill dense --teacher all-MiniLM-L6-v2 --model static --data texts.jsonl --out DIR

    The student learns the teacher's vectors of texts, and the cosines of all pairs of a step.
    Nothing else of the teacher is used. Texts are chosen and divided as by distill static: up to
    200 words.

    The directory loads in motherbird.Embedder and in sentence-transformers. A command that was
    stopped or killed resumes when it is repeated, with the same result. finetune.json has the
    settings, and the mean cosine with the teacher on held-out texts after each epoch.

    With --json: {"model", "dev": {"cosine"}, "curve", "documents": {"train", "dev"}, "epoch",
    "seconds", ...}.
    """  # noqa: D301
    from ..train.tuning_run import check_output
    from ..train.vectors.distill import distill_dense
    from ..train.vectors.recipe import Distillation

    given = {key: value for key, value in given.items() if value not in (None, ())}
    settings = read_settings(Distillation, recipe, changes, given)
    inputs = [*data, *options.directories(settings.teacher, settings.model)]
    directory = options.output(out, inputs)
    check_output(directory)
    kept = _directory_of_vectors(vectors, inputs)
    quiet = json_ or not options.is_main_process()
    sources = {
        "train": ", ".join(Path(file).name for file in data),
        "command": shlex.join(["motherbird", *sys.argv[1:]]),
    }
    with progress("", total=1.0, quiet=quiet) as update:
        display = Display(quiet, update)
        found = distill_dense(
            settings, list(data), directory, vectors=kept, sources=sources, on_texts=display.texts,
            caller=display.caller(device),
        )  # fmt: skip
    print_trained(directory, found, json_)
