"""What fine-tuning costs by length: time measured on this CPU, memory computed for GPUs.

    python benchmarks/finetune_cost.py --out benchmarks/finetune-cost.json

Time: texts of random tokens, all of one length, in steps of 32 (of fewer at 2,048 tokens and more);
seconds for one epoch of 1,000 texts with motherbird-nano. Memory: `tuning_memory.bytes_needed`, the
estimate that --max-memory uses, in bfloat16 on one GPU: the longest text that fits a card with
micro-batches of one text.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import finish, machine
from finetune_speed import ours

from motherbird.core import hub, presets
from motherbird.core.config import EncoderConfig
from motherbird.data.labelled import Labelled
from motherbird.train.examples import Examples
from motherbird.train.tuning import FineTuning
from motherbird.train.tuning_memory import bytes_needed
from motherbird.train.tuning_plan import Parts, Plan, plan

LENGTHS = (32, 128, 512, 2048, 8192)
CARDS = (8, 12, 24)  # GB
FREE = 0.9  # fraction of a card that a process may use
WAYS: dict[str, dict[str, Any]] = {
    "all weights": {}, "gradient checkpointing": {"gradient_checkpointing": True},
    "LoRA": {"lora_rank": 16},
    "LoRA and gradient checkpointing": {"lora_rank": 16, "gradient_checkpointing": True},
}  # fmt: skip


def of_length(made: Plan, length: int, count: int) -> Plan:
    """Return a plan with texts of random tokens of one length."""
    draw = np.random.default_rng(length)
    ids = [draw.integers(1000, 20_000, length).astype(np.int32) for _ in range(count)]
    targets = [np.array(number % 2, np.int64) for number in range(count)]
    return replace(made, train=Examples("single", ids, targets))


def seconds(made: Plan, length: int) -> float:
    """Return the seconds of an epoch of 1,000 texts, from the median of three steps."""
    texts = max(2, min(32, 32_768 // length))
    recipe = replace(made.recipe, batch_size=texts)
    shaped = replace(of_length(made, length, 5 * texts), recipe=recipe)
    with tempfile.TemporaryDirectory() as folder:
        steps, times = ours(shaped, Path(folder)), []
        for _ in range(4):
            start = time.perf_counter()
            list(islice(steps, 1))
            times.append(time.perf_counter() - start)
    return float(np.median(times[1:])) / texts * 1000


def longest(made: Plan, config: EncoderConfig, way: dict[str, Any], card: float) -> int:
    """Return the largest power of two of tokens of a text that fits a card, at most 8,192."""
    recipe = replace(made.recipe, dtype="bfloat16", micro_tokens=1, **way)
    for length in (8192, 4096, 2048, 1024, 512, 256):
        shaped = replace(of_length(made, length, 32), config=config)
        if bytes_needed(shaped, recipe, torch.device("cuda"), 1) <= card * FREE * 1e9:
            return length
    return 0


def main() -> None:
    """Measure and compute."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    labels = ["a", "b"] * 2
    data = Labelled([f"text {n}" for n in range(4)], labels, ["list"] * 4, "single")
    made = plan(FineTuning(task="classify", lr=1e-4), Parts(data, data))
    report: dict[str, Any] = {"machine": machine(), "model": hub.NANO}
    report["seconds_per_1000_texts"] = {
        str(length): round(seconds(made, length), 1) for length in LENGTHS
    }
    report["longest_text"] = {
        name: {
            way: {f"{card} GB": longest(made, config, changes, card) for card in CARDS}
            for way, changes in WAYS.items()
        }
        for name, config in (("base", presets.base()), ("large", presets.large()))
    }
    finish(report, given.out)


if __name__ == "__main__":
    main()
