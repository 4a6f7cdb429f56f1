"""Few-shot fine-tuning beside plain fine-tuning, on 8, 16 and 32 texts of each label.

    python benchmarks/few_shot.py --out benchmarks/few-shot.json
        [--tasks sst2,ag_news,trec,banking77] [--counts 8,16,32] [--draws 5]

Texts are drawn from the training rows of ../shared/data/tasks, and both ways learn the same ones.
Plain fine-tuning has the default settings, but 60 steps at least, and no early stopping, for which
there are too few texts. Accuracy on the dev rows. Finished runs in --out are not computed again.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import machine
from finetune_tasks import DATA, SETS

from motherbird.core import hub
from motherbird.data.labelled import Labelled, read_labelled
from motherbird.train.finetune import finetune
from motherbird.train.tuning import FineTuning
from motherbird.train.tuning_plan import Parts

STEPS, BATCH = 60, 32  # of plain fine-tuning


def draw(data: Labelled, count: int, seed: int) -> Labelled:
    """Return a number of random texts of each label."""
    rng, labels = np.random.default_rng(seed), np.array(data.labels)
    chosen = [rng.permutation(np.flatnonzero(labels == name))[:count] for name in data.names()]
    return data.select(rng.permutation(np.concatenate(chosen)).tolist())


def settings(way: str, texts: int) -> dict[str, Any]:
    """Return the settings of a way of training."""
    if way == "few-shot":
        return {"few_shot": True}
    steps = -(-texts // BATCH)
    return {"epochs": max(15, -(-STEPS // steps)), "patience": 0}


def main() -> None:
    """Train what is missing, and print means over draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default="sst2,ag_news,trec,banking77")
    parser.add_argument("--counts", default="8,16,32")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--model", default=hub.NANO)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    report = json.loads(given.out.read_text()) if given.out.is_file() else {"runs": []}
    report |= {"command": "python benchmarks/few_shot.py", "machine": machine()}
    keys = ("set", "count", "draw", "way")
    done = {tuple(run[key] for key in keys) for run in report["runs"]}
    names, counts = given.tasks.split(","), [int(n) for n in given.counts.split(",")]
    for seed, count, name in ((s, c, n) for s in range(given.draws) for c in counts for n in names):
        task = SETS[name][0]
        test = read_labelled(DATA / name / "dev.jsonl.gz", task)
        train = draw(read_labelled(DATA / name / "train.jsonl.gz", task), count, seed)
        for way in ("plain", "few-shot"):
            if (name, count, seed, way) in done:
                continue
            own = settings(way, len(train.texts))
            recipe = FineTuning(task=task, model=given.model, seed=seed, **own)
            with tempfile.TemporaryDirectory() as folder:
                found = finetune(recipe, Parts(train, train, test), Path(folder) / "model")
            run = dict(zip(keys, (name, count, seed, way), strict=True))
            run |= {"accuracy": found["test"]["accuracy"], "seconds": found["seconds"]}
            report["runs"].append(run)
            given.out.write_text(json.dumps(report, indent=1) + "\n")
            print(*run.values(), flush=True)
    for count in counts:
        for way in ("plain", "few-shot"):
            means = [
                statistics.mean(values)
                for name in names
                if (values := [run["accuracy"] for run in report["runs"]
                               if (run["set"], run["count"], run["way"]) == (name, count, way)])
            ]  # fmt: skip
            shown = "  ".join(f"{n} {m:.3f}" for n, m in zip(names, means, strict=True))
            print(f"{count:3} {way:9} {shown}  mean {statistics.mean(means):.3f}")


if __name__ == "__main__":
    main()
