"""``motherbird demo``: train a tokenizer and a tiny encoder on text, fill masks, and search."""

import math
import time
from functools import partial

import click

from ..core.hub import NANO
from . import options
from .output import print_json

NEXT = """
Saved in {out} after {seconds:.0f} seconds. Now try:
  motherbird fill-mask "import [MASK]" --model {out}
  motherbird fill-mask "import [MASK]"    # with {nano}
  echo 'compress a file' | motherbird embed - --model {out} --out vectors.npy
  motherbird info {out}
  motherbird demo --text DIRECTORY --out other-demo"""


@click.command(name="demo")
@click.option(
    "--text", metavar="PATH", help="A file or directory of text instead of Python's library."
)
@click.option("--out", default="motherbird-demo", metavar="DIR", show_default=True,
              help="Output directory.")  # fmt: skip
@click.option("--minutes", default=3.0, metavar="M", show_default=True,
              type=click.FloatRange(0.1, 24 * 60), help="Approximate duration.")  # fmt: skip
@click.option("--question", "questions", multiple=True, metavar="TEXT",
              callback=options.as_utf_8,
              help="A question to search for; repeatable.")  # fmt: skip
@options.seed
@options.threads
@options.as_json
def command(
    text: str | None,
    out: str,
    minutes: float,
    questions: tuple[str, ...],
    seed: int,
    json_: bool,
) -> None:
    """Train a tiny encoder on text of this machine, fill masks, and search.

    Without --text it reads the sources and documentation of the running Python; no network is used.
    An --out that an earlier demo wrote is replaced; any other existing directory is an error.

    With --json: {"out", "seconds", "documents", "megabytes", "vocabulary", "parameters", "steps",
    "tokens_per_second", "held_out_loss", "unigram_entropy", "gain", "fills", "nano_fills",
    "searches"}; losses in nats per token, both fills [{"text", "candidates"}], searches
    [{"question", "hits": [{"source", "title", "score"}]}].
    """
    from ..core.arguments import check_text
    from ..errors import InputError
    from ..files import check_replaceable

    start = time.perf_counter()
    out_path = options.output_directory(out, [text] if text is not None else [])
    check_replaceable(out_path, "demo")
    if not math.isfinite(minutes):
        raise InputError(f"--minutes {minutes} is not a duration")
    for question in questions:
        check_text(question, "--question")

    from . import demo_steps

    say = partial(click.echo, err=json_)
    report = demo_steps.run(text, out_path, minutes * 60, questions, seed, say)
    seconds = round(time.perf_counter() - start, 1)
    say(NEXT.format(out=out, seconds=seconds, nano=NANO))
    if json_:
        print_json({"out": out, "seconds": seconds, **report})
