"""What is measured on: the CPU, its units, threads, versions, variables, and memory."""

import ctypes
import os
import platform
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

# Instructions that decide how fast products are; names as in /proc/cpuinfo.
UNITS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8",
         "amx_bf16", "amx_tile", "asimd", "bf16", "i8mm", "sve")  # fmt: skip
PACKAGES = ("motherbird", "torch", "numpy", "transformers", "sentence-transformers", "onnx",
            "onnxruntime", "openvino", "nncf")  # fmt: skip
# Variables by which others change what a CPU does; those that are set are recorded.
VARIABLES = ("ONEDNN_", "DNNL_", "ATEN_", "MKL_", "OMP_", "GOMP_", "KMP_", "OV_", "ORT_",
             "MALLOC_", "LD_PRELOAD")  # fmt: skip
GROUP = Path("/sys/fs/cgroup")  # where a container says how much memory it may have


def describe(threads: int) -> dict[str, Any]:
    """This machine, as the JSON's "machine"."""
    import torch

    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    return {
        "cpu": name,
        "units": units(),
        "cores": physical_cores(),
        "threads": threads,
        "memory_gb": round(_meminfo("MemTotal") / 1e9, 1) if Path("/proc/meminfo").exists() else 0,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": versions(),
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(VARIABLES)},
    }


def commit() -> str | None:
    """Of the checkout that this code is, with a "+" if it was changed; None where installed."""
    home = Path(__file__).parents[2]
    if not (home / ".git").exists():  # a repository around it would be somebody else's
        return None
    command = ["git", "-C", str(home), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def units() -> list[str]:
    """Those of `UNITS` that the CPU has."""
    flags = _cpuinfo("flags", "Features").split()
    return [unit for unit in UNITS if unit in flags]


def versions() -> dict[str, str]:
    """The installed ones of `PACKAGES`."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def physical_cores() -> int:
    """Cores that this process may use, two hyper-threads of one core counted once."""
    try:
        mine = os.sched_getaffinity(0)
        files = [
            Path(f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list") for n in mine
        ]
        return len({file.read_text() for file in files})
    except (AttributeError, OSError):  # not on Linux
        return os.cpu_count() or 1


def available_mb() -> float | None:
    """Memory that processes can still get before something must go; None where nobody says.

    The smaller of what the kernel estimates and what the container's limit leaves.
    """
    if not Path("/proc/meminfo").exists():
        return None
    free = _meminfo("MemAvailable")
    try:
        limit = int((GROUP / "memory.max").read_text())
        counts = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        used = int((GROUP / "memory.current").read_text()) - int(counts["inactive_file"])
        free = min(free, limit - used)
    except (OSError, ValueError, KeyError):  # no limit ("max"), or no such group
        pass
    return free / 1e6


def own_memory_mb(key: str) -> float:
    """VmRSS (now) or VmHWM (the peak) of this process; outside Linux the peak of its life."""
    try:
        return _field(Path("/proc/self/status"), key) * 1024 / 1e6
    except OSError:
        try:
            import resource
        except ImportError:  # Windows
            return 0.0
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if platform.system() == "Darwin" else peak * 1024 / 1e6


def give_back_memory() -> None:
    """Return to the system what was freed and lies in pieces between what is in use (glibc)."""
    with suppress(OSError, AttributeError, TypeError):  # no C library with malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def forget_peak() -> None:
    """Let VmHWM start anew, where the kernel allows it; freed memory is given back before."""
    give_back_memory()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _meminfo(key: str) -> int:
    return _field(Path("/proc/meminfo"), key) * 1024


def _field(path: Path, key: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1])
    return 0


def _cpuinfo(*keys: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in keys:
            return value.strip()
    return ""
