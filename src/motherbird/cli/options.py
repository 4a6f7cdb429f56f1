"""Options that several commands share, so that an option has one meaning everywhere."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..core.hub import NANO, is_included
from ..machine import MAX_THREADS

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option("--json", "json_", is_flag=True,
                       help="Print the result as one JSON document.")  # fmt: skip
model = click.option("--model", default=NANO, show_default=True, metavar="MODEL",
                     help="The included motherbird-nano, a model directory, or owner/name on "
                     "the Hub.")  # fmt: skip
revision = click.option("--revision", metavar="REV", help="Branch, tag or commit on the Hub.")
attention = click.option("--attention", default="auto", metavar="NAME", show_default=True,
                         help="Attention kernel: auto, flash, tiled, banded or oracle."
                         )  # fmt: skip
device = click.option("--device", default="cpu", metavar="DEVICE", show_default=True,
                      help="Device: cpu, cuda or mps.")  # fmt: skip
dtype = click.option("--dtype", default="auto", metavar="DTYPE", show_default=True,
                     help="auto (the fastest on this machine), float32, bfloat16, float16, "
                     "float64 or int8.")  # fmt: skip
stored = click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32",
                      show_default=True,
                      help="Dtype of the written weights; bfloat16 halves the size.")  # fmt: skip
threads = click.option("--threads", type=click.IntRange(1, MAX_THREADS), metavar="N",
                       help="Number of CPU threads (default: all cores).")  # fmt: skip
seed = click.option("--seed", default=0, metavar="N", show_default=True,
                    type=click.IntRange(0, 2**63 - 1), help="Random seed.")  # fmt: skip
max_bad = click.option("--max-bad", type=click.FloatRange(0, 1), metavar="FRACTION",
                       help="Fraction of documents, and of the bytes of files, that may be "
                       "unreadable; with 0, the first one is an error. A file that is not text, or "
                       "cannot be read to its end, counts with all its bytes.")  # fmt: skip


def compute(function: F) -> F:
    """Add --device, --dtype and --threads."""
    return device(dtype(threads(function)))


def is_main_process() -> bool:
    """Return whether this process prints: it is the only one, or rank 0 under torchrun."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def set_threads(count: int | None) -> None:
    """Set the number of CPU threads; None changes nothing."""
    if count is not None:
        from ..core import threads

        threads.limit(count)


def directories(*models: str) -> list[str]:
    """Return the models that may be directories, without the name of the included model."""
    return [model for model in models if not is_included(model)]


def output(path: str, inputs: list[str]) -> Path:
    """Return an output path in UTF-8 whose parent exists, and which is not in an input."""
    from ..errors import InputError
    from ..files import check_utf_8, path_outside

    if not all([path, *inputs]):
        raise InputError("a path or text is empty", how="use . for the current directory")
    check_utf_8(path)
    out = Path(path).resolve()
    for given in inputs:
        path_in = Path(given).resolve()
        if out == path_in or (path_in.is_dir() and path_in in out.parents):
            same = "the output is the input"
            what = same if out == path_in else f"the output is inside the input {given}"
            how = f"use another path, such as {path_outside(out, inputs)}"
            raise InputError(what, path, how)
    if not out.parent.is_dir():
        raise InputError("the directory of the output does not exist", str(out.parent), "create it")
    return Path(path)


def output_file(path: str, inputs: list[str], option: str, suffix: str) -> Path:
    """Return an output path as `output` does, of a file whose name has to end in a suffix."""
    from ..errors import InputError

    if path and not path.lower().endswith(suffix):
        raise InputError(
            f"{option} is not a {suffix} file", path, f"use a name that ends in {suffix}"
        )
    out = output(path, inputs)
    if out.is_dir():
        raise InputError(f"{option} is a directory", path, "use the name of a file in it")
    return out
