"""What a run writes down: a line of JSON for each step and evaluation, and one for each event.

``log.jsonl`` is a function of the run alone but for its times: lines behind a checkpoint that a run
goes on from are cut, and written again. ``events.jsonl`` is the story of its processes, and only
grows. A line that was torn by a kill is cut off.
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
# Keys of a line that differ from run to run; "save" is what saving behind the step before took.
TIMES = ("seconds", "wait", "save")


class RunLog:
    """Appends to a run's log and events, in rank 0.

    Args:
        run: the run's folder, whose lock is held.
        step: lines of later steps are cut.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.run = run
        self._failed = False
        for name in (LOG, EVENTS):
            path = run / name
            if not path.exists():
                continue
            kept = [line for line in _whole(path) if name == EVENTS or _step(line) <= step]
            if "".join(kept) != path.read_text(encoding="utf-8", errors="replace"):
                write_text(path, "".join(kept))
        self._log = self._open(LOG)
        self._events = self._open(EVENTS)

    def _open(self, name: str) -> TextIO:
        return (self.run / name).open("a", encoding="utf-8", buffering=1)

    def step(self, line: dict[str, Any]) -> None:
        """A step, or an evaluation after one."""
        self._write(self._log, line)

    def event(self, event: str, step: int, **more: Any) -> None:
        """Something that happened: "start", "stop", "skip", "roll back", "plateau" ..."""
        self._write(self._events, {"time": time.time(), "event": event, "step": step, **more})

    def _write(self, file: TextIO, line: dict[str, Any]) -> None:
        try:
            file.write(json.dumps(line) + "\n")
        except (OSError, ValueError) as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        """Once: training is worth more than its log."""
        if not self._failed:
            log.warning("the log of %s cannot be written (%s)", self.run, error)
        self._failed = True

    def sync(self) -> None:
        """Wait until all lines are on the disk: before a save, so that no state outlives them."""
        try:
            for name in (LOG, EVENTS):
                disk.sync(self.run / name)
            disk.sync(self.run)
        except OSError as error:
            self._warn(error)

    def close(self) -> None:
        """At the end of a process."""
        for file in (self._log, self._events):
            try:
                file.close()
            except OSError as error:
                log.warning("%s was not written to its end (%s)", file.name, error)


def _whole(path: Path) -> Iterator[str]:
    """The lines of a file but for a torn one."""
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
    """The lines of a log or of the events, in order; none where there is no file."""
    path = run / name
    return [json.loads(line) for line in _whole(path)] if path.exists() else []
