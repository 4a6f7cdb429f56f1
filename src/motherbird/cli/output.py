"""What commands print: tables and bars on a terminal, plain lines elsewhere, or one JSON value."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click


def print_json(value: Any) -> None:
    """Print the one JSON document of a command that was called with --json."""
    unicode = "utf" in (getattr(sys.stdout, "encoding", None) or "").lower()
    click.echo(json.dumps(value, indent=2, ensure_ascii=not unicode))


def is_terminal() -> bool:
    """Whether standard error, where progress goes, is a terminal (and not closed)."""
    return sys.stderr is not None and sys.stderr.isatty()


def is_colour() -> bool:
    """Whether standard output is a terminal that wants colours (no-color.org)."""
    return sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")


@contextmanager
def progress(what: str, total: int | float, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """A progress bar on standard error, where that is a terminal.

    Yields a function that is called with how much was done, and a text to show beside the bar.
    """
    if quiet or not is_terminal():
        yield lambda done, text="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, text="")
        yield lambda done, text="": bar.update(task, advance=done, text=text)


@contextmanager
def progress_of_share(what: str, quiet: bool) -> Iterator[Callable[[float, str], None]]:
    """`progress` for work that says what share of it is done, 0 to 1."""
    with progress(what, total=1, quiet=quiet) as advance:
        at = 0.0

        def show(share: float, text: str) -> None:
            nonlocal at
            advance(share - at, text)
            at = share

        yield show


def human(number: int | float, unit: str = "") -> str:
    """1234567 -> "1.2M"."""
    for suffix in ("", "k", "M", "G"):
        if abs(number) < 1000:
            return f"{number:.3g}{suffix}{unit}"
        number /= 1000
    return f"{number:.3g}T{unit}"
