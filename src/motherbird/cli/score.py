"""``motherbird score``."""

from typing import Any

import click

from . import options, texts
from .texts import Pair, Results


@click.command(name="score")
@texts.of_file
@click.option("--columns", metavar="A,B", callback=options.not_empty,
              help="The two columns or fields of a table with the texts of a pair (default: "
              "text_a,text_b).")  # fmt: skip
@click.option("--all", "all_", is_flag=True, help="Write the probability of every label.")
def command(
    file: str,
    model: str,
    columns: str | None,
    all_: bool,
    out: str | None,
    max_length: int | None,
    truncate: bool,
    json_: bool,
    **load: Any,  # options of `Scorer.load`
) -> None:
    """Score each pair of texts of FILE, as JSON lines in the order of the pairs.

    A .csv, .tsv, .jsonl or .parquet file has a pair in --columns of each row; in any other file,
    every line is two texts with a tab between them. - is standard input. Results are written after
    every 2,048 pairs. With --truncate, the longer text of a pair is truncated first.

    \b
    motherbird score pairs.csv --model DIR --columns question,answer --out scores.jsonl
    motherbird score pairs.tsv --model DIR --columns premise,hypothesis --all

    A line is {"score"}, or {"label", "probability"} if the model has several labels, as of
    motherbird classify. At the end there is a summary, on standard error without --out.

    The summary with --json: {"out", "texts", "truncated", "labels", "model", "revision", "dtype",
    "seconds"}, where "labels" are the counts of predicted labels.
    """  # noqa: D301
    path = texts.check_out(file, model, out)
    items = texts.read_pairs(file, columns)
    from ..models.scorer import Scorer

    scorer = Scorer.load(model, **load)

    def compute(group: list[Pair]) -> Results:
        ids, truncated = scorer.tokenize_pairs(
            [(first.text, second.text) for first, second in group],
            max_length=max_length, truncate=truncate,
            names=[first.source for first, _ in group],
        )  # fmt: skip
        if scorer.head_config.kind != "number":
            return texts.label_results(scorer, ids, truncated, all_)
        scores = scorer.scores_of_ids(ids).tolist()
        return Results([{"score": round(score, 6)} for score in scores], truncated)

    def size(pair: Pair) -> int:
        return len(pair[0].text) + len(pair[1].text)

    about = {"model": model, "revision": load["revision"], "dtype": scorer.model.dtype}
    texts.stream(items, size, compute, path, about, json_)
