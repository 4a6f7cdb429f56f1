"""The logs of a run: a JSON line for each step with its evaluation, and one for each event.

``log.jsonl`` depends on the run alone, except for its times: when a run resumes from a checkpoint,
the lines of later steps are removed and written again. ``events.jsonl`` records what happened to
the processes of the run, and only grows. An incomplete line after a kill is removed.
"""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from .. import disk
from ..files import write_text

log = logging.getLogger(__name__)

LOG, EVENTS = "log.jsonl", "events.jsonl"
# Keys that differ between equal runs; "save" is the time of the checkpoint after the last step.
TIMES = ("seconds", "wait", "save")


class RunLog:
    """Appends to a run's log and events, on rank 0, after removing the lines of later steps."""

    def __init__(self, run: Path, step: int) -> None:
        self.run = run
        self._failed = False
        self._files: dict[str, TextIO] = {}
        for name in (LOG, EVENTS):
            path = run / name
            if path.exists():
                lines = _complete_lines(path)
                kept = "".join(each for each in lines if name == EVENTS or _step(each) <= step)
                if kept != path.read_text(encoding="utf-8", errors="replace"):
                    write_text(path, kept)
            self._files[name] = path.open("a", encoding="utf-8", buffering=1)

    def step(self, line: dict[str, Any]) -> None:
        """Log a step."""
        self._write(LOG, line)

    def event(self, event: str, step: int, **more: Any) -> None:
        """Log an event, such as "start", "stop", "skip" or "roll back"."""
        self._write(EVENTS, {"time": time.time(), "event": event, "step": step, **more})

    def _write(self, name: str, line: dict[str, Any]) -> None:
        try:
            self._files[name].write(json.dumps(line) + "\n")
        except (OSError, ValueError) as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        """Warn once; training continues without its log."""
        if not self._failed:
            log.warning("the log of %s cannot be written (%s)", self.run, error)
        self._failed = True

    def sync(self) -> None:
        """Wait until all lines are on the disk, so that a checkpoint never has more steps."""
        try:
            for path in (self.run / LOG, self.run / EVENTS, self.run):
                disk.sync(path)
        except OSError as error:
            self._warn(error)

    def close(self) -> None:
        """Close both files."""
        for file in self._files.values():
            try:
                file.close()
            except OSError as error:
                log.warning("%s is incomplete (%s)", file.name, error)


def _complete_lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                json.loads(line)
            except ValueError:
                continue
            if line.endswith("\n"):
                yield line


def _step(line: str) -> int:
    return int(json.loads(line)["step"])


def read(run: Path, name: str = LOG) -> list[dict[str, Any]]:
    """Return the lines of the log or of the events; none if there is no file."""
    path = run / name
    return [json.loads(line) for line in _complete_lines(path)] if path.exists() else []
