"""Information about the machine: CPU, threads, versions, environment variables and memory."""

import ctypes
import os
import platform
import subprocess
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

# Instruction sets that matter for the speed of matmuls, with their names in /proc/cpuinfo.
ISA_EXTENSIONS = (
    "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_int8",
    "amx_bf16", "amx_tile", "asimd", "bf16", "i8mm", "sve",
)  # fmt: skip
PACKAGES = ("motherbird", "torch", "numpy", "transformers", "sentence-transformers", "onnx",
            "onnxruntime", "openvino", "nncf", "xllamacpp")  # fmt: skip
# Prefixes of environment variables that change how libraries use the CPU.
VARIABLES = ("ONEDNN_", "DNNL_", "ATEN_", "MKL_", "OMP_", "GOMP_", "KMP_", "OV_", "ORT_",
             "MALLOC_", "LD_PRELOAD")  # fmt: skip
MAX_THREADS = 1024  # with more, OpenMP runs out of stacks, and the process crashes
CGROUP = Path("/sys/fs/cgroup")  # has the memory limit of a container


def describe(threads: int | None = None) -> dict[str, Any]:
    """Describe this machine and the threads used (those of torch if not given), as JSON."""
    torch: Any = None
    with suppress(ImportError):
        torch = import_module("torch")
    if threads is None:
        threads = torch.get_num_threads() if torch else physical_cores()
    return {
        "cpu": _proc("cpuinfo", "model name") or platform.processor() or platform.machine(),
        "isa_extensions": isa_extensions(),
        "cores": physical_cores(),
        "threads": threads,
        "memory_gb": round(_bytes("meminfo", "MemTotal") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "versions": versions(),
        "torch_isa": torch.backends.cpu.get_cpu_capability() if torch else None,
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(VARIABLES)},
    }


def commit() -> str | None:
    """Return the git commit of this checkout, with "+" if files changed; None if installed."""
    home = Path(__file__).parents[2]
    if not (home / ".git").exists():  # a repository further up is another project's
        return None
    command = ["git", "-C", str(home), "describe", "--always", "--exclude=*", "--dirty=+"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None


def isa_extensions() -> list[str]:
    """Return those of `ISA_EXTENSIONS` that the CPU supports; on Linux only."""
    flags = _proc("cpuinfo", "flags", "Features").split()
    return [name for name in ISA_EXTENSIONS if name in flags]


def versions() -> dict[str, str]:
    """Return the versions of those of `PACKAGES` that are installed."""
    from importlib import metadata  # imports much, and every command imports this module

    found = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def physical_cores() -> int:
    """Return the number of physical cores that this process may use."""
    try:
        topology = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
        return len({Path(topology.format(n)).read_text() for n in os.sched_getaffinity(0)})
    except (AttributeError, OSError):  # not on Linux
        return os.cpu_count() or 1


def available_mb() -> float | None:
    """Return the memory in MB that processes can still allocate; None if the system has no figure.

    It is the smaller of the kernel's estimate and what is left of the container's limit.
    """
    free = _bytes("meminfo", "MemAvailable")
    with suppress(OSError, ValueError, KeyError):  # no limit ("max"), or no such group
        limit = int((CGROUP / "memory.max").read_text())
        counts = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        used = int((CGROUP / "memory.current").read_text()) - int(counts["inactive_file"])
        free = min(free, limit - used)
    return free / 1e6 if Path("/proc/meminfo").exists() else None


def own_memory_mb(key: str) -> float:
    """Return VmRSS (resident) or VmHWM (peak) of this process in MB; outside Linux, the peak."""
    if Path("/proc/self/status").exists():
        return _bytes("self/status", key) / 1e6
    with suppress(ImportError):  # Windows
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if platform.system() == "Darwin" else peak * 1024 / 1e6
    return 0.0


def release_memory() -> None:
    """Return freed memory to the system, also from fragmented heaps (glibc only)."""
    with suppress(OSError, AttributeError, TypeError):  # no C library with malloc_trim
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak_memory() -> None:
    """Release freed memory and reset VmHWM, where the kernel allows it."""
    release_memory()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def be_killed_first() -> None:
    """If memory runs out, let Linux kill this process first, before its parent or others."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _bytes(file: str, key: str) -> int:
    return int((_proc(file, key) or "0").split()[0]) * 1024


def _proc(file: str, *keys: str) -> str:
    """Return the first value of one of the keys in a file of /proc; "" if there is none."""
    try:
        lines = Path("/proc", file).read_text().splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() in keys), "")
