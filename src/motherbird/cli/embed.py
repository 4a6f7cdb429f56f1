"""``motherbird embed``."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options
from .output import print_json, progress

if TYPE_CHECKING:
    from ..data.readers import Document


@click.command(name="embed")
@click.argument("file", metavar="FILE")
@options.model
@click.option("--out", required=True, metavar="FILE.npy", help="Where the vectors go.")
@click.option("--prompt", metavar="TEXT", help="A prompt of the model, by name, or any text.")
@click.option("--max-length", type=int, metavar="N", help="Longest text in tokens.")
@click.option("--truncate", is_flag=True, help="Cut longer texts instead of refusing them.")
@click.option("--truncate-dim", type=int, metavar="N", help="Keep only the first N dimensions.")
@click.option("--no-normalize", is_flag=True, help="Leave the length of the vectors as it is.")
@click.option(
    "--batch-tokens",
    type=int,
    metavar="N",
    help="Tokens of a batch; what suits the device if not set.",
)
@options.attention
@options.revision
@options.compute
@options.as_json
def command(
    file: str,
    model: str,
    out: str,
    prompt: str | None,
    max_length: int | None,
    truncate: bool,
    truncate_dim: int | None,
    no_normalize: bool,
    batch_tokens: int | None,
    attention: str,
    revision: str | None,
    device: str,
    dtype: str,
    threads: int | None,
    json_: bool,
) -> None:
    """Turn the texts of FILE into vectors, a float32 array (texts, width) in --out.

    FILE has one text a line, or is a .jsonl with a field "text"; - is standard input. Row i of the
    array belongs to text i. An existing --out is replaced.

    With --json: {"out", "texts", "dimensions", "tokens", "truncated", "seconds"}.
    """
    path = options.output(out, [model, *([file] if file != "-" else [])])
    if path.suffix != ".npy":
        from ..errors import InputError

        raise InputError("--out is no .npy file", out, "write a name that ends in .npy")
    if path.is_dir():
        from ..errors import InputError

        raise InputError("--out is a folder", out, "name a file in it")
    options.check_text(prompt or "")
    options.set_threads(threads)
    import numpy as np

    from ..files import write_file
    from ..models.embedder import Embedder

    texts = _read(file)
    embedder = Embedder.load(
        model, dtype=dtype, attention=attention, device=device, revision=revision
    )
    start = time.perf_counter()
    ids, truncated = embedder.tokenize(
        [text.text for text in texts],
        prompt=prompt,
        max_length=max_length,
        truncate=truncate,
        names=[text.source for text in texts],
    )
    with progress("embedding", total=len(ids), quiet=json_) as advance:
        vectors = embedder.embed_ids(
            ids,
            normalize=not no_normalize,
            truncate_dim=truncate_dim,
            batch_tokens=batch_tokens,
            on_batch=advance,
        )
    seconds = time.perf_counter() - start

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            np.save(stream, vectors, allow_pickle=False)

    write_file(path, write)
    tokens = sum(map(len, ids))
    n, dimensions = vectors.shape
    if json_:
        print_json(
            {
                "out": str(path),
                "texts": n,
                "dimensions": dimensions,
                "tokens": tokens,
                "truncated": truncated,
                "seconds": round(seconds, 3),
            }
        )
    else:
        rate = tokens / seconds
        click.echo(f"{n} vectors of {dimensions} in {path}: {seconds:.1f} s, {rate:,.0f} tokens/s")


def _read(file: str) -> "list[Document]":
    """One text a line, or the texts of a .jsonl; an empty one is named, not skipped."""
    from ..data.readers import Document, jsonl, plain_name, read
    from ..errors import DamagedError, InputError

    if file != "-" and plain_name(Path(file)).endswith(jsonl.SUFFIXES):
        texts = list(read(file, keep_empty=True))
    else:
        try:
            if file == "-":
                data = sys.stdin.buffer.read() if sys.stdin is not None else b""
            else:
                data = Path(file).read_bytes()
            lines = data.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
        except FileNotFoundError as error:
            raise InputError("there is no such file", file, "- reads standard input") from error
        except IsADirectoryError as error:
            raise InputError("this is a folder", file, "give a file of text") from error
        except UnicodeDecodeError as error:
            raise DamagedError("not UTF-8 text", f"{file}, byte {error.start}") from error
        if lines[-1] == "":
            lines.pop()
        texts = [Document(line, f"{file}:{number}") for number, line in enumerate(lines, 1)]
    for text in texts:
        if not text.text.strip():
            raise InputError("an empty text has no vector", text.source, "remove the line")
        if "\0" in text.text:
            raise DamagedError("a binary file, not text", text.source)
    if not texts:
        raise InputError("no text was found", file, "give one text a line")
    return texts
