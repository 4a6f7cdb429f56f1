"""For static vectors: remembers the token ids of words, adds rows, and multiplies in 8 bits."""

import ctypes
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_void_p
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ..arrays import Float32, Int8, Int32
from .library import compiled


@cache
def _library() -> ctypes.PyDLL:
    """Return the library; its functions keep the GIL, since the table changes between calls."""
    library = ctypes.PyDLL(str(compiled()))
    pointer, whole = c_void_p, c_int64
    for name, result, *arguments in (
        ("create", pointer),
        ("free", None, pointer),
        ("add", c_int, pointer, c_char_p, whole, pointer, whole),
        ("ids", whole, pointer, c_char_p, whole, POINTER(whole), POINTER(whole), pointer),
    ):
        function = getattr(library, f"mb_words_{name}")
        function.restype, function.argtypes = result, arguments
    library.mb_add_rows.argtypes = [pointer, whole, pointer, whole, whole, pointer]
    library.mb_add_rows.restype = None
    library.mb_products.argtypes = [pointer, whole, whole, pointer, pointer]
    library.mb_products.restype = None
    return library


class Words:
    """Token ids of the segments of ASCII texts; see `models.segments`.

    Args:
        encode: returns the ids of a segment that is not known.
        most: segments that are remembered.
        longest: characters of one that is remembered.
    """

    def __init__(self, encode: Callable[[str], list[int]], most: int, longest: int) -> None:
        self._encode, self._most, self._longest = encode, most, longest
        self._used = 0
        self._words = c_void_p(_library().mb_words_create())
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
            room[count : count + len(own)] = own
            count += len(own)
            at.value += len(segment)
            # C has room for an id for each byte.
            if len(own) <= len(segment) <= self._longest and self._used < self._most:
                self._add(segment, own)

    def _add(self, segment: bytes, ids: NDArray[np.int32]) -> None:
        failed = _library().mb_words_add(
            self._words, segment, len(segment), ids.ctypes.data, len(ids)
        )
        if failed:
            raise MemoryError
        self._used += 1


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
