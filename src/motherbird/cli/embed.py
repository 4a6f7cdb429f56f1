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
@click.option("--out", required=True, metavar="FILE.npy", help="The file to write.")
@click.option("--prompt", metavar="TEXT", help="The name of a prompt of the model, or any text.")
@click.option("--max-length", type=int, metavar="N", help="Maximum number of tokens per text.")
@click.option(
    "--truncate", is_flag=True, help="Truncate longer texts; without it, they are an error."
)
@click.option("--truncate-dim", type=int, metavar="N", help="Keep only the first N dimensions.")
@click.option("--no-normalize", is_flag=True, help="Do not scale the vectors to length 1.")
@click.option("--batch-tokens", type=int, metavar="N",
              help="Tokens per batch (default: depends on the device).")  # fmt: skip
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
    """Compute a vector for each text of FILE, as a float32 array (texts, dimensions) in --out.

    Every line of FILE is a text; a .jsonl file has them in its field "text"; - is standard input.
    Row i of the array belongs to text i. An existing --out is replaced.

    With --json: {"out", "texts", "dimensions", "tokens", "truncated", "seconds"}.
    """
    path = _check_out(out, [*options.directories(model), *([file] if file != "-" else [])])
    options.check_text(prompt or "")
    options.set_threads(threads)
    from ..files import write_array
    from ..models.embedder import Embedder

    texts = _read(file)
    embedder = Embedder.load(
        model, dtype=dtype, attention=attention, device=device, revision=revision
    )
    start = time.perf_counter()
    ids, truncated = embedder.tokenize(
        [text.text for text in texts], prompt=prompt, max_length=max_length, truncate=truncate,
        names=[text.source for text in texts],
    )  # fmt: skip
    with progress("embedding", total=len(ids), quiet=json_) as advance:
        vectors = embedder.embed_ids(
            ids, normalize=not no_normalize, truncate_dim=truncate_dim, batch_tokens=batch_tokens,
            on_batch=advance,
        )  # fmt: skip
    seconds = time.perf_counter() - start
    write_array(path, vectors)
    tokens = sum(map(len, ids))
    n, dimensions = vectors.shape
    if json_:
        print_json({"out": str(path), "texts": n, "dimensions": dimensions, "tokens": tokens,
                    "truncated": truncated, "seconds": round(seconds, 3)})  # fmt: skip
    else:
        click.echo(
            f"{path}: {n} vectors of {dimensions} dimensions, {seconds:.1f} s, "
            f"{tokens / seconds:,.0f} tokens/s"
        )


def _check_out(out: str, inputs: list[str]) -> Path:
    from ..errors import InputError

    path = options.output(out, inputs)
    if path.suffix != ".npy":
        raise InputError("--out is not a .npy file", out, "use a name that ends in .npy")
    if path.is_dir():
        raise InputError("--out is a directory", out, "use the name of a file in it")
    return path


def _read(file: str) -> "list[Document]":
    """Read the lines of a file, or the texts of a .jsonl file; an empty text is an error."""
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
            raise InputError("there is no such file", file, "use - for standard input") from error
        except IsADirectoryError as error:
            raise InputError("this is a directory", file, "use a text file") from error
        except UnicodeDecodeError as error:
            raise DamagedError("not UTF-8 text", f"{file}, byte {error.start}") from error
        if lines[-1] == "":
            lines.pop()
        texts = [Document(line, f"{file}:{number}") for number, line in enumerate(lines, 1)]
    for text in texts:
        if not text.text.strip():
            raise InputError("the text is empty", text.source, "remove the line")
        if "\0" in text.text:
            raise DamagedError("this is a binary file, not text", text.source)
    if not texts:
        raise InputError("there is no text", file, "write one text per line")
    return texts
