"""Build wheels for Linux, macOS and Windows on one machine.

    pip install build hatchling ziglang
    python tools/wheels.py [--out dist] [SYSTEM ...]

The engine is compiled with zig. A wheel needs no compiler where it is installed.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# For each system, the target of zig and the tag of the wheel.
SYSTEMS = {
    "linux-x86_64": "x86_64-linux-gnu.2.17:manylinux_2_17_x86_64",
    "linux-arm64": "aarch64-linux-gnu.2.17:manylinux_2_17_aarch64",
    "macos-x86_64": "x86_64-macos.11.0:macosx_11_0_x86_64",
    "macos-arm64": "aarch64-macos.11.0:macosx_11_0_arm64",
    "windows-x86_64": "x86_64-windows-gnu:win_amd64",
}


PARTS = ("src", "hatch_build.py", "pyproject.toml", "README.md", "LICENSE")


def main() -> None:
    """Build the wheels that were asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help=", ".join(SYSTEMS))
    parser.add_argument("--out", type=Path, default=Path("dist"), metavar="DIR")
    given = parser.parse_args()
    if unknown := set(given.systems) - SYSTEMS.keys():
        parser.error(f"unknown system {', '.join(unknown)}: use {', '.join(SYSTEMS)}")
    with tempfile.TemporaryDirectory() as folder:  # so that the engine of this checkout stays
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copyfile
            copy(ROOT / part, Path(folder) / part)
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir",
                   str(given.out.resolve()), folder]  # fmt: skip
        for system in given.systems or SYSTEMS:
            environment = {**os.environ, "MOTHERBIRD_TARGET": SYSTEMS[system]}
            subprocess.run(command, check=True, env=environment)


if __name__ == "__main__":
    main()
