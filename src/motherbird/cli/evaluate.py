"""``motherbird evaluate``: evaluate a model on a task."""

from dataclasses import asdict
from typing import Any

import click

from . import options
from .output import print_json, progress


class _Group(click.Group):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Explain that `motherbird evaluate` is now `motherbird evaluate lm`."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name
            what = f"There is no option {name} here; use motherbird evaluate lm {name} ..."
            raise click.UsageError(what, ctx) from error


@click.group(name="evaluate", cls=_Group)
def command() -> None:
    """Evaluate a model. lm: masked-LM loss and accuracy on held-out text."""


@command.command(name="lm")
@options.model
@click.option("--data", required=True, metavar="DIR", help="A dataset from motherbird prepare.")
@click.option("--seq-len", type=click.IntRange(8), default=1024, show_default=True, metavar="N",
              help="Tokens per row; the dataset has to be prepared for it.")  # fmt: skip
@click.option("--tokens", type=click.IntRange(1), default=200_000, show_default=True, metavar="N",
              help="Maximum number of tokens per source.")  # fmt: skip
@click.option("--masking", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.15,
              show_default=True, metavar="FRACTION", help="Fraction of masked tokens.")  # fmt: skip
@options.loading
@options.as_json
def lm(
    model: str,
    data: str,
    seq_len: int,
    tokens: int,
    masking: float,
    json_: bool,
    **load: Any,  # options of `MaskedLM.load`
) -> None:
    """Measure masked-LM loss and accuracy on held-out text, by source.

    \b
    motherbird evaluate lm --model model --data dataset

    The text is what motherbird prepare --eval held out; the masks are always the same. "unigram" is
    the loss of predicting by the text's token frequencies; "gain" is "unigram" minus "loss".

    With --json: {"model", "data", "seq_len", "masking", "sources": {name: {"loss", "accuracy",
    "masked", "unigram", "bytes_per_token", "nats_per_byte"}}}; losses in nats per token,
    "all" last. Where no token is masked, "masked" is 0 and the other values are null (in the table
    "-").
    """  # noqa: D301
    from ..data.prepared import PreparedDataset
    from ..errors import HeadError
    from ..nn.heads import MaskedLM
    from ..train.evaluation import evaluate_by_source

    prepared = PreparedDataset(data)
    try:
        loaded = MaskedLM.load(model, **load)
    except HeadError as error:
        how = "use one with a masked-LM head"
        raise HeadError("this model cannot predict tokens", error.where, how) from error
    sources: dict[str, dict[str, float | None]] = {}
    found = evaluate_by_source(
        loaded, prepared, seq_len, tokens=tokens, rate=masking, model_name=model
    )
    with progress("evaluating", total=len(prepared.about.sources) + 1, quiet=json_) as advance:
        for name, each in found:
            advance(1, name)
            if not json_ and not sources:
                click.echo(f"{'source':<22}{'loss':>8}{'gain':>8}{'accuracy':>10}{'masked':>9}")
            sources[name] = {**asdict(each), "nats_per_byte": each.nats_per_byte}
            if not json_:
                loss, gain = (_shown(value, ".3f") for value in (each.loss, each.gain))
                accuracy = _shown(each.accuracy, ".1%")
                click.echo(f"{name:<22}{loss:>8}{gain:>8}{accuracy:>10}{each.masked:>9,}")
    if json_:
        print_json(
            {"model": model, "data": data, "seq_len": seq_len, "masking": masking,
             "sources": sources}
        )  # fmt: skip


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
