"""Peak memory of one document of 8,192 tokens, and the time of a local layer per token.

    python benchmarks/memory_and_cost.py [--out benchmarks/memory_and_cost-CPU.json]

Memory: base, bfloat16, in its own process; peak resident memory of the forward pass, without the
weights, and separately the packed copies of the weights that a first, short forward pass creates.
Time: one local attention (base's 12 heads of 64, window 64) and one whole local layer, median of 15
interleaved runs. Linux only.
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
from motherbird.nn import Encoder, kernels, pack
from motherbird.nn.attention import AttentionPlan

MEMORY = """
import sys, torch, motherbird
encoder = motherbird.nn.Encoder.load(sys.argv[1], dtype="bfloat16")
sum(float(p.detach().sum()) for p in encoder.parameters())  # so that every page is resident
packed = motherbird.nn.pack([torch.randint(0, 50280, (8192,)).tolist()])
def status(key):
    line = next(l for l in open("/proc/self/status") if l.startswith(key))
    return int(line.split()[1]) * 1024
loaded = status("VmRSS")
with torch.inference_mode():
    encoder(motherbird.nn.pack([[100] * 8]))
    prepared = status("VmRSS")
    open("/proc/self/clear_refs", "w").write("5")  # resets the peak
    encoder(packed)
print(loaded, prepared, status("VmHWM"))
"""


def memory(tokens: int = 8192) -> dict[str, object]:
    """Return the MB above the weights, median of three processes."""
    with tempfile.TemporaryDirectory() as folder:
        Encoder(presets.base()).to(torch.bfloat16).save(Path(folder) / "base")
        above, copies = [], []
        for _ in range(3):
            command = [sys.executable, "-c", MEMORY, f"{folder}/base"]
            loaded, prepared, peak = map(int, subprocess.check_output(command).split())
            above.append((peak - prepared) / 1e6)
            copies.append((prepared - loaded) / 1e6)
    return {
        "tokens": tokens,
        "mb_above_weights": statistics.median(above),
        "mb_prepared_copies": statistics.median(copies),
        "runs": above,
    }


def cost(repeats: int = 15) -> dict[str, dict[str, float]]:
    """Return the microseconds per token of local attention and of a local layer, by dtype."""
    lengths = (1024, 8192)
    encoder = Encoder(presets.base()).eval()
    results: dict[str, dict[str, float]] = {}
    for dtype in (torch.float32, torch.bfloat16):
        layer = encoder.layers[1].to(dtype)
        chosen = kernels.choose("auto", torch.device("cpu"), dtype, inference=True)
        work = {}
        for length in lengths:
            plan = AttentionPlan(pack([[1] * length]))
            x = torch.randn(length, 768, dtype=dtype)
            qkv = [torch.randn(length, 12, 64, dtype=dtype) for _ in range(3)]
            work["attention", length] = partial(chosen.attention.attend, *qkv, plan, 64)
            work["layer", length] = partial(layer, x, plan, chosen)
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
