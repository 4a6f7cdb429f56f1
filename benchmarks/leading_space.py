"""Tagging with and without the space before each word, for byte-level tokenizers.

    python benchmarks/leading_space.py --out benchmarks/leading-space.json
        [--tasks wikigold,wnut17,snips_slots] [--seeds 3] [--epochs 5]

In running text, a token of a byte-level tokenizer contains the space before its word. Words that
are encoded one by one, as lists of words often are, have tokens that the model has rarely seen.
motherbird encodes lists of words with the spaces between them. The same model, rows and seeds are
trained both ways; entity F1 on the dev rows of ../shared/data/tasks.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import finish, machine
from finetune_tasks import parts

from motherbird.core import hub
from motherbird.core.tokenizer import Tokenizer
from motherbird.train.finetune import finetune
from motherbird.train.tuning import FineTuning


def one_by_one(self: Tokenizer, words: Sequence[str]) -> tuple[list[int], list[int]]:
    """Encode each word by itself, in place of `Tokenizer.encode_words`."""
    before, after = self.template_ids()
    ids, firsts = list(before), []
    for word in words:
        own = self.encode(word)[len(before) : -len(after) or None]
        firsts.append(len(ids) if own else -1)
        ids += own
    return ids + list(after), firsts


def main() -> None:
    """Train both ways, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default="wikigold,wnut17,snips_slots")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), "model": hub.NANO, "epochs": given.epochs}
    for name in given.tasks.split(","):
        found: dict[str, list[float]] = {"with": [], "without": []}
        for seed in range(given.seeds):
            recipe = FineTuning(task="tag", epochs=given.epochs, seed=seed)
            with tempfile.TemporaryDirectory() as folder:
                data = parts(name, seed)
                run = finetune(recipe, data, Path(folder) / "with")
                found["with"].append(run["test"]["entity_f1"])
                with patch.object(Tokenizer, "encode_words", one_by_one):
                    run = finetune(recipe, data, Path(folder) / "without")
                found["without"].append(run["test"]["entity_f1"])
        report[name] = {
            way: {"entity_f1": values, "mean": round(statistics.mean(values), 4)}
            for way, values in found.items()
        }
        print(name, {way: report[name][way]["mean"] for way in found}, flush=True)
    finish(report, given.out)


if __name__ == "__main__":
    main()
