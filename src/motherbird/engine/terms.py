"""The terms of texts for search: those of words are computed once."""

import ctypes
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_void_p
from functools import cache

import numpy as np

from .library import functions

BYTES_PER_CHARACTER = 5  # of the terms of a word, with spaces


@cache
def _library() -> ctypes.PyDLL:
    pointer, whole = c_void_p, c_int64
    return functions(
        "mb_terms_",
        create=(pointer, whole),
        free=(None, pointer),
        add=(c_int, pointer, c_char_p, whole, c_char_p, whole),
        of=(whole, pointer, c_char_p, whole, POINTER(whole), POINTER(whole), pointer),
    )


class Terms:
    """The terms of ASCII texts by those of their words: letters, digits and underscores.

    Args:
        divide: returns the terms of a word, joined by spaces.
        most: words that are remembered, at most.
    """

    def __init__(self, divide: Callable[[str], str], most: int) -> None:
        self._divide = divide
        self._terms = c_void_p(_library().mb_terms_create(most))
        if not self._terms:
            raise MemoryError

    def __del__(self) -> None:
        if getattr(self, "_terms", None):
            _library().mb_terms_free(self._terms)

    def of(self, text: str) -> str:
        """Return the terms of an ASCII text, joined by spaces."""
        library, given = _library(), text.encode("ascii")
        room = np.empty(BYTES_PER_CHARACTER * len(given), np.uint8)
        start = room.ctypes.data
        at, unknown, found = c_int64(0), c_int64(0), []
        while True:
            size = library.mb_terms_of(
                self._terms, given, len(given), byref(at), byref(unknown), start
            )
            found.append(room[:size].tobytes())
            if not unknown.value:
                return b"".join(found).decode("ascii").rstrip()
            word = given[at.value : at.value + unknown.value]
            at.value += len(word)
            own = self._divide(word.decode("ascii")).encode("ascii")
            found.append(own and own + b" ")
            # C has that much room.
            if len(own) < BYTES_PER_CHARACTER * len(word) and library.mb_terms_add(
                self._terms, word, len(word), own, len(own)
            ):
                raise MemoryError
