"""``motherbird evaluate search``."""

from pathlib import Path
from typing import Any

import click

from . import options
from .output import print_json, progress


@click.command(name="search")
@click.argument("questions", type=click.Path())
@click.option("--data", required=True, metavar="DIR", callback=options.not_empty,
              help="The directory that is searched.")  # fmt: skip
@click.option("--mode", "modes", default="bm25,hybrid", show_default=True, metavar="A,B,...",
              help="Ways of searching: bm25, dense, hybrid.")  # fmt: skip
@options.static_model
@click.option("--no-rules", is_flag=True, help="Rank by words and vectors alone.")
@options.as_json
def search(questions: str, data: str, modes: str, model: str, no_rules: bool, json_: bool) -> None:
    """Measure how well motherbird search answers questions.

    \b
    motherbird evaluate search questions.jsonl --data src

    QUESTIONS, whose answers are known, is a .jsonl file, or a .json file with a list. A row has
    "query", "relevant" (a list of paths, or of {"path", "start_line", "end_line"}), and perhaps
    "secondary" (more of them) and "category". Each answer counts once, at the first hit of its file
    and lines.

    With --json: {"questions", "data", "modes": {mode: {"all" and each category: {"questions",
    "nDCG@10", "hit@1", "hit@5", "milliseconds"}}}}; hit@5 is the fraction of questions with an
    answer among the first five hits, milliseconds the median of a search.
    """  # noqa: D301
    from ..search.evaluate import evaluate, read_questions
    from ..search.index import Index

    names = [name.strip() for name in modes.split(",")]
    rows = read_questions(Path(questions))
    index = Index.open(data, None if set(names) <= {"bm25"} else model)
    found: dict[str, Any] = {}
    try:
        with progress("indexing", total=1.0, quiet=json_) as update:
            index.refresh(on_files=lambda done, total: update(completed=done / max(1, total)))
        for name in names:
            found[name] = evaluate(index, rows, name, use_rules=not no_rules)  # type: ignore[arg-type]
    finally:
        index.close()
    if json_:
        print_json({"questions": questions, "data": data, "modes": found})
        return
    click.echo(f"{'mode':<8}{'questions':<24}{'nDCG@10':>9}{'hit@1':>8}{'hit@5':>8}{'ms':>8}")
    for name, groups in found.items():
        for group, own in groups.items():
            what = f"{own['questions']:,} {'' if group == 'all' else group}"
            click.echo(f"{name:<8}{what:<24}{own['nDCG@10']:>9.3f}{own['hit@1']:>8.3f}"
                       f"{own['hit@5']:>8.3f}{own['milliseconds']:>8.1f}")  # fmt: skip
