"""``motherbird tokenizer``."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from . import options
from .output import human, print_json, progress_of_fraction

if TYPE_CHECKING:
    from ..data.vocabulary import Report


@click.group(name="tokenizer")
def command() -> None:
    """Train a tokenizer on a mixture, and compare it with others."""


@command.command(name="train", short_help="Train a byte-level BPE, and compare it with others.")
@click.argument("mixture", metavar="MIXTURE")
@click.option("--size", default=32768, metavar="N", show_default=True, type=int,
              help="Size of the vocabulary, a multiple of 64.")  # fmt: skip
@click.option("--out", required=True, metavar="DIR", help="Output directory.")
@click.option("--compare", multiple=True, metavar="FILE",
              help="Another tokenizer.json or its directory; repeatable.")  # fmt: skip
@click.option("--megabytes", default=300.0, metavar="MB", show_default=True,
              type=click.FloatRange(0, min_open=True),
              help="Megabytes of randomly chosen training text.")  # fmt: skip
@click.option("--held-out", default=0.02, metavar="FRACTION", show_default=True,
              type=click.FloatRange(0, 1, max_open=True),
              help="Fraction of documents for the report, by the hash of their text.")  # fmt: skip
@options.max_bad
@options.threads
@options.as_json
def train(
    mixture: str,
    size: int,
    out: str,
    compare: tuple[str, ...],
    megabytes: float,
    held_out: float,
    max_bad: float | None,
    json_: bool,
) -> None:
    """Train a byte-level BPE for text and code on MIXTURE (a TOML file, a corpus, or text).

    The report (also in DIR/report.json) counts tokens of held-out documents.

    With --json: {"entries", "megabytes", "sources": {name: {"documents", "bytes", "tokens":
    {tokenizer: count}}}, "unused" (null without held-out documents), "round_trip": {"same",
    "changed"}, "seconds"}.
    """
    path = options.output_directory(out, [mixture, *options.directories(*compare)])
    from ..data.vocabulary import train as train_tokenizer

    start = time.perf_counter()
    with progress_of_fraction("tokenizer", quiet=json_) as show:
        report = train_tokenizer(
            mixture, size, path, compare=compare, megabytes=megabytes, held_out=held_out,
            max_bad=max_bad, on_progress=show,
        )  # fmt: skip
    seconds = round(time.perf_counter() - start, 3)
    if json_:
        print_json({**asdict(report), "seconds": seconds})
        return
    learned = f"{report.entries:,} entries from {human(report.megabytes * 1e6, 'B')}"
    click.echo(f"{path}: {learned}, {seconds:.0f} s; {_tested(report)}")
    for name, counted in report.sources.items():
        if not counted.documents:
            click.echo(f"  {name:<20} no held-out text")
            continue
        own = counted.tokens["motherbird"]
        compared = "".join(
            f", {own / tokens:.3f} times the tokens of {other}"
            for other, tokens in counted.tokens.items()
            if other != "motherbird"
        )
        click.echo(f"  {name:<20} {counted.bytes / own:.3f} bytes per token{compared}")


def _tested(report: "Report") -> str:
    if report.unused is None:
        return "no document was held out"
    changed, total = report.round_trip["changed"], sum(report.round_trip.values())
    unused = f"{report.unused:.1%} unused on held-out text"
    return f"{unused}, {changed} of {total} documents changed by a round trip"
