"""The compiled library of the engine, and its interface (c/engine.h) in ctypes."""

import ctypes
import os
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_double, c_int, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from ..core.weights import Stored
from ..errors import InputError
from .compile import LIBRARY, VARIANTS

VARIABLE = "MOTHERBIRD_ENGINE"  # forces a variant, for tests and measurements
PRECISIONS = ("float32", "bfloat16", "int8")  # as the engine numbers them
OUTPUTS = ("tokens", "mean", "cls")
# As enum activation of c/vector.h numbers them.
ACTIVATIONS = {"gelu": 0, "gelu_pytorch_tanh": 1, "gelu_new": 1, "silu": 2, "relu": 3, None: 4}
_DTYPES = ("float32", "bfloat16", "float16")  # of tensors as they are stored


class Tensor(ctypes.Structure):
    """``mb_tensor``: where the values of a tensor are, and their dtype."""

    _fields_ = [("data", c_void_p), ("dtype", c_int64)]

    @classmethod
    def of(cls, stored: Stored) -> "Tensor":
        """Return the tensor of a contiguous array, which has to stay alive."""
        return cls(stored.raw.ctypes.data, _DTYPES.index(stored.dtype))


def _with_bias(*names: str) -> list[tuple[str, Any]]:
    return [(f"{name}{part}", Tensor) for name in names for part in ("", "_bias")]


class Config(ctypes.Structure):
    """``mb_config``: the geometry, the embedding and the norms outside layers."""

    _fields_ = [
        *((name, c_int64) for name in ("hidden", "glu", "layers", "heads", "activation")),
        ("epsilon", c_double),
        ("embedding", Tensor),
        *_with_bias("norm", "final_norm"),
    ]


class Layer(ctypes.Structure):
    """``mb_layer``: the weights of a layer."""

    _fields_ = [
        *_with_bias("attention_norm", "qkv", "out", "mlp_norm", "in", "down"),
        ("precision", c_int64 * 4),
        ("glu", c_int64),
        ("window", c_int64),
        ("theta", c_double),
    ]


class Rows(ctypes.Structure):
    """``mb_rows``: what the functions for training are about."""

    _fields_ = [
        *((name, c_int64) for name in ("tokens", "padded", "width", "precision", "activation")),
        ("epsilon", c_double),
    ]


class Attention(ctypes.Structure):
    """``mb_attention``: the documents of a batch, and how their tokens attend."""

    _fields_ = [
        *((name, c_int64) for name in ("precision", "tokens", "padded", "documents")),
        *((name, c_int64) for name in ("longest", "heads", "size", "window")),
        *((name, c_void_p) for name in ("starts", "cosine", "sine")),
    ]


class Variant(ctypes.Structure):
    """``mb_variant``: the functions of one variant."""

    _fields_ = [
        ("name", c_char_p),
        ("has_bf16", c_int64),
        ("create", CFUNCTYPE(c_void_p, POINTER(Config))),
        ("add_layer", CFUNCTYPE(c_int, c_void_p, POINTER(Layer))),
        ("destroy", CFUNCTYPE(None, c_void_p)),
        ("begin", CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_void_p, c_int64, c_int64, c_void_p)),
        ("work", CFUNCTYPE(None, c_void_p)),
        ("finish", CFUNCTYPE(None, c_void_p, c_int64, c_void_p)),
        ("linear", CFUNCTYPE(c_void_p, POINTER(Tensor), POINTER(Tensor), *[c_int64] * 3)),
        ("apply", CFUNCTYPE(c_int, c_void_p, c_void_p, c_int64, c_int64, c_void_p)),
        ("largest", CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int64, c_void_p)),
        ("free_linear", CFUNCTYPE(None, c_void_p)),
        ("add_norm", CFUNCTYPE(None, POINTER(Rows), *[c_void_p] * 7)),
        ("norm_backward", CFUNCTYPE(None, POINTER(Rows), *[c_void_p] * 9)),
        ("gate", CFUNCTYPE(None, POINTER(Rows), *[c_void_p] * 2)),
        ("gate_backward", CFUNCTYPE(None, POINTER(Rows), *[c_void_p] * 4)),
        ("attention_forward", CFUNCTYPE(c_int, POINTER(Attention), *[c_void_p] * 3)),
        ("attention_backward", CFUNCTYPE(c_int, POINTER(Attention), *[c_void_p] * 5)),
    ]


def compiled() -> Path:
    """Return the file of the library, or raise InputError if it was not compiled."""
    if not LIBRARY.is_file():
        how = "install motherbird again, or in a checkout: python -m motherbird.engine.compile"
        raise InputError("the engine is not compiled", str(LIBRARY), how)
    return LIBRARY


def functions(prefix: str, **signatures: tuple[Any, ...]) -> ctypes.PyDLL:
    """Return the library with some of its functions, which keep the GIL.

    Args:
        prefix: how their names begin.
        signatures: the types of the result and of the arguments of each.
    """
    library = ctypes.PyDLL(str(compiled()))
    for name, (result, *arguments) in signatures.items():
        function = getattr(library, prefix + name)
        function.restype, function.argtypes = result, arguments
    return library


@cache
def variant(name: str | None = None) -> Variant:
    """Return a variant by name; None is that of `VARIABLE`, or the fastest on this CPU.

    Raises:
        InputError: the library was not compiled, or this CPU cannot run the variant.
    """
    name = name or os.environ.get(VARIABLE) or None
    library = ctypes.CDLL(str(compiled()))
    library.mb_find.restype = POINTER(Variant)
    found = library.mb_find(name.encode() if name else None)
    if not found:
        known = [name for names in VARIANTS.values() for name in names] + ["portable"]
        what = "this CPU cannot run" if name in known else "there is no"
        have = [other for other in known if library.mb_find(other.encode())]
        how = f"use {', '.join(have)}, or unset it"
        raise InputError(f"{what} variant {name!r}", VARIABLE, how)
    made: Variant = found.contents
    return made


def computes(dtype: str) -> bool:
    """Return whether the engine on this CPU has instructions for a dtype, or it is "auto"."""
    return dtype in ("auto", *PRECISIONS) and (dtype != "bfloat16" or bool(variant().has_bf16))


def resolve_dtype(dtype: str) -> str:
    """Return the dtype itself, or for "auto" bfloat16 if this CPU computes in it, else float32.

    Raises:
        InputError: this CPU has no instructions for the dtype, or it is unknown.
    """
    if not computes(dtype):
        known = [name for name in ("auto", *PRECISIONS) if computes(name)]
        raise InputError(f"dtype {dtype!r} cannot run on this CPU", how=f"use {', '.join(known)}")
    return dtype if dtype != "auto" else "bfloat16" if computes("bfloat16") else "float32"
