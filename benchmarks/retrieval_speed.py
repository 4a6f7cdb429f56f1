"""The speed of training for retrieval beside sentence-transformers: the same steps, taking turns.

    python benchmarks/retrieval_speed.py --pairs pairs.jsonl --out benchmarks/retrieval-speed.json
        [--tasks dense,late] [--model motherbird-nano] [--rounds 5] [--steps 4] [--max-length 256]

Every system takes the same number of steps of 64 pairs in turn, with the fused AdamW of torch;
medians of the rounds. sentence-transformers gets its own losses in float32 and with bfloat16
products, without its Trainer, and once with motherbird's encoder inside (`motherbird.accelerate`).
Its texts are tokenized and padded before; only the model, its loss and the optimizer are measured.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from common import machine, take_turns
from sentence_transformers import MultiVectorEncoder, SentenceTransformer
from sentence_transformers.multi_vector_encoder.losses import (
    MultiVectorMultipleNegativesRankingLoss,
)
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from motherbird import accelerate
from motherbird.core import hub
from motherbird.data.pairs import Pairs, read_pairs, split_off
from motherbird.train.distributed import Distributed
from motherbird.train.loop import run_steps
from motherbird.train.process import Session
from motherbird.train.signals import Signals
from motherbird.train.vectors.recipe import VectorTuning
from motherbird.train.vectors.tune import RetrievalProcess, plan

BATCH = 64
Steps = Iterator[float]  # takes a step, and yields its loss


def ours(recipe: VectorTuning, train: Pairs, dev: Pairs, folder: Path) -> Steps:
    """Take the steps of `motherbird finetune dense` or `late`."""
    made = plan(recipe, train, dev, {})
    alone = Distributed(0, 1, torch.device("cpu"))
    process = RetrievalProcess(Session(folder, alone, Signals(), lambda: None), made)
    progress = process.initial_progress()
    process.build(progress, None)
    batches, lr = process.begin_phase(progress)  # an epoch, which has more steps than are taken
    for report in run_steps(process.stepper, batches, progress, lr, lambda now: False):
        yield report.loss


def theirs(
    recipe: VectorTuning, train: Pairs, dev: Pairs, folder: Path, dtype: torch.dtype, inside: bool
) -> Steps:
    """Take the steps of a training loop with sentence-transformers."""
    plan(recipe, train, dev, {}).untrained.save(folder)
    late = recipe.task == "late"
    model: Any = (MultiVectorEncoder if late else SentenceTransformer)(str(folder), device="cpu")
    if inside:
        accelerate(model)
    model.train()
    loss_of: Any = (MultiVectorMultipleNegativesRankingLoss if late else
                    MultipleNegativesRankingLoss)(model)  # fmt: skip
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True
    )
    steps = []
    for first in range(0, min(len(train), 20 * BATCH) - BATCH + 1, BATCH):
        own = train.select(range(first, first + BATCH))
        columns = {"query": own.queries, "document": [texts[0] for texts in own.documents]}
        steps.append([
            {**model.preprocess(texts, prompt=model.prompts.get(kind) or None,
                                **({"task": kind} if late else {})),
             **({"task": kind} if late else {})}
            for kind, texts in columns.items()
        ])  # fmt: skip
    for features in cycle(steps):
        copies = [dict(each) for each in features]
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = loss_of(copies, None)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def measure(given: argparse.Namespace, task: Any, train: Pairs, dev: Pairs) -> dict[str, Any]:
    """Return the pairs per second of each system."""

    def recipe(dtype: Any) -> VectorTuning:
        return VectorTuning(
            task=task, model=given.model, lr=1e-4, dtype=dtype, batch_size=BATCH,
            max_length=given.max_length,
        )  # fmt: skip

    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        f32, bf16 = torch.float32, torch.bfloat16
        plain = recipe("float32")
        systems: dict[str, Callable[[], Steps]] = {
            "motherbird float32": lambda: ours(plain, train, dev, folder / "a"),
            "motherbird bfloat16": lambda: ours(recipe("bfloat16"), train, dev, folder / "b"),
            "sentence-transformers float32": lambda: theirs(
                plain, train, dev, folder / "c", f32, False),
            "sentence-transformers bfloat16": lambda: theirs(
                plain, train, dev, folder / "d", bf16, False),
            "sentence-transformers, motherbird's encoder inside": lambda: theirs(
                plain, train, dev, folder / "e", bf16, True),
        }  # fmt: skip
        running = {system: make() for system, make in systems.items()}
        seconds, losses = take_turns(running, given.rounds, given.steps)
    speed = {
        s: round(given.steps * BATCH / statistics.median(times), 1) for s, times in seconds.items()
    }
    best = max(value for system, value in speed.items() if system.endswith(("float32", "bfloat16"))
               and system.startswith("sentence"))  # fmt: skip
    own = max(value for system, value in speed.items() if system.startswith("motherbird"))
    return {
        "task": task, "pairs_per_s": speed, "ratio": round(own / best, 3),
        "mean_loss": {s: round(statistics.mean(each), 4) for s, each in losses.items()},
        "seconds": {s: [round(t, 3) for t in times] for s, times in seconds.items()},
    }  # fmt: skip


def main() -> None:
    """Measure, and print a line for each task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", required=True)
    parser.add_argument("--tasks", default="dense,late")
    parser.add_argument("--model", default=hub.NANO)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    train, dev = split_off(read_pairs([given.pairs]), 0.01, 0, 64)
    name = Path(given.pairs).name
    report: dict[str, Any] = {
        "machine": machine(), "model": given.model, "pairs": name, "max_length": given.max_length,
        "batch": BATCH, "results": [],
    }  # fmt: skip
    for task in given.tasks.split(","):
        found = measure(given, task, train, dev)
        report["results"].append(found)
        print(task, found["pairs_per_s"], f"ratio {found['ratio']}", flush=True)
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
