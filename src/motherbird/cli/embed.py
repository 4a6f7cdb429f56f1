"""``motherbird embed``."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options
from .embed_shards import Layout, embed_shards, is_directory
from .output import print_result, progress
from .texts import inputs_of, read_texts

if TYPE_CHECKING:
    import numpy as np


@click.command(name="embed")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@options.model
@click.option("--out", required=True, metavar="OUT.npy|DIR",
              help="The file to write, or a directory or a URL for Parquet shards.")  # fmt: skip
@click.option("--column", metavar="NAME", callback=options.not_empty,
              help="The column or field of a table with the texts (default: text).")  # fmt: skip
@click.option("--prompt-name", metavar="NAME", callback=options.not_empty,
              help="One of the model's prompts, which is put before each text.")  # fmt: skip
@click.option("--prompt", metavar="TEXT", callback=options.as_utf_8,
              help="A text to put before each text.")  # fmt: skip
@click.option(
    "--max-length",
    type=int,
    metavar="N",
    help="Maximum number of tokens per text, with the prompt (default: the model's limit).",
)
@click.option(
    "--truncate", is_flag=True, help="Truncate longer texts; without it, they are an error."
)
@click.option("--truncate-dim", type=int, metavar="N", help="Keep only the first N dimensions.")
@click.option("--normalize/--no-normalize", default=None,
              help="Scale the vectors to length 1 (default: as the model says).")  # fmt: skip
@click.option("--split-special-tokens", is_flag=True,
              help="Treat [SEP] and other special tokens in a text like other text; without it, "
              "[SEP] in a text is the token that ends a text.")  # fmt: skip
@click.option("--batch-tokens", type=int, metavar="N",
              help="Tokens per batch (default: depends on the device).")  # fmt: skip
@click.option("--format", "format_", type=click.Choice(["npy", "parquet"]),
              help="What is written (default: parquet; npy if --out ends in .npy).")  # fmt: skip
@click.option("--id-column", metavar="NAME", callback=options.not_empty,
              help="Shards: the column with an id of each row (default: the file and the number "
              "of the row).")  # fmt: skip
@click.option("--shard-rows", type=click.IntRange(1), metavar="N",
              help="Shards: rows of each (default: 10,000).")  # fmt: skip
@click.option("--kind", type=click.Choice(["query", "document"]),
              help="Shards: what the texts are, for a model with late interaction, which gives a "
              "vector for each token.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 1024), metavar="N",
              help="Shards: processes of one thread each, or of --threads (default: this process "
              "alone; with ray, the CPUs of Ray).")  # fmt: skip
@click.option("--engine", type=click.Choice(["local", "ray"]),
              help="Shards: where they are computed (default: local).")  # fmt: skip
@click.option("--ray-address", metavar="ADDRESS", callback=options.not_empty,
              help="Shards: a Ray cluster, such as auto or ray://host:10001 (default: Ray is "
              "started on this machine).")  # fmt: skip
@options.loading
@options.as_json
def command(
    files: tuple[str, ...],
    model: str,
    out: str,
    column: str | None,
    prompt_name: str | None,
    prompt: str | None,
    max_length: int | None,
    truncate: bool,
    truncate_dim: int | None,
    normalize: bool | None,
    batch_tokens: int | None,
    format_: str | None,
    id_column: str | None,
    shard_rows: int | None,
    kind: str | None,
    workers: int | None,
    engine: str | None,
    ray_address: str | None,
    json_: bool,
    **load: Any,  # options of `Embedder.load`
) -> None:
    """Compute a vector for each text of FILE, as a float32 array (texts, dimensions) in --out.

    A .csv, .tsv, .jsonl or .parquet file has a text in --column of each row; in any other file,
    every line is a text. - is standard input. Row i of the array belongs to text i. The model and
    the settings are written to OUT.npy.json. Existing files are replaced.

    If --out is a directory, or a URL such as s3://bucket/vectors, Parquet files with --shard-rows
    rows each are written into it, and last _manifest.json, with their SHA-256. A command that was
    stopped or killed computes what is missing when it is repeated. The bytes do not depend on
    --workers, --threads and --engine.

    With --json: {"out", "texts", "dimensions", "tokens", "truncated", "model", "revision", "dtype",
    "pooling", "prompt", "normalize", "max_length", "split_special_tokens", "motherbird",
    "seconds"}, for shards: {"out", "texts", "dimensions", "tokens", "truncated", "shards",
    "computed", "model", "revision", "dtype", "pooling", "prompt", "normalize", "max_length",
    "split_special_tokens", "kind", "motherbird", "seconds"}.
    """
    layout = Layout(column, id_column, shard_rows, workers, engine, ray_address)
    if is_directory(out, format_):
        given = {"prompt": prompt, "max_length": max_length, "truncate": truncate,
                 "truncate_dim": truncate_dim, "normalize": normalize,
                 "batch_tokens": batch_tokens, "kind": kind, **load}  # fmt: skip
        embed_shards(files, out, layout, {"model": model, **given}, prompt_name, json_)
        return
    layout.check_unused(kind)
    if files[1:]:
        raise click.UsageError(
            f"a .npy file is written for one FILE, got unexpected extra argument ({files[1]})",
            click.get_current_context(),
        )
    given = {"prompt_name": prompt_name, "prompt": prompt, "max_length": max_length}
    _embed(files[0], model, _check_out(files[0], model, out), column, given, truncate, json_,
           {"normalize": normalize, "truncate_dim": truncate_dim, "batch_tokens": batch_tokens},
           load)  # fmt: skip


def _embed(
    file: str, model: str, path: Path, column: str | None, tokenize: dict[str, Any],
    truncate: bool, json_: bool, compute: dict[str, Any], load: dict[str, Any],
) -> None:  # fmt: skip
    """Write a .npy file; the dictionaries have options of `tokenize`, `embed_ids` and `load`."""
    from .. import __version__
    from ..models.embedder import Embedder

    texts = list(read_texts(file, column))
    embedder = Embedder.load(model, **load)
    if compute["normalize"] is None:
        compute["normalize"] = embedder.normalize
    start = time.perf_counter()
    ids, truncated = embedder.tokenize(
        [text.text for text in texts], **tokenize, truncate=truncate,
        names=[text.source for text in texts],
    )  # fmt: skip
    prompt = tokenize["prompt_name"], tokenize["prompt"]
    with progress("embedding", total=len(ids), quiet=json_) as advance:
        vectors = embedder.embed_ids(
            ids, **compute, on_batch=advance, left_out=embedder.left_out(*prompt)
        )
    seconds = round(time.perf_counter() - start, 3)
    about = {
        "out": str(path), "texts": len(vectors), "dimensions": vectors.shape[1],
        "tokens": sum(map(len, ids)), "truncated": truncated,
        "model": model, "revision": load["revision"],
        "dtype": embedder.model.dtype, "pooling": embedder.pooling,
        "prompt": embedder.find_prompt(*prompt), "normalize": compute["normalize"],
        "max_length": tokenize["max_length"] or embedder.max_length,
        "split_special_tokens": load["split_special_tokens"], "motherbird": __version__,
        "seconds": seconds,
    }  # fmt: skip
    _write(path, vectors, about)
    text = (
        f"{path}: {len(vectors)} vectors of {vectors.shape[1]} dimensions, {seconds:.1f} s, "
        f"{about['tokens'] / max(seconds, 1e-3):,.0f} tokens/s"
    )
    print_result(about, text, json_)


def _write(path: Path, vectors: "np.ndarray[Any, Any]", about: dict[str, Any]) -> None:
    """Write the array, and what it is beside it."""
    from ..files import write_array, write_text

    settings = path.with_name(path.name + ".json")
    write_array(path, vectors)
    try:
        write_text(settings, json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    except OSError:
        settings.unlink(missing_ok=True)  # that of another array
        raise


def _check_out(file: str, model: str, out: str) -> Path:
    from ..disk import path_outside, resolve
    from ..errors import InputError

    inputs = inputs_of(file, model)
    path = options.output_file(out, inputs, "--out", ".npy")
    settings = Path(f"{out}.json")
    if resolve(settings) in [resolve(each) for each in inputs]:
        what = "the settings of --out, which are written next to it, would replace the input"
        how = f"use another --out, such as {path_outside(path, [path])}"
        raise InputError(what, str(settings), how)
    if settings.is_dir():
        raise InputError(
            "the settings cannot be written, it is a directory", str(settings), "move it"
        )
    return path
