"""Keeps an index fresh: every change of the files is added when it happens."""

from ..errors import require_extra
from .index import Index


def watch(index: Index) -> None:
    """Add every change of the files of a directory to its index, until Ctrl-C.

    Args:
        index: which this thread alone uses.
    """
    watchfiles = require_extra("watchfiles", "search")
    for _ in watchfiles.watch(index.root, raise_interrupt=True):
        index.refresh()
