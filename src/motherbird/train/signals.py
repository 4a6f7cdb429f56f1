"""SIGTERM and Ctrl-C: the first lets the current step finish, the second ends the process."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

IGNORE_SECONDS = 1.0  # seconds; a scheduler and torchrun may both pass on the same signal


class Signals:
    """A signal handler that stores the number of the first signal; `number` is None before."""

    def __init__(self) -> None:
        self.number: int | None = None  # also set when another rank received one
        self._first: float | None = None

    def __call__(self, number: int, stack: FrameType | None) -> None:
        """Handle a signal."""
        if self._first is None:
            self.number, self._first = number, time.monotonic()
        elif time.monotonic() - self._first > IGNORE_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@contextmanager
def deferred() -> Iterator[Signals]:
    """Only store signals while the block lasts; does nothing outside the main thread."""
    signals = Signals()
    before = {}
    try:
        for kind in (signal.SIGTERM, signal.SIGINT):
            before[kind] = signal.signal(kind, signals)
    except ValueError:  # not in the main thread
        before = {}
    try:
        yield signals
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
