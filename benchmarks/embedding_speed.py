"""The speed of embedding passages beside a model of sentence-transformers, taking turns.

    python benchmarks/embedding_speed.py --texts pairs.jsonl --column positive --peer MODEL
        --out benchmarks/embedding-speed.json [--model motherbird-nano] [--count 2000] [--rounds 3]

Passages have 200 words. Every system has two threads and its dtype, sorts the texts itself, and
takes turns; medians of the rounds. The peer truncates texts to its limit of tokens.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import machine

from motherbird import Embedder
from motherbird.core import hub
from motherbird.data.readers.records import records
from motherbird.retrieval.embedders import load_foreign


def passages(path: str, column: str, count: int) -> list[str]:
    """Return the first passages of 200 words of all texts, joined."""
    words: list[str] = []
    for row in records(path):
        words += str(row.values[column]).split(" ")  # type: ignore[union-attr]
        if len(words) >= 200 * count:
            break
    return [" ".join(words[n : n + 200]) for n in range(0, len(words) - 199, 200)][:count]


def main() -> None:
    """Measure, and print a line for each system."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", required=True)
    parser.add_argument("--column", default="text")
    parser.add_argument("--peer", required=True)
    parser.add_argument("--model", default=hub.NANO)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    texts = passages(given.texts, given.column, given.count)
    systems: dict[str, Callable[[], Any]] = {}
    for dtype in ("float32", "bfloat16", "int8"):
        own = Embedder.load(given.model, dtype=dtype)
        systems[f"motherbird {dtype}"] = lambda own=own: own.embed(texts)
    for name in ("float32", "bfloat16"):
        peer = load_foreign(hub.find(given.peer), "cpu", getattr(torch, name))
        systems[f"sentence-transformers {name}"] = lambda peer=peer: peer.encode(
            texts, show_progress_bar=False
        )
    for compute in systems.values():
        compute()
    seconds: dict[str, list[float]] = {system: [] for system in systems}
    for _ in range(given.rounds):
        for system, compute in systems.items():
            start = time.perf_counter()
            compute()
            seconds[system].append(time.perf_counter() - start)
    speed = {s: round(len(texts) / statistics.median(times), 1) for s, times in seconds.items()}
    best = {
        who: max(v for s, v in speed.items() if s.startswith(who))
        for who in ("motherbird", "sentence")
    }
    report = {
        "machine": machine(), "model": given.model, "peer": Path(given.peer).name,
        "passages": len(texts), "passages_per_s": speed,
        "ratio": round(best["motherbird"] / best["sentence"], 3),
        "seconds": {s: [round(t, 3) for t in times] for s, times in seconds.items()},
    }  # fmt: skip
    print(speed, f"ratio {report['ratio']}")
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
