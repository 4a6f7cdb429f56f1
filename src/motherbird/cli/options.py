"""Options that several commands share, so that an option has one meaning everywhere."""

import contextlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..core.hub import NANO, is_included
from ..machine import MAX_THREADS

F = TypeVar("F", bound=Callable[..., Any])


def not_empty(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse an empty value of an option; the callback of a parameter."""
    if value == "":
        raise click.BadParameter("it is empty")
    return value


def _set_threads(context: click.Context, parameter: click.Parameter, value: int | None) -> None:
    if value is not None:
        from ..core import threads  # imports NumPy, which the help of commands does not need

        threads.limit(value)


def as_utf_8(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Decode texts as UTF-8 that Python could not decode in this locale; for a callback."""
    if isinstance(value, tuple):
        return tuple(as_utf_8(context, parameter, text) for text in value)
    if value is not None and re.search("[\udc80-\udcff]", value):
        with contextlib.suppress(UnicodeError):
            return os.fsencode(value).decode()
    return value


as_json = click.option("--json", "json_", is_flag=True,
                       help="Print the result as one JSON document.")  # fmt: skip
model = click.option("--model", default=NANO, show_default=True, metavar="MODEL",
                     help="The included motherbird-nano, a model directory, or owner/name on "
                     "the Hub.")  # fmt: skip
static_model = click.option(
    "--model", default=NANO, show_default=True, metavar="MODEL", callback=not_empty,
    help="The included motherbird-nano, static vectors (motherbird distill static), or an encoder "
    "that was initialized from them."
)  # fmt: skip
revision = click.option(
    "--revision", metavar="REV", callback=not_empty, help="Branch, tag or commit on the Hub."
)
attention = click.option("--attention", default="auto", metavar="NAME", show_default=True,
                         callback=not_empty,
                         help="Attention kernel: leave it at auto. flash, tiled, banded and oracle "
                         "are for comparisons, and need torch.")  # fmt: skip
device = click.option("--device", default="cpu", metavar="DEVICE", show_default=True,
                      callback=not_empty,
                      help="Device: cpu, cuda or mps.")  # fmt: skip
dtype = click.option("--dtype", default="auto", metavar="DTYPE", show_default=True,
                     callback=not_empty,
                     help="auto (the fastest on this machine), float32, bfloat16 or int8; float16 "
                     "and float64 need torch.")  # fmt: skip
stored = click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32",
                      show_default=True,
                      help="Dtype of the written weights; bfloat16 halves the size.")  # fmt: skip
threads = click.option("--threads", type=click.IntRange(1, MAX_THREADS), metavar="N",
                       callback=_set_threads, expose_value=False,
                       help="Number of CPU threads (default: all cores).")  # fmt: skip
seed = click.option("--seed", default=0, metavar="N", show_default=True,
                    type=click.IntRange(0, 2**63 - 1), help="Random seed.")  # fmt: skip
max_bad = click.option("--max-bad", type=click.FloatRange(0, 1), metavar="FRACTION",
                       help="Fraction of documents, and of the bytes of files, that may be "
                       "unreadable; with 0, the first one is an error. A file that is not text, or "
                       "cannot be read to its end, counts with all its bytes.")  # fmt: skip


def _empty_parameter() -> str:
    """Return the name of the empty option or argument of the command."""
    context = click.get_current_context()
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if value == "" or (isinstance(value, tuple) and "" in value):
            return parameter.get_error_hint(context)
    return "a path"


def loading(function: F) -> F:
    """Add what `load` of a model takes, as keywords, and --threads."""
    return attention(revision(device(dtype(threads(function)))))


def is_main_process() -> bool:
    """Return whether this process prints: it is the only one, or rank 0 under torchrun."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def directories(*models: str) -> list[str]:
    """Return the models that may be directories, without the name of the included model."""
    return [model for model in models if not is_included(model)]


def output(path: str, inputs: list[str]) -> Path:
    """Return an output path in UTF-8 that can be created, and which is not in an input."""
    from .. import disk
    from ..errors import InputError
    from ..files import check_utf_8

    if not all([path, *inputs]):
        how = "use . for the current directory"
        raise InputError(f"{_empty_parameter()} is empty", how=how)
    check_utf_8(path)
    disk.check_outside(path, inputs)
    out = disk.resolve(path)
    if not out.is_dir():  # a run is continued inside its directory
        disk.check_creatable(Path(path))
    if not out.parent.is_dir():
        raise InputError("the directory of the output does not exist", str(out.parent), "create it")
    return Path(path)


def output_directory(path: str, inputs: list[str]) -> Path:
    """Return an output path as `output` does, of a new directory; see `disk.check_place`."""
    from .. import disk

    out = output(path, inputs)
    disk.check_place(out)
    return out


def output_file(path: str, inputs: list[str], option: str, *suffixes: str) -> Path:
    """Return an output path as `output` does, of a file whose name has to end in a suffix."""
    from ..errors import InputError

    if path and Path(path).is_dir():
        raise InputError(f"{option} is a directory", path, "use the name of a file in it")
    if path and not path.lower().endswith(suffixes):
        kinds = " or ".join(suffixes)
        raise InputError(
            f"{option} is not a {kinds} file", path, f"use a name that ends in {kinds}"
        )
    return output(path, inputs)
