"""``motherbird data``: build a corpus, make training pairs, and show prepared datasets."""

import time
from dataclasses import asdict
from typing import Any

import click

from . import data_pairs, options
from .output import count_line, has_color, human, print_json, progress_of_fraction


@click.group(name="data")
def command() -> None:
    """Build a corpus from a mixture; make training pairs; show a prepared dataset."""


command.add_command(data_pairs.pairs)
command.add_command(data_pairs.negatives)


@command.command(name="build", short_help="Clean and de-duplicate the text of a mixture.")
@click.argument("mixture", metavar="MIXTURE")
@click.option("--out", required=True, metavar="DIR", help="Output directory.")
@click.option("--decontaminate", multiple=True, metavar="PATH",
              help="Drop documents that share 13 consecutive words with these texts; "
              "repeatable.")  # fmt: skip
@options.max_bad
@click.option("--processes", type=click.IntRange(1, 1024), metavar="N",
              help="Number of cleaning processes (default: one per CPU).")  # fmt: skip
@options.as_json
def build(
    mixture: str,
    out: str,
    decontaminate: tuple[str, ...],
    max_bad: float | None,
    processes: int | None,
    json_: bool,
) -> None:
    """Read, clean and de-duplicate the text of MIXTURE (a TOML file, a directory or a file).

    Packages are downloaded from their registries. After an interruption, the same command resumes
    the work. corpus.json says what was dropped and why, with examples. In a directory, files are
    skipped that its .gitignore files name, that are vendored (node_modules, vendor ...), generated
    or minified; the key skip of a mixture changes that.

    With --json: {"seconds", "documents", "bytes", "sources": {name: {"read", "kept", "dropped":
    {reason: {"documents", "bytes", "examples"}}, "skipped": the same for files, "file_bytes",
    "bad", "bad_kinds": {kind: count}, "bad_row_files", "bad_bytes", "bad_examples",
    "bad_hint", "packages"}}}.
    """
    path = options.output_directory(out, [mixture])
    from ..data import corpus
    from ..data import mixture as mixtures

    start = time.perf_counter()
    with progress_of_fraction("cleaning", quiet=json_) as show:
        text = mixtures.read(mixture, max_bad=max_bad, decontaminate=decontaminate)
        built = corpus.build(text, path, processes=processes, on_progress=show)
    sources = built.about.sources
    seconds = round(time.perf_counter() - start, 3)
    documents = sum(tally.kept.documents for tally in sources.values())
    size = sum(tally.kept.bytes for tally in sources.values())
    if json_:
        tallies = {name: asdict(tally) for name, tally in sources.items()}
        print_json({"seconds": seconds, "documents": documents, "bytes": size, "sources": tallies})
        return
    click.echo(f"{path}: {documents:,} documents, {human(size, 'B')} of text, {seconds:.0f} s")
    for name, tally in sources.items():
        click.echo(
            f"  {name:<20} {tally.kept.documents:>9,} of {tally.read.documents:,} documents, "
            f"{human(tally.kept.bytes, 'B')} of {human(tally.read.bytes, 'B')}"
        )
        for reason, count in tally.dropped.items():
            click.echo(f"    {count_line('dropped', 'document', reason, count)}")
        for reason, count in tally.skipped.items():
            click.echo(f"    {count_line('skipped', 'file', reason, count)}")
        if tally.bad:
            click.echo(f"    skipped {tally.describe_bad()}: {'; '.join(tally.bad_examples[:3])}")


@command.command(name="show", short_help="Verify a prepared dataset, and show some rows.")
@click.argument("directory", metavar="DIR")
@click.option("--seq-len", type=int, metavar="N",
              help="Row length (default: the first of the dataset).")  # fmt: skip
@click.option("--rows", "count", default=2, metavar="N", show_default=True,
              type=click.IntRange(0, 1000), help="Number of rows to show.")  # fmt: skip
@click.option("--masking", default=0.3, metavar="FRACTION", show_default=True,
              type=click.FloatRange(0, 1, min_open=True),
              help="Fraction of masked tokens.")  # fmt: skip
@click.option("--png", metavar="FILE", help="Also write a histogram of document lengths.")
@options.seed
@options.as_json
def show(
    directory: str,
    seq_len: int | None,
    count: int,
    masking: float,
    png: str | None,
    seed: int,
    json_: bool,
) -> None:
    """Verify a prepared dataset, and show its content and some masked rows.

    Every file is hashed, also those that were verified before. DIR can be an fsspec URL; the
    dataset is downloaded to a local cache.

    With --json: the keys of `motherbird prepare --json` without "seconds", and "examples": [{"row",
    "pieces": [{"source", "tokens", "text": [[masked, text]]}]}].
    """
    from ..data.prepare import summary
    from ..data.prepared import PreparedDataset
    from ..data.show import examples, histogram

    picture = None if png is None else options.output_file(png, [directory], "--png", ".png")
    local = PreparedDataset.fetch(directory).directory if "://" in directory else directory
    prepared = PreparedDataset(local, verify="all")
    length = seq_len or int(next(iter(prepared.about.lengths)))
    shown = examples(prepared, length, count, masking, seed)
    if picture is not None:
        histogram(prepared, picture)
    if json_:
        print_json({**summary(prepared), "examples": shown})
        return
    about = prepared.about
    click.echo(f"{prepared.directory}: verified; {about.dtype} tokens, {prepared.fingerprint[:12]}")
    for name, source in about.sources.items():
        click.echo(
            f"  {name:<20} {source.documents:>9,} documents {human(source.tokens):>8} tokens, "
            f"{source.copies:.2f} times per epoch"
        )
    for name, rows in about.lengths.items():
        click.echo(
            f"  rows of {name:>5}: {rows.rows:,} ({rows.held_out_rows:,} held out), "
            f"{rows.efficiency:.2%} full, {rows.pieces:,} pieces, {rows.cut:,} documents split"
        )
    _echo_rows(shown, length)
    if picture is not None:
        click.echo(f"\n{picture}")


def _echo_rows(rows: list[dict[str, Any]], length: int) -> None:
    color = has_color()
    for row in rows:
        click.echo(f"\nrow {row['row']} of length {length}")
        for piece in row["pieces"]:
            title = f"--- {piece['source']}, {piece['tokens']} tokens"
            click.echo(click.style(title, fg="cyan"), color=color)
            for is_masked, text in piece["text"]:
                styled = click.style(text, fg="yellow", bold=True) if is_masked else text
                click.echo(styled, nl=False, color=color)
            click.echo()
