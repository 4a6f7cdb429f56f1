"""``motherbird embed``."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options
from .output import print_result, progress
from .texts import inputs_of, read_texts

if TYPE_CHECKING:
    import numpy as np


@click.command(name="embed")
@click.argument("file", metavar="FILE")
@options.model
@click.option("--out", required=True, metavar="OUT.npy", help="The file to write.")
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
@options.loading
@options.as_json
def command(
    file: str,
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
    json_: bool,
    **load: Any,  # options of `Embedder.load`
) -> None:
    """Compute a vector for each text of FILE, as a float32 array (texts, dimensions) in --out.

    A .csv, .tsv, .jsonl or .parquet file has a text in --column of each row; in any other file,
    every line is a text. - is standard input. Row i of the array belongs to text i. The model and
    the settings are written to OUT.npy.json. Existing files are replaced.

    With --json: {"out", "texts", "dimensions", "tokens", "truncated", "model", "revision", "dtype",
    "pooling", "prompt", "normalize", "max_length", "split_special_tokens", "motherbird",
    "seconds"}.
    """
    path = _check_out(file, model, out)
    from .. import __version__
    from ..models.embedder import Embedder

    texts = list(read_texts(file, column))
    embedder = Embedder.load(model, **load)
    normalize = embedder.normalize if normalize is None else normalize
    start = time.perf_counter()
    ids, truncated = embedder.tokenize(
        [text.text for text in texts], prompt_name=prompt_name, prompt=prompt,
        max_length=max_length, truncate=truncate, names=[text.source for text in texts],
    )  # fmt: skip
    with progress("embedding", total=len(ids), quiet=json_) as advance:
        vectors = embedder.embed_ids(
            ids, normalize=normalize, truncate_dim=truncate_dim, batch_tokens=batch_tokens,
            on_batch=advance, left_out=embedder.left_out(prompt_name, prompt),
        )  # fmt: skip
    seconds = round(time.perf_counter() - start, 3)
    about = {
        "out": str(path), "texts": len(vectors), "dimensions": vectors.shape[1],
        "tokens": sum(map(len, ids)), "truncated": truncated,
        "model": model, "revision": load["revision"],
        "dtype": embedder.model.dtype, "pooling": embedder.pooling,
        "prompt": embedder.find_prompt(prompt_name, prompt), "normalize": normalize,
        "max_length": max_length or embedder.max_length,
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
