"""``motherbird distill``."""

from typing import Any

import click

from ..core.hub import NANO
from . import options
from .output import print_json, progress


@click.group(name="distill")
def command() -> None:
    """Make a small model that learns the vectors of a larger one."""


@command.command(name="static")
@click.option("--teacher", required=True, metavar="MODEL", callback=options.not_empty,
              help="A model of sentence-transformers: a directory, or owner/name on the Hub.",
              )  # fmt: skip
@click.option("--data", multiple=True, required=True, metavar="FILE",
              help="Texts to learn from: .jsonl, .csv, .tsv or .parquet, also compressed, or a "
              "directory of datasets; repeatable.")  # fmt: skip
@click.option("--out", required=True, metavar="DIR", callback=options.not_empty,
              help="Directory of the result.")  # fmt: skip
@click.option("--tokenizer", default=NANO, show_default=True, metavar="MODEL",
              callback=options.not_empty, help="A directory with tokenizer.json.")  # fmt: skip
@click.option("--column", "columns", multiple=True, metavar="NAME",
              help="A column or field of texts; repeatable (default: usual names, such as text, "
              "query, answer).")  # fmt: skip
@click.option("--texts", type=click.IntRange(100), default=80_000, show_default=True, metavar="N",
              help="Number of texts, at most; equally many of each file.")  # fmt: skip
@click.option("--dimensions", type=click.IntRange(1), metavar="N",
              help="Dimensions of the vectors (default: those of the teacher).")  # fmt: skip
@click.option("--epochs", type=click.IntRange(1), default=4, show_default=True, metavar="N",
              help="Passes over the texts.")  # fmt: skip
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=5e-4, show_default=True,
              metavar="RATE", help="Learning rate at the beginning.")  # fmt: skip
@options.seed
@options.device
@options.threads
@options.as_json
def static(
    teacher: str, data: tuple[str, ...], out: str, tokenizer: str, device: str, json_: bool,
    **settings: Any,  # those of StaticTraining
) -> None:  # fmt: skip
    """Make static vectors: one for each token, and no network.

    \b
    motherbird distill static --teacher all-MiniLM-L6-v2 --data texts.jsonl --out static
    motherbird evaluate retrieval --data scifact --model static

    A text is the mean of the vectors of its tokens. The table begins as the teacher's vectors of
    the tokens, weighted by their frequency, and is trained so that the vectors of texts have the
    direction of the teacher's, and pairs of texts the same cosines. Questions, short queries and
    code among the texts matter more than many texts. Longer texts are divided into passages of up
    to 100 words.

    The directory loads in motherbird.StaticEmbedder, sentence-transformers and model2vec. Its
    first dimensions vary most, and can be used alone. A command that was stopped or killed resumes
    when it is repeated: the teacher's vectors are kept.

    With --json: {"model", "cosine": {"before", "after"}, "documents", "dimensions", "seconds"}.
    "cosine" is the mean cosine with the teacher's vectors of held-out texts.
    """  # noqa: D301
    import time

    from ..train.static import StaticTraining, distill_static

    inputs = [*data, *options.directories(teacher, tokenizer)]
    directory = options.output_directory(out, inputs)
    start = time.perf_counter()
    with progress("distilling", total=1.0, quiet=json_) as advance:
        found = distill_static(teacher, tokenizer, data, directory, StaticTraining(**settings),
                               device=device, on_part=advance)  # fmt: skip
    result = {
        "model": str(directory), "cosine": found["cosine"], "documents": found["documents"],
        "dimensions": found["dimensions"], "seconds": round(time.perf_counter() - start, 1),
    }  # fmt: skip
    if json_:
        print_json(result)
    else:
        cosine = found["cosine"]
        click.echo(f"{directory}: {found['documents']:,} texts, cosine with the teacher "
                   f"{cosine['before']:.3f} before and {cosine['after']:.3f} after training, "
                   f"{result['seconds']:.0f} s")  # fmt: skip
