"""Time of forward and backward in two versions of motherbird, in turns.

    git worktree add ../before 198bd82
    python benchmarks/training_speed.py ../before/src src [--dtype bfloat16] [--out FILE]

Base geometry with 6 of its 22 layers (two global), random weights in float32, autocast to bfloat16
or none, one batch of real lengths: N(256, 64) and N(1024, 256), about 4,096 tokens each. Every
version is a process that waits while the other computes; the first turn is a warm-up; results are
medians. The losses of both are reported too, and have to be equal.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from common import finish, machine

LENGTHS = {
    "N(256, 64)": [146, 178, 196, 210, 222, 233, 243, 252, 260, 269, 279, 290, 302, 316, 334, 366],
    "N(1024, 256)": [704, 928, 1120, 1344],
}

WORKER = """
import json, sys, time
import torch
from motherbird import EncoderConfig
try:
    from motherbird.nn import Encoder, pack
except ImportError:  # an earlier version
    from motherbird import Encoder, pack
torch.manual_seed(0)
lengths, dtype = json.loads(sys.argv[1]), getattr(torch, sys.argv[2])
encoder = Encoder(EncoderConfig(num_hidden_layers=6)).train()
generator = torch.Generator().manual_seed(0)
batches = {
    name: pack([torch.randint(100, 50000, (n,), generator=generator).tolist() for n in each])
    for name, each in lengths.items()
}
for line in sys.stdin:
    packed = batches[line.strip()]
    encoder.zero_grad()
    start = time.perf_counter()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        loss = encoder(packed).float().pow(4).mean()
    loss.backward()
    seconds = time.perf_counter() - start
    norm = sum(float(p.grad.double().pow(2).sum()) for p in encoder.parameters()) ** 0.5
    print(json.dumps([seconds, loss.item(), norm]), flush=True)
"""


def main() -> None:
    """Measure; print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("before", type=Path, help="directory with the older package")
    parser.add_argument("after", type=Path, help="directory with the newer one")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    workers = {
        name: subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(LENGTHS), arguments.dtype],
            env={**os.environ, "PYTHONPATH": str(folder.resolve())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name, folder in (("before", arguments.before), ("after", arguments.after))
    }
    rows = []
    for lengths, each in LENGTHS.items():
        times: dict[str, list[float]] = {name: [] for name in workers}
        results = {}
        for _ in range(arguments.repeats + 1):
            for name, worker in workers.items():
                assert worker.stdin and worker.stdout
                print(lengths, file=worker.stdin, flush=True)
                seconds, *results[name] = json.loads(worker.stdout.readline())
                times[name].append(seconds)
        medians = {name: statistics.median(some[1:]) for name, some in times.items()}
        rows.append(
            {
                "lengths": lengths,
                "tokens": sum(each),
                "tokens_per_s": {name: sum(each) / median for name, median in medians.items()},
                "times_faster": medians["before"] / medians["after"],
                "loss_and_gradient_norm": results,
                "seconds": times,
            }
        )
    for worker in workers.values():
        worker.communicate()
    report = {
        "command": "python benchmarks/training_speed.py ../before/src src",
        "dtype": arguments.dtype,
        "machine": machine(),
        "rows": rows,
    }
    finish(report, arguments.out)


if __name__ == "__main__":
    main()
