"""``motherbird tag``."""

from typing import TYPE_CHECKING, Any

import click

from . import options, texts
from .texts import Results

if TYPE_CHECKING:
    from ..data.readers import Document

KEYS = ("label", "text", "start", "end", "probability")  # of a span


@click.command(name="tag")
@texts.of_file
@click.option("--column", metavar="NAME", callback=options.not_empty,
              help="The column or field of a table with the texts (default: text).")  # fmt: skip
def command(
    file: str,
    model: str,
    column: str | None,
    out: str | None,
    max_length: int | None,
    truncate: bool,
    json_: bool,
    **load: Any,  # options of `Tagger.load`
) -> None:
    """Find labelled spans in each text of FILE, as JSON lines in the order of the texts.

    A .csv, .tsv, .jsonl or .parquet file has a text in --column of each row; in any other file,
    every line is a text. - is standard input. Results are written after every 2,048 texts.

    \b
    motherbird tag articles.jsonl --model DIR --column body --out names.jsonl
    echo "Ada Lovelace lived in London." | motherbird tag - --model DIR

    A line is {"spans": [{"label", "text", "start", "end", "probability"}]}, where "start" and "end"
    count characters from 0. At the end there is a summary, on standard error without --out.

    The summary with --json: {"out", "texts", "truncated", "labels", "model", "revision", "dtype",
    "seconds"}, where "labels" are the counts of spans.
    """  # noqa: D301
    path = texts.check_out(file, model, out)
    items = texts.read_texts(file, column)
    from ..models.tagger import Tagger

    tagger = Tagger.load(model, **load)

    def compute(group: "list[Document]") -> Results:
        words, truncated = tagger.tokenize_words(
            [text.text for text in group], max_length=max_length, truncate=truncate,
            names=[text.source for text in group],
        )  # fmt: skip
        found = tagger.tag_words(words)
        rows = [
            {"spans": [{key: texts.rounded(getattr(span, key)) for key in KEYS} for span in spans]}
            for spans in found
        ]
        return Results(rows, truncated, [span.label for spans in found for span in spans])

    about = {"model": model, "revision": load["revision"], "dtype": tagger.model.dtype}
    texts.stream(items, lambda text: len(text.text), compute, path, about, json_)
