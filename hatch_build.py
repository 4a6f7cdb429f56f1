"""Compiles the engine when motherbird is installed, with a variant for each kind of CPU."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ENGINE = Path("src/motherbird/engine")
FLAGS = [
    "-O3",
    "-std=c11",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=fast",
    "-Wall",
    "-Wextra",
]
X86 = {
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16",
               "-mavx512vnni", "-mfma"],
    "amx": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16",
            "-mavx512vnni", "-mfma", "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
}  # fmt: skip


def compiler() -> list[str]:
    """Return the command of the system's C compiler, or of the one in the package ziglang."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return [name]
    return [sys.executable, "-m", "ziglang", "cc"]


def compile_engine(root: Path, out: Path, more: list[str] | None = None) -> None:
    """Compile the engine; CalledProcessError if that fails."""
    sources = root / ENGINE / "c"
    variants: dict[str, list[str]] = {"engine": [], "portable": []}
    if platform.machine().lower() in ("x86_64", "amd64"):
        variants |= X86
    with tempfile.TemporaryDirectory() as folder:
        objects = [str(Path(folder) / f"{name}.o") for name in variants]
        jobs = [
            subprocess.Popen([*compiler(), *FLAGS, *flags, *(more or []), "-c",
                              str(sources / f"{name}.c"), "-o", made])
            for (name, flags), made in zip(variants.items(), objects, strict=True)
        ]  # fmt: skip
        for job in jobs:
            if job.wait():
                raise subprocess.CalledProcessError(job.returncode, job.args)
        subprocess.run([*compiler(), "-shared", *(more or []), *objects, "-o", str(out), "-lm"],
                       check=True)  # fmt: skip


class BuildHook(BuildHookInterface[Any]):
    """Called by pip for a wheel and for an editable installation."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """Return the compiler where the system has none."""
        return ["ziglang"] if compiler()[0] == sys.executable else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and put the library into the wheel."""
        library = Path(self.root) / ENGINE / "_engine.so"
        compile_engine(Path(self.root), library)
        build_data["artifacts"].append(str(ENGINE / library.name))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
