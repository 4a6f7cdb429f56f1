"""Compiles the engine, with a variant for each kind of CPU.

It is called when motherbird is installed. After a change of the sources in a checkout:

    python -m motherbird.engine.compile
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent / "c"
LIBRARY = Path(__file__).parent / "_engine.so"
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


ZIG_CC = [sys.executable, "-m", "ziglang", "cc"]


def compiler(target: str = "") -> list[str]:
    """Return the command of the system's C compiler, or of the one in the package ziglang.

    For another system (see `compile_engine`) it is always the latter.
    """
    if target:
        return [*ZIG_CC, "-target", target]
    for name in (os.environ.get("CC"), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return [name]
    return ZIG_CC


def compile_objects(
    folder: Path, *more: str, target: str = "", sources: Path = SOURCES
) -> list[str]:
    """Compile an object file for each variant, and the rest; CalledProcessError if that fails.

    Args:
        folder: where they are written.
        more: further arguments of the compiler.
        target: another system, for zig; see `compile_engine`.
        sources: the directory of the sources.
    """
    name = (target.partition("-")[0] or platform.machine()).lower()
    variants: dict[str, list[str]] = {
        name: [] for name in ("engine", "words", "terms", "states", "portable")
    }
    variants |= VARIANTS.get(MACHINES.get(name, name), {})
    command = compiler(target)
    if ZIG_CC == command[: len(ZIG_CC)]:
        variants = {name: [ZIG.get(f, f) for f in flags] for name, flags in variants.items()}
    objects = [str(folder / f"{name}.o") for name in variants]
    jobs = [
        subprocess.Popen([*command, *FLAGS, *flags, *more, "-c",
                          str(sources / f"{FILES.get(name, name)}.c"), "-o", made])
        for (name, flags), made in zip(variants.items(), objects, strict=True)
    ]  # fmt: skip
    for job in jobs:
        if job.wait():
            raise subprocess.CalledProcessError(job.returncode, job.args)
    return objects


def compile_engine(out: Path, target: str = "") -> None:
    """Compile the engine into a shared library; CalledProcessError if that fails.

    Args:
        out: the library to write.
        target: another system, in the words of zig, such as "aarch64-linux-gnu.2.17".
    """
    with tempfile.TemporaryDirectory() as folder:
        objects = compile_objects(Path(folder), target=target)
        subprocess.run([*compiler(target), "-shared", *objects, "-o", str(out), "-lm"], check=True)


if __name__ == "__main__":
    compile_engine(LIBRARY)
