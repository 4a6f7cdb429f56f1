"""``motherbird evaluate retrieval``."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from ..core.hub import NANO
from ..errors import counted, require_extra
from . import options
from .output import print_json, progress

if TYPE_CHECKING:
    from ..retrieval.baseline import Baseline
    from ..retrieval.measure import Values
    from ..retrieval.passages import Reading
    from ..retrieval.sets import RetrievalSet


_USES_MODEL = {"dense", "late", "hybrid"}


@click.command(name="retrieval")
@click.option("--data", required=True, metavar="DIR", callback=options.not_empty,
              help="A retrieval set in the layout of BEIR, or a directory of several.")  # fmt: skip
@click.option("--split", default="test", show_default=True, metavar="SPLIT",
              callback=options.not_empty,
              help="The judgements, qrels/SPLIT.tsv; of dev,train the first that is there.",
              )  # fmt: skip
@click.option("--mode", "modes", default="bm25,dense,hybrid", show_default=True, metavar="A,B,...",
              help="Ways of searching: bm25, dense (vectors of texts), late (vectors of tokens), "
              "hybrid (bm25, and dense or late or both, as named), rerank (the first 100 documents "
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
@click.option("--documents", "reading", type=click.Choice(["whole", "first", "passages"]),
              default="whole", show_default=True,
              help="What dense and late read of a document: all, its first --passage-tokens, or "
              "passages of so many, of which the best one counts.")  # fmt: skip
@click.option("--passage-tokens", type=click.IntRange(1), metavar="N",
              help="Tokens of a passage (default: 512).")  # fmt: skip
@click.option("--truncate-dim", type=click.IntRange(1), metavar="N",
              help="Keep only the first N dimensions of the vectors of tokens (late).")  # fmt: skip
@click.option("--baseline", "earlier", metavar="FILE", callback=options.not_empty,
              help="The --out of another evaluation of the same sets, to compare with.",
              )  # fmt: skip
@click.option("--chart", metavar="FILE", callback=options.not_empty,
              help="A .svg or .png file with nDCG@10 by set and mode.")  # fmt: skip
@click.option("--table", metavar="FILE", callback=options.not_empty,
              help="A .md file with the table in Markdown.")  # fmt: skip
@options.loading
@options.as_json
def retrieval(
    data: str, split: str, modes: str, model: str, reranker: str | None, max_queries: int | None,
    out: str | None, reading: "Reading", passage_tokens: int | None, truncate_dim: int | None,
    earlier: str | None, chart: str | None, table: str | None, json_: bool,
    **load: Any,  # options of `Embedder.load`
) -> None:  # fmt: skip
    """Measure how well a model finds documents.

    \b
    motherbird evaluate retrieval --data scifact --split test --model DIR
    motherbird evaluate retrieval --data sets --split dev,train --mode dense --model DIR --json
    motherbird evaluate retrieval --data scifact --mode late,rerank --model DIR --reranker DIR
    motherbird evaluate retrieval --data qmsum --model DIR --documents passages --baseline b.jsonl

    A set has corpus.jsonl (_id, title, text), queries.jsonl (_id, text), also as .jsonl.gz, and
    qrels/SPLIT.tsv (query-id, corpus-id, score). Documents are ranked by the cosine of vectors, by
    BM25, by MaxSim of the vectors of tokens (late), or by the sum of the scaled scores of BM25 and
    vectors (hybrid). Texts longer than the limit of a model of motherbird are computed in windows;
    other models, queries of late, and rerankers truncate them. The metrics are nDCG@10, recall@100
    and MRR@10, see docs/evaluation.md.

    With several modes, differences from the first one have 95% intervals (paired bootstrap). With
    --baseline, so have those from the same mode there, or its only one.

    With --json: {"model", "reranker", "truncate_dim", "sets": [{"dataset", "split", "documents",
    "queries", "without", "empty", "long_documents", "passage_tokens", "modes": {mode: {"nDCG@10",
    "recall@100", "MRR@10"}}, "differences": {mode: {"mean", "low", "high"}}, "baseline":
    {"queries", "missing", "unused", "differences": {mode: {"mode", "mean", "low", "high"}}}}],
    "mean": {mode: {"nDCG@10", "recall@100", "MRR@10"}}, "seconds"}.
    "without" are queries without a relevant document, which are left out, and "empty" documents
    without text. "long_documents" is "whole", "first", "passages", "truncated" (whole, by a model
    that truncates), or null without dense and late. "differences" are those of nDCG@10. "baseline"
    is null without one; "missing" queries are not in it, and "unused" ones in it alone.
    """  # noqa: D301
    from ..retrieval.baseline import check, read_baseline
    from ..retrieval.embedders import open_reranker
    from ..retrieval.evaluate import check_modes
    from ..retrieval.sets import find_sets, read_set

    chosen = check_modes(modes)
    uses_model = _check_options(chosen, reranker, reading, passage_tokens, truncate_dim)
    inputs = [data, *options.directories(model, *([reranker] if reranker else []))]
    files = _Files.of(out, table, chart, [*inputs, *([earlier] if earlier else [])])
    start = time.perf_counter()
    found = [read_set(directory, split, max_queries) for directory in find_sets(data)]
    if baseline := read_baseline(earlier) if earlier else None:
        check(baseline, chosen, found)
    long: dict[str, Any] = {"long_documents": None, "passage_tokens": None}
    opened = _open(model, chosen, reading, passage_tokens, truncate_dim, long, load)
    if reranker is not None:
        opened["score"] = open_reranker(reranker, **load | {"revision": None})
    rows, lines = _measure(found, chosen, opened, long, baseline, json_)
    mean = _mean(rows)
    files.write(rows, lines)
    if json_:
        print_json({"model": model if uses_model else None, "reranker": reranker,
                    "truncate_dim": truncate_dim, "sets": rows, "mean": mean,
                    "seconds": round(time.perf_counter() - start, 3)})  # fmt: skip
    elif len(rows) > 1:
        click.echo(f"{'mean':<41}" + "".join(f"{mean[mode]['nDCG@10']:>9.4f}" for mode in chosen))


class _Files(NamedTuple):
    """The files that are written, or None."""

    out: Path | None
    table: Path | None
    chart: Path | None

    @classmethod
    def of(cls, out: str | None, table: str | None, chart: str | None,
           inputs: list[str]) -> "_Files":  # fmt: skip
        """Check the paths."""
        if chart:
            require_extra("matplotlib", "train")
        return cls(
            options.output_file(out, inputs, "--out", ".jsonl") if out else None,
            options.output_file(table, inputs, "--table", ".md") if table else None,
            options.output_file(chart, inputs, "--chart", ".svg", ".png") if chart else None,
        )

    def write(self, rows: list[dict[str, Any]], lines: list[str]) -> None:
        """Write the results of sets, and the lines of queries."""
        from ..files import write_text
        from ..retrieval import report

        if self.out:
            write_text(self.out, "".join(lines))
        if self.table:
            write_text(self.table, report.markdown(rows))
        if self.chart:
            report.chart(rows, self.chart)


def _measure(
    sets: "list[RetrievalSet]", modes: list[str], opened: dict[str, Any], long: dict[str, Any],
    baseline: "Baseline | None", quiet: bool,
) -> tuple[list[dict[str, Any]], list[str]]:  # fmt: skip
    """Return the result of each set, and the metrics of each query as lines of JSON."""
    from ..retrieval.baseline import compare
    from ..retrieval.evaluate import evaluate

    rows: list[dict[str, Any]] = []
    lines: list[str] = []
    if not quiet:
        click.echo(f"{'nDCG@10':<22}{'documents':>10}{'queries':>9}"
                   + "".join(f"{mode:>9}" for mode in modes))  # fmt: skip
    with progress("evaluating", total=len(sets), quiet=quiet) as advance:
        for own in sets:
            values = evaluate(own, modes, **opened)
            compared = None if baseline is None else compare(baseline, own, values)
            rows.append(_row(own, values, long, compared))
            lines += _lines(own, values)
            advance(1, own.name)
            if not quiet:
                _show_set(rows[-1], modes)
    return rows, lines


def _check_options(
    modes: list[str], reranker: str | None, reading: str, passage_tokens: int | None,
    truncate_dim: int | None,
) -> bool:  # fmt: skip
    """Refuse options that have no effect, and return whether a mode needs the model."""
    uses_model = not _USES_MODEL.isdisjoint(modes)
    if ("rerank" in modes) != (reranker is not None):
        missing = "--reranker" if reranker is None else "--mode with rerank"
        raise click.UsageError(f"Missing option '{missing}'; rerank needs both.")
    if reading != "whole" and not uses_model:
        raise click.UsageError("--documents needs dense or late; bm25 reads documents whole.")
    if reading == "whole" and passage_tokens is not None:
        raise click.UsageError("--passage-tokens needs --documents first or passages.")
    if truncate_dim is not None and not uses_model:
        raise click.UsageError("--truncate-dim needs the mode late.")
    return uses_model


def _open(
    model: str, modes: list[str], reading: "Reading", passage_tokens: int | None,
    truncate_dim: int | None, long: dict[str, Any], load: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    """Return what `evaluate` needs of the model, and put into ``long`` how it reads documents."""
    if _USES_MODEL.isdisjoint(modes):
        return {}
    from ..core import hub
    from ..models.modules import is_late
    from ..retrieval.embedders import open_embedder, open_late, truncates
    from ..retrieval.passages import PASSAGE, open_divide

    revision, size = load["revision"], passage_tokens or PASSAGE
    is_truncated = reading == "whole" and truncates(model, revision=revision)
    long["long_documents"] = "truncated" if is_truncated else reading
    long["passage_tokens"] = None if reading == "whole" else size
    found: dict[str, Any] = {"divide": open_divide(model, reading, size, revision=revision)}
    kinds = {"dense", "late"} & {*modes}
    if not kinds:  # hybrid alone
        kinds = {"late" if is_late(hub.find(model, revision)) else "dense"}
    if truncate_dim is not None and "late" not in kinds:
        raise click.UsageError("--truncate-dim needs the mode late.")
    if "late" in kinds:
        found["embed_tokens"] = open_late(model, truncate_dim=truncate_dim, **load)
    if "dense" in kinds:
        found["embed"] = open_embedder(model, windows=True, **load)
    return found


def _row(
    own: "RetrievalSet", values: "dict[str, Values]", long: dict[str, Any],
    compared: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """Return the result of a set; the first of the modes is the one that others differ from."""
    from ..retrieval.measure import interval, means

    first, *others = (values[mode]["nDCG@10"] for mode in values)
    differences = [
        dict(zip(("mean", "low", "high"), interval(other, first), strict=True)) for other in others
    ]
    return {
        "dataset": own.name, "split": own.split, "documents": len(own.documents),
        "queries": len(own.queries), "without": own.without, "empty": own.empty, **long,
        "modes": {mode: means(each) for mode, each in values.items()},
        "differences": dict(zip([*values][1:], differences, strict=True)), "baseline": compared,
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
    if row["baseline"] is not None:
        _show_baseline(row["baseline"])
    if row["without"]:
        what = counted(row["without"], "query", "queries")
        click.echo(f"  {what} without a relevant document left out")


def _show_baseline(found: dict[str, Any]) -> None:
    for mode, own in found["differences"].items():
        click.echo(f"  {mode} - baseline's {own['mode']}: {own['mean']:+.4f} ({own['low']:+.4f} to "
                   f"{own['high']:+.4f})")  # fmt: skip
    if found["missing"]:
        what = counted(found["missing"], "query", "queries")
        click.echo(f"  {what} not in the baseline, left out of the comparison")
    if found["unused"]:
        what = counted(found["unused"], "query", "queries")
        click.echo(f"  {what} of the baseline not used")
