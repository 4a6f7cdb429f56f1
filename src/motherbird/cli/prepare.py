"""``motherbird prepare``."""

import time
from typing import Any

import click

from ..errors import counted
from . import options
from .output import count_line, human, print_json, progress_of_fraction


def _lengths(ctx: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    try:
        lengths = [int(part) for part in value.split(",")]
    except ValueError as error:
        raise click.BadParameter("use whole numbers, such as 1024,8192") from error
    if min(lengths) < 8 or max(lengths) > 1 << 20:
        raise click.BadParameter("a row has 8 to 1,048,576 tokens")
    return lengths


@click.command(name="prepare")
@click.argument("mixture", metavar="MIXTURE")
@click.option("--tokenizer", required=True, metavar="TOKENIZER",
              help="A tokenizer.json, a directory with one, or a model's name.")  # fmt: skip
@click.option("--seq-len", "seq_lens", default="1024", metavar="N,N", show_default=True,
              callback=_lengths, help="Tokens per row, for one or several lengths.")  # fmt: skip
@click.option("--out", required=True, metavar="DIR", help="Output directory.")
@click.option("--eval", "held_out", default=0.0, metavar="FRACTION", show_default=True,
              type=click.FloatRange(0, 1, max_open=True),
              help="Fraction of documents held out, by the hash of their text.")  # fmt: skip
@options.max_bad
@options.seed
@options.threads
@options.as_json
def command(
    mixture: str,
    tokenizer: str,
    seq_lens: list[int],
    out: str,
    held_out: float,
    max_bad: float | None,
    seed: int,
    json_: bool,
) -> None:
    """Clean, tokenize and pack the text of MIXTURE for training.

    MIXTURE is a TOML file with [[source]] tables, the output of `motherbird data build`, or a
    directory or file of text. After an interruption, the same command resumes the work; the result
    is the same. An existing prepared dataset is replaced.

    Files that are not text are skipped, with a warning; a damaged file (an invalid line of JSON, a
    truncated compressed file) is an error, unless --max-bad allows it. In a directory, files are
    skipped that its .gitignore files name, that are vendored (node_modules, vendor ...), generated
    or minified; the key skip of a mixture changes that.

    With --json: {"efficiency", "rows", "tokens" (of the length with the lowest efficiency),
    "documents": {"kept", "held_out", "cut", "dropped": {reason: count}, "bad"}, "lengths":
    {length: {"rows", "held_out_rows", "pieces", "cut", "tokens", "efficiency"}}, "sources":
    {name: {..., "skipped": {reason: {"documents", "bytes", "examples"}}}}, "dtype", "fingerprint",
    "seconds"}.
    """
    path = options.output_directory(out, [mixture, *options.directories(tokenizer)])
    from ..data.prepare import prepare, summary

    start = time.perf_counter()
    with progress_of_fraction("preparing", quiet=json_) as show:
        prepared = prepare(
            mixture, tokenizer, path, seq_lens, held_out=held_out, seed=seed, max_bad=max_bad,
            on_progress=show,
        )  # fmt: skip
    result = {**summary(prepared), "seconds": round(time.perf_counter() - start, 3)}
    if json_:
        print_json(result)
        return
    _echo(prepared, result)


def _echo(prepared: Any, result: dict[str, Any]) -> None:
    documents = result["documents"]
    tokens = sum(source.tokens for source in prepared.about.sources.values())
    click.echo(
        f"{prepared.directory}: {counted(documents['kept'], 'document')}, {human(tokens)} tokens, "
        f"{result['seconds']:.1f} s"
    )
    for name, source in prepared.about.sources.items():
        click.echo(
            f"  {name:<20} {source.documents:>9,} documents {human(source.tokens):>8} tokens"
            + (f", {source.copies:.2f} times per epoch" if source.copies != 1 else "")
        )
    for reason, dropped in documents["dropped"].items():
        click.echo(f"  dropped {counted(dropped, 'document')}: {reason}")
    for source in prepared.about.sources.values():
        for reason, count in source.skipped.items():
            click.echo(f"  {count_line('skipped', 'file', reason, count)}")
    if documents["bad"]:
        click.echo(f"  skipped {counted(documents['bad'], 'document')} that cannot be read")
    if documents["held_out"]:
        click.echo(f"  held out {counted(documents['held_out'], 'document')} for evaluation")
    for length, about in prepared.about.lengths.items():
        cut = f", {counted(about.cut, 'document')} split" if about.cut else ""
        click.echo(f"  rows of {length:>5}: {about.rows:,}, {about.efficiency:.2%} full{cut}")
