"""Flags that several commands share: a flag means one thing everywhere."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ..core.hub import NANO

F = TypeVar("F", bound=Callable[..., Any])

as_json = click.option(
    "--json", "json_", is_flag=True, help="Print one JSON document and nothing else."
)
model = click.option(
    "--model", default=NANO, show_default=True, metavar="DIR",
    help="A model's folder, owner/name on the Hub, or the one that comes with motherbird.",
)  # fmt: skip
revision = click.option("--revision", metavar="REV", help="Branch, tag or commit on the Hub.")
attention = click.option(
    "--attention", default="auto", metavar="NAME", show_default=True,
    help="auto, flash, tiled, banded or oracle.",
)  # fmt: skip
device = click.option(
    "--device", default="cpu", metavar="DEVICE", show_default=True, help="cpu, cuda, mps."
)
dtype = click.option(
    "--dtype", default="auto", metavar="DTYPE", show_default=True,
    help="auto (the fastest here), float32, bfloat16, float16, int8.",
)  # fmt: skip
stored = click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True,
    help="Of the written weights; bfloat16 is half the size.",
)  # fmt: skip
threads = click.option(
    "--threads",
    type=click.IntRange(1, 4096),
    metavar="N",
    help="CPU threads; all cores if not set.",
)
seed = click.option(
    "--seed",
    default=0,
    metavar="N",
    show_default=True,
    type=click.IntRange(0, 2**63 - 1),
    help="Start of all chance.",
)
max_bad = click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Share of documents that may be unreadable: 0 stops at the first, 0.01 skips up to 1%.",
)


def compute(function: F) -> F:
    """--device, --dtype and --threads."""
    for option in (threads, dtype, device):
        function = option(function)
    return function


def first_rank() -> bool:
    """Whether this process speaks: the only one, or the first of those that torchrun started."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def check_text(text: str) -> None:
    """Refuse an argument that is not UTF-8.

    Raises:
        InputError: showing it escaped.
    """
    from ..errors import InputError

    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError("an argument is not UTF-8 text", ascii(text)) from error


def set_threads(count: int | None) -> None:
    """Use this many CPU threads for torch and the tokenizer; None leaves both alone."""
    if count is not None:
        import torch

        torch.set_num_threads(count)
        os.environ["RAYON_NUM_THREADS"] = str(count)


def output(path: str, inputs: list[str]) -> Path:
    """An output path that does not lie inside an input and whose folder exists.

    Raises:
        InputError: it does.
    """
    from ..errors import InputError

    if not all([path, *inputs]):
        raise InputError("a path or text is empty", how="write . for the current folder")
    out = Path(path).resolve()
    for given in inputs:
        folder = Path(given).resolve()
        if out == folder or (folder.is_dir() and folder in out.parents):
            raise InputError(
                f"the output would lie inside the input {given}",
                str(path),
                f"name another with --out, such as ../{out.name}",
            )
    if not out.parent.is_dir():
        raise InputError("the folder to write into does not exist", str(out.parent), "create it")
    return Path(path)
