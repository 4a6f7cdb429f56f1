"""The output of commands: progress bars and tables on a terminal, plain lines, or JSON."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from ..errors import counted
from ..errors import human as human


def print_json(value: Any, err: bool = False) -> None:
    """Print the JSON document of a command with --json, on standard output or error."""
    stream = sys.stderr if err else sys.stdout
    unicode = "utf" in (getattr(stream, "encoding", None) or "").lower()
    click.echo(json.dumps(value, indent=2, ensure_ascii=not unicode), err=err)


def print_result(value: Any, text: str, json_: bool) -> None:
    """Print the result of a command as one JSON document, or as text."""
    if json_:
        print_json(value)
    else:
        click.echo(text)


def is_terminal() -> bool:
    """Return whether standard error is a terminal, which shows progress bars."""
    return sys.stderr is not None and sys.stderr.isatty()


def has_color() -> bool:
    """Return whether standard output is a terminal with colors (no-color.org)."""
    return sys.stdout is not None and sys.stdout.isatty() and not os.environ.get("NO_COLOR")


@contextmanager
def progress(
    what: str, total: int | float | None, quiet: bool = False
) -> Iterator[Callable[..., None]]:
    """Show a progress bar on standard error, if that is a terminal; yield what updates it.

    ``done`` advances the bar, and ``completed`` sets it, in units of ``total``; None if that is not
    known.
    """
    if quiet or not is_terminal():
        yield lambda done=None, text="", completed=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    words, more = TextColumn("{task.description}"), TextColumn("{task.fields[text]}")
    columns = (words, BarColumn(), TimeRemainingColumn(), more)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total, text="")
        yield lambda done=None, text="", completed=None: bar.update(
            task, advance=done, completed=completed, text=text
        )


@contextmanager
def progress_of_fraction(what: str, quiet: bool) -> Iterator[Callable[[float, str], None]]:
    """Show `progress` for work that reports the fraction that is done, 0 to 1."""
    with progress(what, total=1, quiet=quiet) as update:
        yield lambda fraction, text: update(completed=fraction, text=text)


def count_line(
    what: str, noun: str, reason: str, count: Any, how: str = "set files in the mixture"
) -> str:
    """Return a line about what was dropped or skipped for a reason, a `data.tally.Count`."""
    from ..data.readers.listing import OTHER_SUFFIXES

    size = f"{counted(count.documents, noun)}, {human(count.bytes, 'B')}"
    hint = f"; {how} to read them" if reason == OTHER_SUFFIXES else ""
    return f"{what} {size}: {reason} ({count.example()}){hint}"
