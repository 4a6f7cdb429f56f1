"""``motherbird data pairs`` and ``negatives``: training pairs for search."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import counted
from . import options
from .output import count_line, print_json, progress_of_fraction

if TYPE_CHECKING:
    from ..data.pairing.make import Made
    from ..data.tally import Count


@click.command(name="pairs", short_help="Make training pairs for search from text and code.")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("--out", required=True, metavar="FILE", callback=options.not_empty,
              help="A .jsonl file for the pairs; it is replaced if it exists.")  # fmt: skip
@click.option("--kind", "kinds", metavar="A,B,...", callback=options.not_empty,
              help="Kinds of pairs: docstring, heading, title, question, adjacent (default: all).",
              )  # fmt: skip
@click.option("--exclude", multiple=True, metavar="PATH",
              help="Drop pairs that share 13 consecutive words with these evaluation texts, or are "
              "one of them; a retrieval set or a table, repeatable.")  # fmt: skip
@click.option("--max", "most", type=click.IntRange(1), metavar="N",
              help="Pairs of a kind, at most, chosen at random (default: all).")  # fmt: skip
@click.option("--max-words", default=300, show_default=True, type=click.IntRange(3), metavar="N",
              help="Words of a positive; longer ones are cut.")  # fmt: skip
@options.seed
@options.as_json
def pairs(
    sources: tuple[str, ...], out: str, kinds: str | None, exclude: tuple[str, ...],
    most: int | None, max_words: int, seed: int, json_: bool,
) -> None:  # fmt: skip
    """Make pairs of a query and a text that answers it.

    \b
    motherbird data pairs src docs --out pairs.jsonl
    motherbird data pairs faq.csv --kind question --exclude scifact --out pairs.jsonl

    SOURCE is a directory, a wheel, an sdist, a .zip file, a table (.jsonl, .csv, .tsv, .parquet),
    or a file of text or Python. A row of the output has "query", "positive", "kind" and "source".

    \b
    docstring  first paragraph of a docstring of Python, and the code without it
    heading    headings of Markdown or reStructuredText, and the text below them
    title      columns title and text of a table
    question   columns question and answer of a table
    adjacent   passages of a text that follow each other

    Equal pairs, and pairs whose positive is nearly equal to an earlier one, are dropped.

    With --json: {"pairs", "seconds", "kinds": {kind: {"found", "kept", "cut", "dropped": {reason:
    {"pairs", "examples"}}}}, "sources": {name: {"read", "skipped": {reason: {"files", "examples"}},
    "bad", "bad_kinds": {kind: count}, "bad_examples"}}}.
    """  # noqa: D301
    from ..data.pairing.make import make_pairs
    from ..data.pairing.pair import check_kinds
    from ..files import write_file

    chosen = check_kinds(kinds)
    path = options.output_file(out, [*sources, *exclude], "--out", ".jsonl")
    start = time.perf_counter()
    with progress_of_fraction("pairs", quiet=json_) as show:
        made = make_pairs(
            sources, kinds=chosen, exclude=exclude, most=most, max_words=max_words, seed=seed,
            on_progress=show,
        )  # fmt: skip
    rows = [
        {"query": p.query, "positive": p.positive, "kind": p.kind, "source": p.source}
        for p in made.pairs
    ]
    write_file(path, lambda temporary: _write(temporary, rows))
    seconds = round(time.perf_counter() - start, 3)
    if json_:
        print_json({"pairs": len(rows), "seconds": seconds, **_report(made)})
        return
    click.echo(f"{path}: {counted(len(rows), 'pair')}, {seconds:.0f} s")
    for kind, report in made.kinds.items():
        click.echo(f"  {kind:<10} {report.kept:>9,} of {report.found:,}; {report.cut:,} cut")
        for reason, count in report.dropped.items():
            click.echo(f"    {count_line('dropped', 'pair', reason, count)}")
    how = "name them as sources"
    for name, tally in made.sources.items():
        if tally.skipped or tally.bad:
            click.echo(f"  {name}")
        for reason, count in tally.skipped.items():
            click.echo(f"    {count_line('skipped', 'file', reason, count, how)}")
        if tally.bad:
            click.echo(f"    skipped {tally.describe_bad()}: {'; '.join(tally.bad_examples[:3])}")


def _report(made: "Made") -> dict[str, Any]:
    def counts(found: "dict[str, Count]", noun: str) -> dict[str, Any]:
        return {
            reason: {noun: count.documents, "examples": count.examples}
            for reason, count in found.items()
        }

    return {
        "kinds": {
            kind: {"found": own.found, "kept": own.kept, "cut": own.cut,
                   "dropped": counts(own.dropped, "pairs")}
            for kind, own in made.kinds.items()
        },
        "sources": {
            name: {"read": own.read.documents, "skipped": counts(own.skipped, "files"),
                   "bad": own.bad, "bad_kinds": own.bad_kinds, "bad_examples": own.bad_examples}
            for name, own in made.sources.items()
        },
    }  # fmt: skip


@click.command(name="negatives", short_help="Add hard negatives to training pairs.")
@click.argument("pairs", metavar="PAIRS")
@click.option("--out", required=True, metavar="FILE", callback=options.not_empty,
              help="A .jsonl file for the rows; it is replaced if it exists.")  # fmt: skip
@click.option("--corpus", metavar="FILE", callback=options.not_empty,
              help="A table with more documents, in the column text.")  # fmt: skip
@click.option("--by", default="bm25", show_default=True, metavar="bm25|MODEL",
              callback=options.not_empty,
              help="Rank by BM25, or by the vectors of a model of motherbird, static vectors, or a "
              "model of sentence-transformers.")  # fmt: skip
@click.option("--count", default=4, show_default=True, type=click.IntRange(1), metavar="N",
              help="Negatives of a row, at most.")  # fmt: skip
@click.option("--from-rank", default=2, show_default=True, type=click.IntRange(1), metavar="N",
              help="First rank of a negative; 1 is the best document.")  # fmt: skip
@click.option("--to-rank", default=50, show_default=True, type=click.IntRange(1), metavar="N",
              help="Last rank of a negative.")  # fmt: skip
@click.option("--margin", default=0.95, show_default=True, metavar="FRACTION",
              type=click.FloatRange(0, min_open=True),
              help="Leave out documents whose score is more than this times that of the positive: "
              "they may be answers too.")  # fmt: skip
@click.option("--query", metavar="NAME", callback=options.not_empty,
              help="Column of the queries, as for finetune dense.")  # fmt: skip
@click.option("--document", metavar="NAME", callback=options.not_empty,
              help="Column of the answers, as for finetune dense.")  # fmt: skip
@options.loading
@options.as_json
def negatives(
    pairs: str, out: str, corpus: str | None, by: str, count: int, from_rank: int, to_rank: int,
    margin: float, query: str | None, document: str | None, json_: bool,
    **load: Any,  # options of `Embedder.load`
) -> None:  # fmt: skip
    """Find documents that are ranked high for a query of PAIRS, but do not answer it.

    \b
    motherbird data negatives pairs.jsonl --out train.jsonl
    motherbird data negatives pairs.jsonl --by MODEL --corpus corpus.jsonl --out train.jsonl

    For each query all answers in PAIRS and all documents of --corpus are ranked. Its negatives are
    the best documents of the ranks, but not its own answers, and none with a score too near that
    of the answer. A row of the output has "query", "positive" and a list, "negatives". Rows with
    fewer negatives than --count are kept.

    With --json: {"rows", "candidates", "negatives", "fewer", "none", "above_margin", "seconds"}.
    "fewer" are rows with fewer negatives than --count, "none" those without any, and "above_margin"
    documents that the margin left out.
    """  # noqa: D301
    from ..data.pairs import PairColumns, read_pairs
    from ..files import write_file
    from ..retrieval.embedders import open_embedder
    from ..retrieval.negatives import Search, mine, read_corpus

    models = [] if by == "bm25" else options.directories(by)
    inputs = [pairs, *([] if corpus is None else [corpus]), *models]
    path = options.output_file(out, inputs, "--out", ".jsonl")
    search = Search(count, from_rank, to_rank, margin)
    start = time.perf_counter()
    found = read_pairs([pairs], PairColumns(query, document), negatives=0, scored=False)
    more = [] if corpus is None else read_corpus(corpus)
    embed = None if by == "bm25" else open_embedder(by, **load)
    with progress_of_fraction("negatives", quiet=json_) as show:
        mined = mine(found, more, search, embed, show)
    rows = [
        {"query": query, "positive": documents[0], "negatives": own}
        for query, documents, own in zip(
            found.queries, found.documents, mined.negatives, strict=True
        )
    ]
    write_file(path, lambda temporary: _write(temporary, rows))
    seconds = round(time.perf_counter() - start, 3)
    total = sum(map(len, mined.negatives))
    if json_:
        print_json({
            "rows": len(rows), "candidates": mined.candidates, "negatives": total,
            "fewer": mined.fewer, "none": mined.none, "above_margin": mined.above_margin,
            "seconds": seconds,
        })  # fmt: skip
        return
    click.echo(
        f"{path}: {counted(len(rows), 'row')}, {counted(total, 'negative')} among "
        f"{counted(mined.candidates, 'document')}, {seconds:.0f} s"
    )
    if mined.fewer:
        click.echo(f"  {counted(mined.fewer, 'row')} with fewer than {count}, {mined.none:,} of "
                   "them with none")  # fmt: skip
    if mined.above_margin:
        click.echo(f"  {counted(mined.above_margin, 'document')} left out by --margin {margin:g}")


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write lines of JSON."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
