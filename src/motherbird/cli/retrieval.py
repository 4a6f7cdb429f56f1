"""``motherbird evaluate retrieval``."""

import json
import time
from typing import TYPE_CHECKING, Any

import click

from ..core.hub import NANO
from ..errors import counted
from . import options
from .output import print_json, progress

if TYPE_CHECKING:
    from ..retrieval.measure import Values
    from ..retrieval.sets import RetrievalSet


@click.command(name="retrieval")
@click.option("--data", required=True, metavar="DIR", callback=options.not_empty,
              help="A retrieval set in the layout of BEIR, or a directory of several.")  # fmt: skip
@click.option("--split", default="test", show_default=True, metavar="SPLIT",
              callback=options.not_empty,
              help="The judgements, qrels/SPLIT.tsv; of dev,train the first that is there.",
              )  # fmt: skip
@click.option("--mode", "modes", default="bm25,dense,hybrid", show_default=True, metavar="A,B,...",
              help="Ways of searching: bm25, dense (vectors of --model), late (--model is a "
              "late-interaction model), hybrid (bm25 and --model), rerank (the first 100 documents "
              "of the first other mode, by --reranker).")  # fmt: skip
@click.option("--model", default=NANO, show_default=True, metavar="MODEL",
              help="A model of motherbird, static vectors, or a model of sentence-transformers: a "
              "directory, or owner/name on the Hub.")  # fmt: skip
@click.option("--reranker", metavar="MODEL", callback=options.not_empty,
              help="A cross-encoder with one label, of motherbird or sentence-transformers.",
              )  # fmt: skip
@click.option("--max-queries", type=click.IntRange(1), metavar="N",
              help="Queries of a set, the first ones (default: all).")  # fmt: skip
@click.option("--out", metavar="FILE", callback=options.not_empty,
              help="A .jsonl file with the metrics of each query.")  # fmt: skip
@options.loading
@options.as_json
def retrieval(
    data: str, split: str, modes: str, model: str, reranker: str | None, max_queries: int | None,
    out: str | None, json_: bool, **load: Any,  # options of `Embedder.load`
) -> None:  # fmt: skip
    """Measure how well a model finds documents.

    \b
    motherbird evaluate retrieval --data scifact --split test --model DIR
    motherbird evaluate retrieval --data sets --split dev,train --mode dense --model DIR --json
    motherbird evaluate retrieval --data scifact --mode late,rerank --model DIR --reranker DIR

    A set has corpus.jsonl (_id, title, text), queries.jsonl (_id, text), also as .jsonl.gz, and
    qrels/SPLIT.tsv (query-id, corpus-id, score). Documents are ranked by the cosine of vectors, by
    BM25, by MaxSim of the vectors of tokens (late), or by the sum of 1 / (60 + rank) over BM25 and
    vectors. Texts longer than the model's limit are truncated, but documents of late have windows.
    The metrics are nDCG@10, recall@100 and MRR@10, see docs/retrieval.md.

    With several modes, differences from the first one have 95% intervals (paired bootstrap).

    With --json: {"model", "reranker", "sets": [{"dataset", "split", "documents", "queries",
    "without", "empty", "modes": {mode: {"nDCG@10", "recall@100", "MRR@10"}}, "differences": {mode:
    {"mean", "low", "high"}}}], "mean": {mode: {"nDCG@10", "recall@100", "MRR@10"}}, "seconds"}.
    "without" are queries without a relevant document, which are left out, and "empty" documents
    without text. "differences" are those of nDCG@10.
    """  # noqa: D301
    from ..core import hub
    from ..files import write_text
    from ..models.modules import is_late
    from ..retrieval.embedders import open_embedder, open_late, open_reranker
    from ..retrieval.evaluate import check_modes, evaluate
    from ..retrieval.sets import find_sets, read_set

    chosen = check_modes(modes)
    if ("rerank" in chosen) != (reranker is not None):
        missing = "--reranker" if reranker is None else "--mode with rerank"
        raise click.UsageError(f"Missing option '{missing}'; rerank needs both.")
    models = [model] if reranker is None else [model, reranker]
    path = (
        None
        if out is None
        else options.output_file(out, [data, *options.directories(*models)], "--out", ".jsonl")
    )
    start = time.perf_counter()
    found = [read_set(directory, split, max_queries) for directory in find_sets(data)]
    uses_model = not {"dense", "late", "hybrid"}.isdisjoint(chosen)
    late = "late" in chosen or (
        uses_model and "dense" not in chosen and is_late(hub.find(model, load["revision"]))
    )
    embed = open_embedder(model, **load) if uses_model and not late else None
    tokens = open_late(model, **load) if late else None
    score = None if reranker is None else open_reranker(reranker, **load | {"revision": None})
    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    if not json_:
        click.echo(f"{'nDCG@10':<22}{'documents':>10}{'queries':>9}"
                   + "".join(f"{mode:>9}" for mode in chosen))  # fmt: skip
    with progress("evaluating", total=len(found), quiet=json_) as advance:
        for own in found:
            values = evaluate(own, chosen, embed, embed_tokens=tokens, score=score)
            rows.append(_row(own, values))
            lines += _lines(own, values)
            advance(1, own.name)
            if not json_:
                _show_set(rows[-1], chosen)
    mean = _mean(rows)
    if path is not None:
        write_text(path, "".join(lines))
    if json_:
        print_json({"model": model if uses_model else None, "reranker": reranker, "sets": rows,
                    "mean": mean, "seconds": round(time.perf_counter() - start, 3)})  # fmt: skip
    elif len(rows) > 1:
        click.echo(f"{'mean':<41}" + "".join(f"{mean[mode]['nDCG@10']:>9.4f}" for mode in chosen))


def _row(own: "RetrievalSet", values: "dict[str, Values]") -> dict[str, Any]:
    """Return the result of a set; the first of the modes is the one that others differ from."""
    from ..retrieval.measure import interval, means

    first, *others = (values[mode]["nDCG@10"] for mode in values)
    differences = [
        dict(zip(("mean", "low", "high"), interval(other, first), strict=True)) for other in others
    ]
    return {
        "dataset": own.name, "split": own.split, "documents": len(own.documents),
        "queries": len(own.queries), "without": own.without, "empty": own.empty,
        "modes": {mode: means(each) for mode, each in values.items()},
        "differences": dict(zip([*values][1:], differences, strict=True)),
    }  # fmt: skip


def _lines(own: "RetrievalSet", values: "dict[str, Values]") -> list[str]:
    """Return the metrics of each query as lines of JSON."""
    return [
        json.dumps({"dataset": own.name, "query": query, "modes": {
            mode: {name: value[n] for name, value in each.items()} for mode, each in values.items()
        }}) + "\n"
        for n, query in enumerate(own.query_ids)
    ]  # fmt: skip


def _mean(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the means over sets."""
    from ..retrieval.measure import METRICS, means

    return {
        mode: means({name: [row["modes"][mode][name] for row in rows] for name in METRICS})
        for mode in rows[0]["modes"]
    }


def _show_set(row: dict[str, Any], modes: list[str]) -> None:
    values = "".join(f"{row['modes'][mode]['nDCG@10']:>9.4f}" for mode in modes)
    click.echo(f"{row['dataset']:<22}{row['documents']:>10,}{row['queries']:>9,}{values}")
    for mode, own in row["differences"].items():
        click.echo(f"  {mode} - {modes[0]}: {own['mean']:+.4f} ({own['low']:+.4f} to "
                   f"{own['high']:+.4f})")  # fmt: skip
    if row["without"]:
        what = counted(row["without"], "query", "queries")
        click.echo(f"  {what} without a relevant document left out")
