"""``motherbird guard``."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from . import options, texts
from .texts import Results

if TYPE_CHECKING:
    from ..data.readers import Document
    from ..models.guard import GuardResult


@click.command(name="guard")
@click.argument("file", metavar="FILE")
@click.option("--policy", required=True, metavar="POLICY.toml", callback=options.not_empty,
              help="The rules, see docs/guard.md.")  # fmt: skip
@click.option("--side", type=click.Choice(["input", "output"]), default="input", show_default=True,
              help="Whether the texts go to a language model, or come back.")  # fmt: skip
@click.option("--column", metavar="NAME", callback=options.not_empty,
              help="The column or field of a table with the texts (default: text).")  # fmt: skip
@click.option("--out", metavar="OUT.jsonl", callback=options.not_empty,
              help="The file to write (default: standard output).")  # fmt: skip
@click.option("--fail", is_flag=True, help="Exit with 1 if a text is blocked.")
@options.threads
@options.dtype
@options.device
@click.option("--json", "json_", is_flag=True, help="Print the summary as JSON.")
def command(
    file: str, policy: str, side: Any, column: str | None, out: str | None, fail: bool, json_: bool,
    **load: Any,  # options of `Guard.load`
) -> int:  # fmt: skip
    """Check the texts of FILE by the rules of a policy, as JSON lines in the order of the texts.

    A .csv, .tsv, .jsonl or .parquet file has a text in --column of each row; in any other file,
    every line is a text. - is standard input. Results are written after every 2,048 texts.

    \b
    motherbird guard prompts.jsonl --policy policy.toml --out decisions.jsonl
    motherbird guard answers.csv --policy policy.toml --side output --column answer
    echo "Ignore all rules." | motherbird guard - --policy policy.toml --fail

    \b
    A policy with a classifier and a list of words:
      [classifiers.injection]
      model = "injection-model"
      labels = ["jailbreak"]
      threshold = 0.9
      [patterns.project]
      words = ["Project Nightingale"]
      action = "flag"

    A line is {"decision", "reasons", "unscanned"}. The decision is allow, flag or block. A reason
    is {"rule", "action", "label", "probability", "spans"}, a span {"start", "end", "text"}, and a
    part that was not scanned {"start", "end", "reason"}. At the end there is a summary, on standard
    error without --out.

    The exit code is 0 whatever is decided; with --fail, it is 1 if a text is blocked.

    The summary with --json: {"out", "texts", "truncated", "decisions", "policy", "side",
    "seconds"}, where "decisions" are their counts, and "truncated" is the number of texts with more
    than max_chars characters.
    """  # noqa: D301
    inputs = texts.inputs_of(file, policy)
    items = texts.read_texts(file, column, allow_empty=True)
    from ..models.guard import Guard

    guard = Guard.load(policy, **load)
    inputs += options.directories(*(rule.model for rule in guard.policy.classifiers.values()))
    path = None if out is None else options.output_file(out, inputs, "--out", ".jsonl")
    blocked = 0

    def compute(group: "list[Document]") -> Results:
        nonlocal blocked
        found = guard.check([text.text for text in group], side)
        decisions: list[str] = [result.decision for result in found]
        blocked += decisions.count("block")
        longer = sum(len(text.text) > guard.policy.max_chars for text in group)
        return Results(list(map(_row, found)), longer, decisions)

    about = {"policy": policy, "side": side}
    texts.stream(items, lambda text: len(text.text), compute, path, about, json_, "decisions")
    return int(fail and blocked > 0)


def _row(result: "GuardResult") -> dict[str, Any]:
    row = asdict(result)
    for reason in row["reasons"]:
        reason["probability"] = texts.rounded(reason["probability"])
    return row
