"""The compiled library of the engine, and its interface (c/engine.h) in ctypes."""

import ctypes
import os
from functools import cache
from pathlib import Path

from ..errors import InputError

LIBRARY = Path(__file__).parent / "_engine.so"
VARIABLE = "MOTHERBIRD_ENGINE"  # forces a variant, for tests and measurements
Floats = ctypes.POINTER(ctypes.c_float)


class Config(ctypes.Structure):
    """``mb_config``: geometry and arithmetic."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in
          ("hidden", "glu", "layers", "heads", "vocabulary", "precision")),
        ("epsilon", ctypes.c_float),
    ]  # fmt: skip


class Layer(ctypes.Structure):
    """``mb_layer``: the weights of a layer."""

    _fields_ = [
        *((f"{name}{part}", Floats) for name in
          ("attention_norm", "qkv", "out", "mlp_norm", "in", "down") for part in ("", "_bias")),
        ("window", ctypes.c_int64),
        ("theta", ctypes.c_float),
    ]  # fmt: skip


class Variant(ctypes.Structure):
    """``mb_variant``: the functions of one variant."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("has_bf16", ctypes.c_int32),
        ("has_int8", ctypes.c_int32),
        ("create", ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(Config), *[Floats] * 5)),
        ("add_layer", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(Layer))),
        ("run", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p,
                                 ctypes.c_int64, ctypes.c_void_p)),
        ("destroy", ctypes.CFUNCTYPE(None, ctypes.c_void_p)),
    ]  # fmt: skip


@cache
def variant(name: str | None = None) -> Variant:
    """Return a variant by name; None is that of `VARIABLE`, or the fastest on this CPU.

    Raises:
        InputError: the library was not compiled, or this CPU cannot run the variant.
    """
    name = name or os.environ.get(VARIABLE) or None
    if not LIBRARY.is_file():
        raise InputError("the engine is not compiled", str(LIBRARY), "install motherbird again")
    library = ctypes.CDLL(str(LIBRARY))
    library.mb_find.restype = ctypes.POINTER(Variant)
    found = library.mb_find(name.encode() if name else None)
    if not found:
        raise InputError(f"this CPU cannot run the variant {name!r}", VARIABLE, "unset it")
    made: Variant = found.contents
    return made
