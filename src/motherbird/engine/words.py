"""For static vectors: the token ids of ASCII texts, sums of rows, and products in 8 bits."""

import ctypes
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_void_p
from functools import cache
from typing import NamedTuple

import numpy as np

from ..arrays import Float32, Int8, Int32
from .library import functions

MERGES_AFTER = 2000  # new segments, which cost as much as reading the merges


@cache
def _library() -> ctypes.PyDLL:
    pointer, whole = c_void_p, c_int64
    return functions(
        "mb_",
        words_create=(pointer, whole),
        words_free=(None, pointer),
        words_add=(c_int, pointer, c_char_p, whole, pointer, whole),
        words_merges=(c_int, pointer, pointer, pointer, whole),
        words_ids=(whole, pointer, c_char_p, whole, POINTER(whole), POINTER(whole), pointer),
        add_rows=(None, pointer, whole, pointer, whole, whole, pointer),
        products=(None, pointer, whole, whole, pointer, pointer),
    )


class Merges(NamedTuple):
    """The merges of byte-pair encoding.

    Attributes:
        bytes: the token of each character of ASCII.
        merges: left and right tokens, and what they become, in order of rank.
    """

    bytes: Int32[np.ndarray, "128"]
    merges: Int32[np.ndarray, "n 3"]


class Words:
    """Token ids of ASCII texts by those of their segments; see `models.segments`.

    Args:
        encode: returns the ids of a segment.
        most: segments that are remembered, at most.
        merges: returns how segments are encoded without `encode`, or None. It is called once, after
            `MERGES_AFTER` new ones.
    """

    def __init__(
        self, encode: Callable[[str], list[int]], most: int,
        merges: Callable[[], Merges | None] = lambda: None,
    ) -> None:  # fmt: skip
        self._encode, self._merges, self._new = encode, merges, 0
        self._words = c_void_p(_library().mb_words_create(most))
        if not self._words:
            raise MemoryError

    def __del__(self) -> None:
        if getattr(self, "_words", None):
            _library().mb_words_free(self._words)

    def ids(self, text: str) -> Int32[np.ndarray, " T"]:
        """Return the ids of an ASCII text."""
        library, given = _library(), text.encode("ascii")
        room = np.empty(len(given), np.int32)
        start, count = room.ctypes.data, 0
        at, unknown = c_int64(0), c_int64(0)
        while True:
            count += library.mb_words_ids(
                self._words, given, len(given), byref(at), byref(unknown), start + 4 * count
            )
            if not unknown.value:
                return room[:count]
            segment = given[at.value : at.value + unknown.value]
            own = np.array(self._encode(segment.decode("ascii")), np.int32)
            assert len(own) <= len(segment)  # there is room for an id for each byte
            room[count : count + len(own)] = own
            count += len(own)
            at.value += len(segment)
            if library.mb_words_add(self._words, segment, len(segment), own.ctypes.data, len(own)):
                raise MemoryError
            self._new += 1
            if self._new == MERGES_AFTER:
                self.use_merges()

    def use_merges(self) -> None:
        """Encode new segments by merges from now on, if that is possible."""
        if (found := self._merges()) is None:
            return
        tokens, merges = found
        if _library().mb_words_merges(
            self._words, tokens.ctypes.data, merges.ctypes.data, len(merges)
        ):
            raise MemoryError


def add_rows(
    table: Float32[np.ndarray, "V D"], ids: Int32[np.ndarray, " T"], out: Float32[np.ndarray, " d"]
) -> None:
    """Add the first d dimensions of rows of a contiguous table to ``out``, in their order."""
    _library().mb_add_rows(
        table.ctypes.data, table.shape[1], ids.ctypes.data, len(ids), len(out), out.ctypes.data
    )


def dot_products(
    rows: Int8[np.ndarray, "n D"], vector: Float32[np.ndarray, " D"]
) -> Float32[np.ndarray, " n"]:
    """Return the products of rows in 8 bits with a vector, which is rounded to 16 bits."""
    count, width = rows.shape
    largest = float(np.abs(vector).max(initial=1e-12))
    scale = min(32767, (2**31 - 1) // (128 * max(1, width))) / largest  # sums have 32 bits
    rounded = np.rint(vector * scale).astype(np.int16)
    found = np.empty(count, np.int32)
    _library().mb_products(rows.ctypes.data, count, width, rounded.ctypes.data, found.ctypes.data)
    return found.astype(np.float32) / np.float32(scale)
