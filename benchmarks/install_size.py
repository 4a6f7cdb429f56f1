"""The size of an installation for inference: a new environment with motherbird and what it needs.

    python benchmarks/install_size.py [--extras train] [--out FILE.json]

Sizes are of installed files in MB (10^6 bytes), without pip itself.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from common import finish, machine

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Install into a temporary directory, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--extras", default="")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    what = f"{ROOT}[{given.extras}]" if given.extras else str(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        pip = [str(Path(folder) / "bin/pip"), "install", "-q", "-c", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, what], check=True)
        [site] = Path(folder).glob("lib/python*/site-packages")
        sizes = {
            found.name: sum(
                Path(str(found.locate_file(file))).stat().st_size
                for file in found.files or []
                if Path(str(found.locate_file(file))).is_file()
            ) / 1e6
            for found in distributions(path=[str(site)])
            if found.name not in ("pip", "setuptools")
        }  # fmt: skip
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    report: dict[str, Any] = {
        "machine": machine(), "python": sys.version.split()[0], "extras": given.extras,
        "total_mb": round(sum(sizes.values()), 1),
        "packages_mb": {name: round(size, 1) for name, size in ordered},
    }  # fmt: skip
    finish(report, given.out)


if __name__ == "__main__":
    main()
