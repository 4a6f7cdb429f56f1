"""The engine from a cold start, its memory for long documents, and what its dtypes change.

    python benchmarks/engine.py [--out benchmarks/engine-CPU.json]

Start: fresh processes with the included model, in seconds and MB of peak resident memory. Memory:
one document of 8,192 tokens in base (random weights); MB above the weights. Neighbors: texts of
the standard library in motherbird-nano; the mean fraction of the ten nearest neighbors in float32
that each variant and dtype keeps, and the mean cosine of vectors. Medians; Linux only.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import finish, machine, texts
from jaxtyping import Float32

from motherbird import Embedder, InputError, presets
from motherbird.core import hub
from motherbird.engine import library
from motherbird.engine.model import NativeModel
from motherbird.nn import Encoder

MEMORY = """
import sys
import numpy as np
from pathlib import Path
from motherbird import machine
from motherbird.engine.model import NativeModel
model = NativeModel.load(Path(sys.argv[1]), sys.argv[2])
ids = np.random.default_rng(0).integers(0, 50280, 8192).astype(np.int32)
model.run(ids[:8], np.array([0, 8], np.int32), "mean")
machine.reset_peak_memory()
loaded = machine.own_memory_mb("VmRSS")
model.run(ids, np.array([0, len(ids)], np.int32), "mean")
print(machine.own_memory_mb("VmHWM") - loaded)
"""
PYTHON = """
import time
start = time.perf_counter()
import motherbird
motherbird.Embedder.load("motherbird-nano").embed(["a text"])
print(time.perf_counter() - start)
"""
# In a small process of its own, because a new process starts with the peak memory of its parent.
WAIT = """
import os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=sys.stderr)
_, status, usage = os.wait4(process.pid, 0)
assert status == 0
print(time.perf_counter() - start, usage.ru_maxrss)
"""
DTYPES = [dtype for dtype in ("float32", "bfloat16", "int8") if library.computes(dtype)]
VARIANTS = ("amx", "avx512", "avxvnni", "avx2", "neon_bf16", "neon", "portable")


def start(repeats: int) -> dict[str, object]:
    """Return the seconds and MB of fresh processes that compute one text."""
    command = str(Path(sys.executable).with_name("motherbird"))
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text("compress a file\n")
        for name, call in {
            "embed": [command, "embed", text, "--out", Path(folder) / "vectors.npy"],
            "fill-mask": [command, "fill-mask", "import [MASK] as np"],
        }.items():
            runs = [_process(list(map(str, call))) for _ in range(repeats)]
            seconds, mb = (statistics.median(values) for values in zip(*runs, strict=True))
            found[name] = {"seconds": round(seconds, 3), "peak_mb": round(mb, 1)}
    runs = [_seconds_in_python() for _ in range(repeats)]
    found["import, load and embed in Python"] = {"seconds": round(statistics.median(runs), 3)}
    return found


def _process(command: list[str]) -> tuple[float, float]:
    """Return seconds and MB of a command."""
    output = subprocess.check_output(
        [sys.executable, "-c", WAIT, *command], stderr=subprocess.DEVNULL
    )
    seconds, kilobytes = map(float, output.split()[-2:])
    return seconds, kilobytes / 1024


def _seconds_in_python() -> float:
    command = [sys.executable, "-c", PYTHON]
    return float(subprocess.check_output(command, stderr=subprocess.DEVNULL))


def memory(repeats: int) -> dict[str, object]:
    """Return the MB above the weights for 8,192 tokens, by dtype."""
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        Encoder(presets.base()).save(Path(folder) / "base")
        for dtype in DTYPES:
            command = [sys.executable, "-c", MEMORY, f"{folder}/base", dtype]
            runs = [float(subprocess.check_output(command)) for _ in range(repeats)]
            found[dtype] = {"mb": round(statistics.median(runs), 1), "runs": runs}
    return found


def neighbors(count: int) -> dict[str, object]:
    """Return what each variant and dtype keeps of the ten nearest neighbors in float32."""
    chosen = texts(None, count)

    def vectors(variant: str, dtype: str) -> Float32[np.ndarray, "S D"]:
        os.environ[library.VARIABLE] = variant
        library.variant.cache_clear()
        model = NativeModel.load(hub.NANO_FOLDER, dtype)
        return Embedder(model, normalize=True).embed(chosen)

    def nearest(x: Float32[np.ndarray, "S D"]) -> np.ndarray:
        scores = x @ x.T
        np.fill_diagonal(scores, -np.inf)
        return np.argpartition(-scores, 10, axis=1)[:, :10]

    expected = vectors("portable", "float32")
    truth, found = nearest(expected), {}
    for variant in VARIANTS:
        for dtype in ("float32", "bfloat16", "int8"):
            try:
                got = vectors(variant, dtype)
            except InputError:  # this CPU cannot run it
                continue
            kept = [
                np.intersect1d(a, b).size / 10 for a, b in zip(truth, nearest(got), strict=True)
            ]
            cosine = float((got * expected).sum(axis=1).mean())
            kept_mean = round(float(np.mean(kept)), 4)
            found[f"{variant} {dtype}"] = {"kept": kept_mean, "cosine": round(cosine, 5)}
    os.environ.pop(library.VARIABLE)
    library.variant.cache_clear()
    return {"texts": len(chosen), **found}


def main() -> None:
    """Measure; print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--texts", type=int, default=1000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    report = {
        "command": "python benchmarks/engine.py",
        "machine": {**machine(), "engine": library.variant().name.decode()},
        "start": start(given.repeats),
        "memory_of_8192_tokens": memory(3),
        "neighbors_of_motherbird_nano": neighbors(given.texts),
    }
    finish(report, given.out)


if __name__ == "__main__":
    main()
