"""``motherbird evaluate``."""

from dataclasses import asdict

import click

from . import options
from .output import print_json, progress


@click.command(name="evaluate")
@options.model
@click.option("--data", required=True, metavar="DIR", help="What motherbird prepare has made.")
@click.option("--seq-len", type=click.IntRange(8), default=1024, show_default=True, metavar="N",
              help="Tokens of a row; the set has to be prepared for it.")  # fmt: skip
@click.option("--tokens", type=click.IntRange(1), default=200_000, show_default=True, metavar="N",
              help="Of each source at most.")  # fmt: skip
@click.option("--masking", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.15,
              show_default=True, metavar="SHARE", help="Tokens that are masked.")  # fmt: skip
@options.attention
@options.revision
@options.compute
@options.as_json
def command(
    model: str,
    data: str,
    seq_len: int,
    tokens: int,
    masking: float,
    attention: str,
    revision: str | None,
    device: str,
    dtype: str,
    threads: int | None,
    json_: bool,
) -> None:
    """Masked-LM loss and accuracy of a model on held-out text, by source.

    \b
    motherbird evaluate --model model --data set

    The text is what motherbird prepare --eval set aside, the masks are always the same. "unigram"
    is the loss of guessing by the tokens' own frequencies; "gain" what is read from the context.

    With --json: {"model", "data", "seq_len", "masking", "sources": {name: {"loss", "accuracy",
    "masked", "unigram", "bytes_a_token", "nats_a_byte"}}}; losses in nats a token, "all" last.
    """  # noqa: D301
    options.set_threads(threads)
    from ..data.prepared import PreparedDataset
    from ..nn.heads import MaskedLM
    from ..train.evaluation import by_source

    prepared = PreparedDataset(data)
    loaded = MaskedLM.load(
        model, dtype=dtype, attention=attention, device=device, revision=revision
    )
    sources: dict[str, dict[str, float]] = {}
    with progress("evaluating", total=len(prepared.about.sources) + 1, quiet=json_) as advance:
        for name, found in by_source(loaded, prepared, seq_len, tokens=tokens, rate=masking):
            advance(1, name)
            if not json_ and not sources:
                click.echo(f"{'source':<22}{'loss':>8}{'gain':>8}{'accuracy':>10}{'masked':>9}")
            sources[name] = {**asdict(found), "nats_a_byte": found.nats_a_byte}
            if not json_:
                gain = found.unigram - found.loss
                click.echo(
                    f"{name:<22}{found.loss:>8.3f}{gain:>8.3f}{found.accuracy:>10.1%}"
                    f"{found.masked:>9,}"
                )
    if json_:
        print_json(
            {"model": model, "data": data, "seq_len": seq_len, "masking": masking,
             "sources": sources}
        )  # fmt: skip
