"""Compare the speed and memory of two versions of motherbird on this machine, interleaved.

    python benchmarks/before_after.py BEFORE AFTER --model DIR [--out FILE.json]

BEFORE and AFTER are checkouts of the repository; the model is a directory that both can load. Each
version runs in a process of its own; they compute the same documents in turns, and the medians are
compared. "speed" is the time before / the time after; "peak_mb" is the peak memory of a fresh
process, weights and libraries included, that computes one document of 8,192 tokens twice.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

Batches = list[list[list[int]]]


def workloads() -> dict[str, Batches]:
    """Return batches of documents of random ids, each batch from the shortest document on."""
    draw = np.random.default_rng(0)

    def batches(lengths: Any, budget: int) -> Batches:
        made: Batches = []
        room = 0
        for length in sorted((int(n) for n in lengths), reverse=True):
            if length > room:
                made.append([])
                room = budget
            made[-1].insert(0, draw.integers(1, 50_000, length).tolist())
            room -= length
        return made

    return {
        "short": batches(np.clip(draw.normal(256, 64, 16), 16, 512), 2048),
        "queries": batches(draw.integers(16, 65, 60), 1024),
        "medium": batches([2048], 2048),
        "long": batches([4096], 4096),
        "latency": batches([16] * 15, 16),
    }


def serve(model: str, dtype: str) -> None:
    """Answer requests of `main` in the version of motherbird that is on the path."""
    from motherbird import machine as system
    from motherbird.bench.peers import motherbird as peer

    encode = peer.load(Path(model), dtype, "auto", os.cpu_count())
    reset = getattr(system, "reset_peak_memory", None) or system.forget_peak
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        reset()
        start = time.perf_counter()
        encode(request)
        seconds = time.perf_counter() - start
        answers.write(json.dumps([seconds, system.own_memory_mb("VmHWM")]) + "\n")
        answers.flush()


class Version:
    """A process that computes batches with one version of motherbird."""

    def __init__(self, source: Path, model: str, dtype: str):
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", model, dtype],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(source / "src")},
        )  # fmt: skip

    def compute(self, batches: Batches) -> tuple[float, float]:
        """Return the seconds that the batches took, and the peak memory in MB."""
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None and stdout is not None
        stdin.write(json.dumps(batches) + "\n")
        stdin.flush()
        seconds, peak = json.loads(stdout.readline())
        return seconds, peak

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def compare_speed(sources: dict[str, Path], model: str, dtype: str, rounds: int) -> dict[str, Any]:
    """Time both versions in turns."""
    versions = {name: Version(source, model, dtype) for name, source in sources.items()}
    found: dict[str, Any] = {}
    for name, batches in workloads().items():
        calls = [[batch] for batch in batches] if name == "latency" else [batches]
        seconds: dict[str, list[float]] = {version: [] for version in sources}
        for turn in range(rounds + 1):  # the first is not counted
            for version in sorted(sources, reverse=bool(turn % 2)):
                took = median(versions[version].compute(call)[0] for call in calls)
                seconds[version] += [took] if turn else []
        middle = {version: median(times) for version, times in seconds.items()}
        found[name] = {**seconds, "speed": round(middle["before"] / middle["after"], 3)}
        print(dtype, name, found[name]["speed"], file=sys.stderr)
    for version in versions.values():
        version.close()
    return found


def compare_memory(sources: dict[str, Path], model: str, dtype: str, rounds: int) -> dict[str, Any]:
    """Measure the peak memory of both versions in fresh processes: of a first and a second call."""
    document: Batches = [[np.random.default_rng(1).integers(1, 50_000, 8192).tolist()]]
    peaks: dict[str, list[list[int]]] = {version: [] for version in sources}
    for turn in range(min(rounds, 3)):
        for name in sorted(sources, reverse=bool(turn % 2)):
            version = Version(sources[name], model, dtype)
            peaks[name].append([round(version.compute(document)[1]) for _ in range(2)])
            version.close()
    print(dtype, "peak_mb", peaks, file=sys.stderr)
    return {"peak_mb": peaks}


def main() -> None:
    """Compare two versions, and print or write the result."""
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--model", required=True, help="directory of a model")
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sources = {"before": options.before.resolve(), "after": options.after.resolve()}
    from common import finish, machine  # not in `serve`, where motherbird may be an older version

    result: dict[str, Any] = {"machine": machine()}
    for dtype in options.dtypes.split(","):
        settings = (sources, options.model, dtype, options.rounds)
        result[dtype] = {**compare_speed(*settings), **compare_memory(*settings)}
    finish(result, options.out)


if __name__ == "__main__":
    main()
