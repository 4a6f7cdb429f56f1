"""``motherbird finetune dense`` and ``late``: training for retrieval."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from . import options
from .output import progress
from .training import Display, max_length, print_trained, read_settings, settings_options

F = TypeVar("F", bound=Callable[..., Any])


def _options(function: F) -> F:
    """Add the options of both commands."""
    for option in reversed([
        click.option("--train", "train", multiple=True, required=True, metavar="FILE",
                     help="Queries with documents: .jsonl, .csv, .tsv, .parquet, also compressed, "
                     "or a dataset directory of the library datasets; repeatable."),
        click.option("--dev", metavar="FILE",
                     help="Rows by which the best epoch is chosen (default: a twentieth of "
                     "--train, at most 500 queries)."),
        click.option("--model", required=True, metavar="MODEL", callback=options.not_empty,
                     help="The model to start from: a directory, owner/name on the Hub, or static "
                     "vectors, as which a new encoder begins."),
        click.option("--out", required=True, metavar="DIR", callback=options.not_empty,
                     help="Directory of the new model."),
        click.option("--query", metavar="NAME", callback=options.not_empty,
                     help="Column of the queries (default: query, anchor, question or premise)."),
        click.option("--document", metavar="NAME", callback=options.not_empty,
                     help="Column of a document that answers, or of a list of documents whose "
                     "first one does (default: positive, document, documents, answer, passage or "
                     "hypothesis)."),
        click.option("--negative", metavar="NAME", callback=options.not_empty,
                     help="Column of documents that do not answer (default: negative or "
                     "negatives)."),
        click.option("--queries", metavar="FILE", callback=options.not_empty,
                     help="Texts of queries (id, text), where --train has their ids (query_id)."),
        click.option("--documents", metavar="FILE", callback=options.not_empty,
                     help="Texts of documents (id, text), where --train has lists of their ids "
                     "(document_ids)."),
        click.option("--negatives", type=click.IntRange(0), metavar="N",
                     help="Such documents of a row, at most (default: all)."),
        click.option("--query-prompt", metavar="TEXT", callback=options.as_utf_8,
                     help="A text before every query; it is saved with the model."),
        click.option("--document-prompt", metavar="TEXT", callback=options.as_utf_8,
                     help="A text before every document."),
        click.option("--epochs", type=click.IntRange(1), metavar="N",
                     help="Passes over the rows (default: 3; 1 for 50,000 and more)."),
        click.option("--lr", type=click.FloatRange(0, min_open=True), metavar="RATE",
                     help="Peak learning rate (default: by the size of the model)."),
        click.option("--batch-size", type=click.IntRange(2), metavar="N",
                     help="Rows of a step (default: 64). More rows are more wrong documents for "
                     "each query."),
        max_length,
        click.option("--size", type=click.IntRange(1), metavar="N",
                     help="Dimensions of a vector (default: those of the model; 128 for a new "
                     "late-interaction model)."),
        *settings_options("temperature=0.02"),
    ]):  # fmt: skip
        function = option(function)
    return function


@click.command(name="dense")
@click.option("--dimensions", metavar="N,N,...", callback=options.not_empty,
              help="Numbers of first dimensions that can be used alone (Matryoshka).",
              )  # fmt: skip
@_options
def dense(dimensions: str | None, **given: Any) -> None:
    """Train a model for search by one vector for each text.

    \b
    motherbird finetune dense --train pairs.jsonl --model MODEL --out model
    motherbird evaluate retrieval --data scifact --mode dense --model model

    A row has a query, a document that answers it, and any number of documents that do not. The
    loss is the cross entropy of the right document among all documents of the step
    (multiple-negatives ranking loss). Documents of the same text do not count as wrong. A larger
    --batch-size needs no more memory.

    The directory loads in motherbird.Embedder and in sentence-transformers. The same command
    resumes a run that was stopped or killed, with the same result. With --json: {"model", "dev":
    {"MRR@10"}, "curve", "documents", "epoch", "seconds", ...}.
    """  # noqa: D301
    if dimensions is not None:
        numbers = [part.strip() for part in dimensions.split(",")]
        if not all(part.isascii() and part.isdigit() for part in numbers):
            raise click.UsageError(f"--dimensions {dimensions!r} is not a list such as 64,128.")
        given["dimensions"] = tuple(map(int, numbers))
    _run("dense", **given)


@click.command(name="late")
@click.option("--scores", metavar="NAME", callback=options.not_empty,
              help="Column of a list of scores of a teacher, one for each document (default: "
              "scores, score or labels).")  # fmt: skip
@click.option("--query-length", type=click.IntRange(8), metavar="N",
              help="Tokens of a query (default: those of the model, or --max-length).")  # fmt: skip
@click.option("--document-length", type=click.IntRange(8), metavar="N",
              help="Tokens of a document; a longer one has several windows in search (default: "
              "those of the model, or --max-length).")  # fmt: skip
@_options
def late(scores: str | None, **given: Any) -> None:
    """Train a model for search by a vector for each token.

    It is a late-interaction model, such as ColBERT.

    \b
    motherbird finetune late --train pairs.jsonl --model MODEL --out model
    motherbird evaluate retrieval --data scifact --mode late --model model

    The score of a document is the sum over the tokens of the query of the largest cosine with a
    token of the document. Without scores, the loss is the cross entropy of the right document
    among all documents of the step. With scores of a teacher, it is the divergence from them over
    the documents of a row, each scaled to 0..1. Without scores, memory grows with the square of
    --batch-size.

    The directory loads in motherbird.LateEmbedder, PyLate and sentence-transformers 6. The same
    command resumes a run that was stopped or killed, with the same result. With --json: {"model",
    "dev": {"MRR@10"} or {"accuracy"}, "curve", "documents", "epoch", "seconds", ...}; "accuracy" is
    how often the teacher's best document is first.
    """  # noqa: D301
    _run("late", scores=scores, **given)


def _run(
    task: str, train: tuple[str, ...], dev: str | None, out: str, query: str | None,
    document: str | None, negative: str | None, recipe: str | None, changes: tuple[str, ...],
    device: str, json_: bool, queries: str | None, documents: str | None,
    scores: str | None = None, **given: Any,
) -> None:  # fmt: skip
    from ..data.pairs import PairColumns, read_pairs, read_texts, split_off
    from ..errors import InputError
    from ..train.tuning_run import check_output
    from ..train.vectors.recipe import VectorTuning
    from ..train.vectors.tune import DEV, MOST_DEV, finetune_vectors

    own = {key: value for key, value in given.items() if value is not None}
    settings = read_settings(VectorTuning, recipe, changes, own, task)
    files = [*train, *(path for path in (dev, queries, documents) if path is not None)]
    directory = options.output(out, [*options.directories(settings.model), *files])
    check_output(directory)
    columns = PairColumns(query, document, negative, scores)
    texts = {
        name: None if path is None else read_texts(path)
        for name, path in (("queries", queries), ("documents", documents))
    }
    scored = task == "late"
    rows = read_pairs(train, columns, settings.negatives, **texts, scored=scored)
    sources = {"train": ", ".join(Path(file).name for file in train)}
    if dev is None:
        rows, held_out = split_off(rows, DEV, settings.seed, MOST_DEV)
        sources["dev"] = f"{len(held_out):,} rows of {sources['train']}"
    else:
        held_out = read_pairs([dev], columns, settings.negatives, **texts, scored=scored)
        sources["dev"] = Path(dev).name
        if bool(held_out.scores) != bool(rows.scores):
            raise InputError("only one of train and dev has scores", dev, "score both, or none")
    sources["command"] = shlex.join(["motherbird", *sys.argv[1:]])
    quiet = json_ or not options.is_main_process()
    with progress("", total=1.0, quiet=quiet) as update:
        display = Display(quiet, update)
        found = finetune_vectors(
            settings, rows, held_out, directory, sources=sources, caller=display.caller(device)
        )
    print_trained(directory, found, json_)
