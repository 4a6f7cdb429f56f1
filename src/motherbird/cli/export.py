"""``motherbird export``."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from . import options
from .output import human, print_result, progress


@click.command(name="export")
@click.argument("model", metavar="MODEL")
@click.option("--format", metavar="FORMAT",
              help="Format: hf, onnx or openvino; for a run, hf is the default.")  # fmt: skip
@click.option("--out", required=True, metavar="DIR", help="The directory to write.")
@click.option("--head", default="auto", metavar="HEAD", show_default=True,
              help="auto, none, pooling (a vector for each text) or logits (the checkpoint's head)."
              )  # fmt: skip
@click.option("--dtype", default="auto", metavar="DTYPE", show_default=True,
              help="auto, float32, bfloat16 (runs only) or int8 (onnx only). auto is float32, or "
              "for hf the stored dtype.")  # fmt: skip
@click.option("--step", type=int, metavar="N",
              help="For a run: the step of the checkpoint (default: the newest).")  # fmt: skip
@click.option("--data", type=click.Path(path_type=Path), metavar="DIR",
              help="For a run: its prepared dataset, if it was moved.")  # fmt: skip
@options.revision
@options.threads
@options.as_json
def command(
    model: str,
    format: str | None,
    out: str,
    head: str,
    dtype: str,
    step: int | None,
    data: Path | None,
    revision: str | None,
    json_: bool,
) -> None:
    """Export MODEL, a directory, a run or a name on the Hub, for other libraries.

    \b
    motherbird export motherbird-demo --format onnx --out motherbird-onnx
    motherbird export run --out model

    The exported file is compared with the model on documents of 1 to 8,192 tokens. If they differ
    by more than the tolerance, nothing is written; otherwise certificate.json lists the
    differences. An earlier export in --out is replaced.

    A run of motherbird pretrain is exported to hf with a model card that says how it was trained,
    without a comparison; its JSON is {"run", "step", "sha256", "out"}.

    With --json, the certificate: {"model", "head", "format", "dtype", "file", "versions",
    "machine", "tolerance": {"difference", "cosine"}, "difference", "cosine", "passed",
    "cases": [{"lengths", "output", "packed": {"difference", "cosine", "largest"},
    "one_by_one": {"difference", "cosine", "largest"}}]}.
    """  # noqa: D301
    path = options.output_directory(out, options.directories(model))
    is_run = bool(options.directories(model)) and (Path(model) / "run.json").is_file()
    if not is_run and not (step is None and data is None):
        raise click.UsageError("--step and --data need the directory of a run.")
    if is_run and revision is not None:
        raise click.UsageError("A run has no revisions; use --step to choose a checkpoint.")
    if is_run and format in (None, "hf"):
        if head != "auto" or dtype not in ("auto", "float32", "bfloat16"):
            what = "A run is exported to hf without --head, in float32 or bfloat16."
            raise click.UsageError(what)
        _write_run(model, path, step, data, dtype, json_)
        return
    if format is None:
        raise click.UsageError("Missing option '--format'.")
    with _folder(model, step, data) if is_run else contextlib.nullcontext(model) as folder:
        _convert(folder, path, format, head, dtype, revision, json_)


def _write_run(
    run: str, path: Path, step: int | None, data: Path | None, dtype: str, json_: bool
) -> None:
    """Export a checkpoint of a run as a Hugging Face directory."""
    from ..train import runs

    stored = "float32" if dtype == "auto" else dtype
    found = runs.export(Path(run), path, step, data, stored)
    step, tokens = found.progress.step, found.progress.tokens
    value = {"run": run, "step": step, "sha256": found.sha256, "out": str(path)}
    print_result(value, f"{path}: step {step:,} of {run}, trained on {tokens:,} tokens", json_)


@contextlib.contextmanager
def _folder(run: str, step: int | None, data: Path | None) -> Iterator[str]:
    """Export a checkpoint to a temporary directory with the run's name."""
    from ..train import runs

    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / Path(run).resolve().name
        runs.export(Path(run), folder, step, data)
        yield str(folder)


def _convert(
    model: str, path: Path, format: str, head: str, dtype: str, revision: str | None, json_: bool
) -> None:
    """Export a model to a format, and compare it."""
    from ..export import export

    with progress("comparing", total=1, quiet=json_) as advance:
        certificate = export(
            model, path, format, head=head, dtype=dtype, revision=revision,
            on_case=lambda tokens, total: advance(tokens / total),
        )  # fmt: skip
    size = sum(p.stat().st_size for p in (path / certificate.file).parent.glob("*model*"))
    longest = max(max(case.lengths) for case in certificate.cases)
    cosine = "" if certificate.cosine is None else f", cosine {certificate.cosine:.7f}"
    text = (
        f"{path / certificate.file}: {certificate.dtype}, {human(size, 'B')}; differs from the "
        f"model by at most {certificate.difference:.1e}{cosine}, up to {longest:,} tokens"
    )
    print_result(asdict(certificate), text, json_)
