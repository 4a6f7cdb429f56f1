"""``motherbird classify``."""

from typing import TYPE_CHECKING, Any

import click

from . import options, texts
from .texts import Results

if TYPE_CHECKING:
    from ..data.readers import Document


@click.command(name="classify")
@texts.of_file
@click.option("--column", metavar="NAME", callback=options.not_empty,
              help="The column or field of a table with the texts (default: text).")  # fmt: skip
@click.option("--all", "all_", is_flag=True, help="Write the probability of every label.")
def command(
    file: str,
    model: str,
    column: str | None,
    all_: bool,
    out: str | None,
    max_length: int | None,
    truncate: bool,
    json_: bool,
    **load: Any,  # options of `Classifier.load`
) -> None:
    """Predict the label of each text of FILE, as JSON lines in the order of the texts.

    A .csv, .tsv, .jsonl or .parquet file has a text in --column of each row; in any other file,
    every line is a text. - is standard input. Results are written after every 2,048 texts.

    \b
    motherbird classify reviews.csv --model DIR --column review --out labels.jsonl
    echo "A great film." | motherbird classify - --model DIR --all

    A line is {"label", "probability"}; "labels" has those that reach their threshold if the model
    predicts any number of them, and with --all "probabilities" has the probability of each label.
    At the end there is a summary, on standard error without --out.

    The summary with --json: {"out", "texts", "truncated", "labels", "model", "revision", "dtype",
    "seconds"}, where "labels" are the counts of predicted labels.
    """  # noqa: D301
    path = texts.check_out(file, model, out)
    items = texts.read_texts(file, column)
    from ..models.classifier import Classifier

    classifier = Classifier.load(model, **load)

    def compute(group: "list[Document]") -> Results:
        ids, truncated = classifier.tokenize(
            [text.text for text in group], max_length=max_length, truncate=truncate,
            names=[text.source for text in group],
        )  # fmt: skip
        return texts.label_results(classifier, ids, truncated, all_)

    about = {"model": model, "revision": load["revision"], "dtype": classifier.model.dtype}
    texts.stream(items, lambda text: len(text.text), compute, path, about, json_)
