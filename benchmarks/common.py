"""What the benchmarks share: real texts, the machine, and where a report goes."""

import ast
import json
import platform
import random
import sysconfig
from pathlib import Path

import torch

from motherbird.data import readers


def texts(path: Path | None, count: int | None = None) -> list[str]:
    """Texts of a file, or without one docstrings of the standard library, in an order of chance."""
    found = [document.text for document in readers.read(path)] if path else docstrings()
    random.Random(0).shuffle(found)
    return found[:count]


def docstrings() -> list[str]:
    """Of every module, class and function at the top of the standard library."""
    found = []
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                found.append(ast.get_docstring(node))
    return [each for each in found if each]


def machine() -> dict[str, object]:
    """The CPU, what it has for bfloat16, and the versions."""
    has = torch.cpu.get_capabilities()
    return {
        "cpu": has["cpu_name"],
        "amx": bool(has.get("amx_bf16")),
        "avx512_bf16": bool(has.get("avx512_bf16")),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def finish(report: dict[str, object], out: Path | None) -> None:
    """Print a report, and write it where asked for."""
    written = json.dumps(report, indent=1) + "\n"
    print(written, end="")
    if out:
        out.write_text(written, encoding="utf-8")
