"""Peak memory of one document of 8,192 tokens, and the time of a local layer per token.

    python benchmarks/memory_and_cost.py [--out benchmarks/memory_and_cost-CPU.json]

Memory: base on the engine, in its own process; peak resident memory of the forward pass, without
the weights. Time: one local attention in torch (base's 12 heads of 64, window 64) and one whole
local layer, median of 15 interleaved runs. Linux only.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from common import finish, machine

from motherbird import presets
from motherbird.engine import library
from motherbird.nn import Encoder, pack
from motherbird.nn.attention import AttentionPlan, choose

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
print(loaded, machine.own_memory_mb("VmHWM"))
"""
DTYPES = [dtype for dtype in ("float32", "bfloat16", "int8") if library.computes(dtype)]


def memory(tokens: int = 8192) -> dict[str, object]:
    """Return the MB above the weights in each dtype, three processes each."""
    found: dict[str, object] = {"tokens": tokens}
    with tempfile.TemporaryDirectory() as folder:
        Encoder(presets.base()).to(torch.bfloat16).save(Path(folder) / "base")
        for dtype in DTYPES:
            above = []
            for _ in range(3):
                command = [sys.executable, "-c", MEMORY, f"{folder}/base", dtype]
                loaded, peak = map(float, subprocess.check_output(command).split())
                above.append(round(peak - loaded, 1))
            found[dtype] = {"mb_above_weights": statistics.median(above), "runs": above}
    return found


def cost(repeats: int = 15) -> dict[str, dict[str, float]]:
    """Return the microseconds per token of local attention and of a local layer, by dtype."""
    lengths = (1024, 8192)
    encoder = Encoder(presets.base()).eval()
    results: dict[str, dict[str, float]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        layer = encoder.layers[1].to(dtype)
        kernel = choose("auto", torch.device("cpu"), dtype)
        work = {}
        for length in lengths:
            plan = AttentionPlan(pack([[1] * length]))
            x = torch.randn(length, 768, dtype=dtype)
            qkv = [torch.randn(length, 12, 64, dtype=dtype) for _ in range(3)]
            work["attention", length] = partial(kernel.attend, *qkv, plan, 64)
            work["layer", length] = partial(layer, x, plan, kernel)
        times: dict[tuple[str, int], list[float]] = {key: [] for key in work}
        with torch.inference_mode():
            for turn in range(repeats + 1):
                for key, run in work.items():
                    start = time.perf_counter()
                    run()
                    if turn:  # the first is a warm-up
                        times[key].append((time.perf_counter() - start) / key[1] * 1e6)
        name = str(dtype).removeprefix("torch.")
        for what in ("attention", "layer"):
            us = {n: statistics.median(times[what, n]) for n in lengths}
            results[f"{what} {name}"] = {
                "us_per_token_1024": us[1024],
                "us_per_token_8192": us[8192],
                "ratio": us[8192] / us[1024],
            }
    return results


def main() -> None:
    """Measure; print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    report = {
        "command": "python benchmarks/memory_and_cost.py",
        "machine": machine(),
        "memory": memory(),
        "cost": cost(),
    }
    finish(report, arguments.out)


if __name__ == "__main__":
    main()
