"""The speed of fine-tuning beside transformers: the same model, texts and steps, taking turns.

    python benchmarks/finetune_speed.py --out benchmarks/finetune-speed.json
        [--tasks sst2,trec,wnut17] [--model motherbird-nano] [--rounds 7] [--steps 10]

Every system takes 10 steps of 32 texts in turn, with the fused AdamW of torch, in float32 and with
bfloat16 products; medians of the rounds. transformers gets batches of texts of similar length, as
`group_by_length` of its Trainer makes them, padded to the longest. Tokenization is not measured.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import machine, take_turns
from finetune_tasks import SETS, parts
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from motherbird.core import hub
from motherbird.core.batching import pad
from motherbird.train.distributed import Distributed
from motherbird.train.labels_process import LabelsProcess
from motherbird.train.loop import run_steps
from motherbird.train.process import Session
from motherbird.train.signals import Signals
from motherbird.train.tuning import FineTuning
from motherbird.train.tuning_plan import Plan, initial_model, plan

BATCH, GROUP = 32, 50  # texts of a step; steps whose texts are sorted by length together
Steps = Iterator[float]  # takes a step, and yields its loss


def ours(made: Plan, folder: Path) -> Steps:
    """Take the steps of `motherbird finetune`."""
    alone = Distributed(0, 1, torch.device("cpu"))
    process = LabelsProcess(Session(folder, alone, Signals(), lambda: None), made)
    progress = process.initial_progress()
    process.build(progress, None)
    batches, lr = process.begin_phase(progress)  # an epoch, which has more steps than are taken
    for report in run_steps(process.stepper, batches, progress, lr, lambda now: False):
        yield report.loss


def theirs(made: Plan, folder: Path, dtype: torch.dtype) -> Steps:
    """Take the steps of a training loop with transformers."""
    start = initial_model(made)
    start.save(folder)
    tags = made.train.kind == "tags"
    cls = AutoModelForTokenClassification if tags else AutoModelForSequenceClassification
    model: Any = cls.from_pretrained(folder).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, fused=True
    )
    for numbers in cycle(grouped(made)):
        documents = [made.train.ids[number].tolist() for number in numbers]
        ids, mask = map(torch.from_numpy, pad(documents))
        targets = [made.train.targets[number] for number in numbers]
        if tags:
            labels = torch.full(mask.shape, -100)
            labels[mask.bool()] = torch.from_numpy(np.concatenate(targets))
        else:
            labels = torch.from_numpy(np.stack(targets))
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()


def grouped(made: Plan) -> list[list[int]]:
    """Return the texts of each step: sorted by length within groups, in random order."""
    rng = np.random.default_rng(0)
    order, steps = rng.permutation(len(made.train)), []
    for first in range(0, len(order), BATCH * GROUP):
        group = sorted(
            order[first : first + BATCH * GROUP].tolist(), key=lambda n: len(made.train.ids[n])
        )
        steps += [group[n : n + BATCH] for n in range(0, len(group) - BATCH + 1, BATCH)]
    return [steps[n] for n in rng.permutation(len(steps))]


def measure(name: str, model: str, rounds: int, steps: int, folder: Path) -> dict[str, Any]:
    """Return the texts per second of each system on a set."""
    task = SETS[name][0]
    recipe = FineTuning(task=task, model=model, lr=1e-4, optimizer="adamw", dtype="float32")
    data = parts(name, 0)
    systems: dict[str, Callable[[], Steps]] = {
        "motherbird float32": lambda: ours(plan(recipe, data), folder / "a"),
        "motherbird bfloat16": lambda: ours(
            plan(replace(recipe, dtype="bfloat16"), data), folder / "b"),
        "transformers float32": lambda: theirs(plan(recipe, data), folder / "c", torch.float32),
        "transformers bfloat16": lambda: theirs(plan(recipe, data), folder / "d", torch.bfloat16),
    }  # fmt: skip
    running = {system: make() for system, make in systems.items()}
    seconds, losses = take_turns(running, rounds, steps)
    speed = {s: round(steps * BATCH / statistics.median(times), 1) for s, times in seconds.items()}
    best = max(value for system, value in speed.items() if system.startswith("transformers"))
    own = max(value for system, value in speed.items() if system.startswith("motherbird"))
    return {
        "set": name, "texts_per_s": speed, "ratio": round(own / best, 3),
        "mean_loss": {s: round(statistics.mean(each), 4) for s, each in losses.items()},
        "seconds": {s: [round(t, 3) for t in times] for s, times in seconds.items()},
    }  # fmt: skip


def main() -> None:
    """Measure, and print a line for each set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default="sst2,trec,wnut17")
    parser.add_argument("--model", default=hub.NANO)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), "model": given.model, "results": []}
    for name in given.tasks.split(","):
        with tempfile.TemporaryDirectory() as folder:
            found = measure(name, given.model, given.rounds, given.steps, Path(folder))
        report["results"].append(found)
        print(name, found["texts_per_s"], f"ratio {found['ratio']}", flush=True)
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
