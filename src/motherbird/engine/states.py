"""Sizes and times of change of many files, in one call."""

import ctypes
import os
from collections.abc import Iterable
from functools import cache

import numpy as np

from ..arrays import Int64
from .library import compiled


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(compiled()))
    library.mb_states.argtypes = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_void_p]
    library.mb_states.restype = None
    return library


class States:
    """Reads the states of files, as often as it is asked.

    Args:
        paths: the files; links are followed.
    """

    def __init__(self, paths: Iterable[str | bytes]) -> None:
        encoded = [os.fsencode(path) for path in paths]
        self._count, self._paths = len(encoded), b"\0".join([*encoded, b""])

    def read(self) -> Int64[np.ndarray, "files 3"]:
        """Return size, time of modification and time of change (ns); -1 for a file that is gone."""
        found = np.empty((self._count, 3), np.int64)
        _library().mb_states(self._paths, self._count, found.ctypes.data)
        return found
