"""``motherbird export``."""

import click

from . import options
from .output import human, print_json, progress


@click.command(name="export")
@click.argument("model", metavar="MODEL")
@click.option(
    "--format", required=True, metavar="FORMAT", help="What it becomes: hf, onnx or openvino."
)
@click.option("--out", required=True, metavar="DIR", help="Where it goes; a folder of its own.")
@click.option(
    "--head",
    default="auto",
    metavar="HEAD",
    show_default=True,
    help="auto, none, pooling (a vector for each text), logits (the checkpoint's own head).",
)
@click.option(
    "--dtype",
    default="auto",
    metavar="DTYPE",
    show_default=True,
    help="auto (float32; hf as stored), float32, int8 (onnx only).",
)
@options.revision
@options.threads
@options.as_json
def command(
    model: str,
    format: str,
    out: str,
    head: str,
    dtype: str,
    revision: str | None,
    threads: int | None,
    json_: bool,
) -> None:
    """Write MODEL (a folder, or owner/name on the Hub) for others to run.

    \b
    motherbird export motherbird-demo --format onnx --out motherbird-onnx

    The exported file is compared with the model on documents of 1 to 8,192 tokens; what differs
    is not kept, and the figures are in certificate.json beside it. An earlier export is replaced.

    With --json, the certificate: {"model", "head", "format", "dtype", "file", "versions",
    "machine", "tolerance": {"difference", "cosine"}, "difference", "cosine", "passed",
    "cases": [{"lengths", "output", "packed": {"difference", "cosine", "largest"},
    "one_by_one": {"difference", "cosine", "largest"}}]}.
    """  # noqa: D301
    path = options.output(out, [model])
    options.set_threads(threads)
    from ..export import export

    with progress("comparing", total=1, quiet=json_) as advance:
        certificate = export(
            model, path, format, head=head, dtype=dtype, revision=revision,
            on_case=lambda tokens, of: advance(tokens / of),
        )  # fmt: skip
    if json_:
        print_json(certificate.as_dict())
        return
    size = sum(p.stat().st_size for p in (path / certificate.file).parent.glob("*model*"))
    longest = max(max(case.lengths) for case in certificate.cases)
    cosine = "" if certificate.cosine is None else f", cosine {certificate.cosine:.7f}"
    click.echo(
        f"{path / certificate.file}: {certificate.dtype}, {human(size, 'B')}; differs from the "
        f"model by at most {certificate.difference:.1e}{cosine}, up to {longest:,} tokens"
    )
