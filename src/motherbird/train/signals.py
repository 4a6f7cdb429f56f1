"""SIGTERM and Ctrl-C: the first lets the work come to a good end, the second ends it at once."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ECHO = 1.0  # seconds; schedulers and torchrun both pass on the same signal


class Signals:
    """Which signal has come, here or in a process that this one works with; None before."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._first: float | None = None  # when one came here

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """A handler."""
        if self._first is None:
            self.number, self._first = number, time.monotonic()
        elif time.monotonic() - self._first > ECHO:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


@contextmanager
def held() -> Iterator[Signals]:
    """While the block lasts, signals are only noted; outside the main thread nothing is done."""
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
