"""Keeps an index fresh: every change of the files is added when it happens."""

import threading
from pathlib import Path

from ..errors import require_extra
from .index import Index


def watch(index: Index, stop: threading.Event | None = None) -> None:
    """Add every change of the files of a directory to its index, until ``stop`` is set or Ctrl-C.

    Args:
        index: which this thread alone uses.
        stop: ends it within half a second.
    """
    watchfiles = require_extra("watchfiles", "search")
    for _ in watchfiles.watch(Path(index.root), stop_event=stop, raise_interrupt=True):
        index.refresh()
