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
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512bf16",
          "-mavx512vnni", "-mfma"]  # fmt: skip
# For each kind of CPU, the variants: the file and its flags.
VARIANTS = {
    "x86_64": {
        "avx2": ["-mavx2", "-mfma"],
        "avxvnni": ["-mavx2", "-mfma", "-mavxvnni"],
        "avx512": AVX512,
        "amx": [*AVX512, "-mamx-tile", "-mamx-int8", "-mamx-bf16"],
    },
    "arm64": {
        "neon": ["-march=armv8.2-a+dotprod"],
        "neon_bf16": ["-march=armv8.6-a+bf16"],
    },
}
# The same flags in the words of zig.
ZIG = {
    "-march=armv8.2-a+dotprod": "-mcpu=generic+v8_2a+dotprod",
    "-march=armv8.6-a+bf16": "-mcpu=generic+v8_6a+bf16",
}
FILES = {"neon_bf16": "neon"}  # files of variants with another name
MACHINES = {"amd64": "x86_64", "aarch64": "arm64"}  # other names of the same


def compiler() -> list[str]:
    """Return the command of the system's C compiler, or of the one in the package ziglang."""
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return [name]
    return [sys.executable, "-m", "ziglang", "cc"]


def compile_engine(root: Path, out: Path, *more: str, machine: str = platform.machine()) -> None:
    """Compile the engine; CalledProcessError if that fails.

    Args:
        root: the directory of this file.
        out: the library to write.
        more: further arguments of the compiler, such as its target.
        machine: the CPU that it is for.
    """
    sources = root / ENGINE / "c"
    name = machine.lower()
    variants: dict[str, list[str]] = {"engine": [], "portable": []}
    variants |= VARIANTS.get(MACHINES.get(name, name), {})
    command = compiler()
    if "ziglang" in command:
        variants = {name: [ZIG.get(f, f) for f in flags] for name, flags in variants.items()}
    with tempfile.TemporaryDirectory() as folder:
        objects = [str(Path(folder) / f"{name}.o") for name in variants]
        jobs = [
            subprocess.Popen([*command, *FLAGS, *flags, *more, "-c",
                              str(sources / f"{FILES.get(name, name)}.c"), "-o", made])
            for (name, flags), made in zip(variants.items(), objects, strict=True)
        ]  # fmt: skip
        for job in jobs:
            if job.wait():
                raise subprocess.CalledProcessError(job.returncode, job.args)
        subprocess.run([*command, "-shared", *more, *objects, "-o", str(out), "-lm"],
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
