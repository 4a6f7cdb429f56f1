"""Devices and dtypes: their names, and which of them this machine has."""

import logging
from typing import Any

import torch

from ..errors import InputError

log = logging.getLogger(__name__)

STORED = "stored"  # the dtype of the file
# The CPU instructions that compute in a dtype, as torch.cpu.get_capabilities calls them.
_EXTENSIONS = {torch.bfloat16: ("amx_bf16", "avx512_bf16"),
               torch.float16: ("amx_fp16", "avx512_fp16")}  # fmt: skip
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
          "float64": torch.float64}  # fmt: skip


def describe() -> dict[str, Any]:
    """Describe the devices of torch: their fastest dtypes, and which attention kernels can run."""
    from .attention import KERNELS

    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    names += ["mps"] if torch.backends.mps.is_available() else []
    fastest = {name: fastest_dtype(torch.device(name)) for name in names}
    return {
        "devices": names,
        "fastest_dtype": {n: str(dtype).removeprefix("torch.") for n, dtype in fastest.items()},
        "attention": {
            name: {
                kernel: module.why_not(torch.device(name), dtype) or "can run"
                for kernel, module in KERNELS.items()
            }
            for name, dtype in fastest.items()
        },
    }


def resolve_device(device: torch.device | str | None) -> torch.device:
    """Return a torch device of this machine; None is the CPU.

    Raises:
        InputError: this machine does not have it; the message lists those that it has.
    """
    try:
        chosen = torch.device("cpu" if device is None else device)
        if chosen.type == "meta":
            raise RuntimeError("meta tensors hold no values")
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, TypeError) as error:
        have = ["cpu", *(["cuda"] if torch.cuda.is_available() else []),
                *(["mps"] if torch.backends.mps.is_available() else [])]  # fmt: skip
        raise InputError(
            f"device {str(device)!r} is not available", how=f"use {' or '.join(have)}"
        ) from error
    return chosen


def resolve_dtype(dtype: torch.dtype | str, device: torch.device) -> torch.dtype | None:
    """Return a torch dtype from its name; "auto" is the fastest on the device, "stored" is None.

    Raises:
        InputError: the name is unknown, or the device cannot compute in it.
    """
    if dtype == "auto":
        return fastest_dtype(device)
    if dtype == STORED:
        return None
    if isinstance(dtype, str):
        if dtype not in DTYPES:
            raise InputError(
                f"torch does not compute in dtype {dtype!r}",
                how=f"use auto, stored, {', '.join(DTYPES)}",
            )
        return DTYPES[dtype]
    if dtype not in DTYPES.values():
        raise InputError(f"dtype {dtype} is not supported", how=f"use {', '.join(DTYPES)}")
    return dtype


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device has instructions for it, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float32
    if device.type == "cpu":
        return torch.bfloat16 if _cpu_computes(torch.bfloat16) else torch.float32
    return torch.float32


def warn_if_emulated(dtype: torch.dtype, device: torch.device) -> None:
    """Warn if a device has no instructions for a dtype, so that it is slower than float32."""
    native = True
    if device.type == "cpu" and dtype in _EXTENSIONS:
        known = torch.cpu.get_capabilities().get("architecture") == "x86_64"
        native = not known or _cpu_computes(dtype)
    elif device.type == "cuda" and dtype == torch.bfloat16:
        native = torch.cuda.is_bf16_supported(False)
    if not native:
        name = str(dtype).removeprefix("torch.")
        log.warning("this %s emulates %s, which is slow; dtype=\"float32\" is faster",
                    "CPU" if device.type == "cpu" else "GPU", name)  # fmt: skip


def _cpu_computes(dtype: torch.dtype) -> bool:
    has = torch.cpu.get_capabilities()
    return any(map(has.get, _EXTENSIONS[dtype]))
