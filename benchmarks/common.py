"""Shared by the benchmarks: real texts, the description of the machine, and reports."""

import ast
import json
import random
import sysconfig
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from motherbird.data import readers
from motherbird.machine import describe as machine

__all__ = ["docstrings", "finish", "machine", "take_turns", "texts"]


def texts(path: Path | None, count: int | None = None) -> list[str]:
    """Return texts of a file, or docstrings of the standard library, in random order."""
    found = [document.text for document in readers.read(path)] if path else docstrings()
    random.Random(0).shuffle(found)
    return found[:count]


def docstrings() -> list[str]:
    """Return the docstrings of top-level modules of the standard library."""
    found = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found.append(ast.get_docstring(node))
    return [each for each in found if each]


def finish(report: dict[str, object], out: Path | None) -> None:
    """Print a report, and write it to a file if one is given."""
    written = json.dumps(report, indent=1) + "\n"
    print(written, end="")
    if out:
        out.write_text(written, encoding="utf-8")


def take_turns(
    running: Mapping[str, Iterator[float]], rounds: int, steps: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Let every system take its steps in turn, and one round more before, as a warm-up.

    Returns:
        The seconds of each round and the loss of each step, by system.
    """
    seconds: dict[str, list[float]] = {system: [] for system in running}
    losses: dict[str, list[float]] = {system: [] for system in running}
    for number in range(rounds + 1):
        for system, taking in running.items():
            start = time.perf_counter()
            losses[system] += islice(taking, steps)
            if number:
                seconds[system].append(time.perf_counter() - start)
    return seconds, losses
