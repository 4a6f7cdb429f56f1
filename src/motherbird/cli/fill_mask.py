"""``motherbird fill-mask``."""

from collections import Counter
from dataclasses import asdict
from typing import Any

import click

from . import options
from .output import print_json


@click.command(name="fill-mask")
@click.argument("text", callback=options.as_utf_8)
@options.model
@click.option(
    "--top-k", default=5, show_default=True, metavar="K", help="Number of candidates for each mask."
)
@options.loading
@options.as_json
def command(
    text: str,
    model: str,
    top_k: int,
    json_: bool,
    **load: Any,  # options of `MaskedLM.load`
) -> None:
    """Predict the words at [MASK] in TEXT, a text in quotes (not a file).

    \b
    motherbird fill-mask "import [MASK] as np"

    With --json: {"text", "masks": [[{"text", "probability", "token_id"}]]}, one list for each mask.
    """  # noqa: D301
    from ..core.arguments import check_text
    from ..models.masked_lm import MaskedLM

    check_text(text, "TEXT", allow_empty=True)
    loaded = MaskedLM.load(model, **load)
    masks = loaded.fill(text, top_k)
    if json_:
        print_json({"text": text, "masks": [[asdict(c) for c in mask] for mask in masks]})
        return
    for number, mask in enumerate(masks, 1):
        if len(masks) > 1:
            click.echo(f"mask {number}")
        times = Counter(candidate.text for candidate in mask)
        for candidate in mask:
            # The repr distinguishes white space, and tokens such as "name" and " name".
            plain = candidate.text and times[candidate.text] == 1
            shown = candidate.text if plain else repr(loaded.text_of(candidate.token_id))
            click.echo(f"{candidate.probability:7.1%}  {shown}")
