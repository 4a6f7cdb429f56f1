"""Fit routers on ../shared/data/tasks/routing, and compare them with the baseline of its README.

    python benchmarks/routing.py --out benchmarks/routing.json [--seeds 3] [--set epochs=2]

Two ways to learn which of two LLMs a question needs: "router" is `motherbird route fit`, with a
probability for each LLM; "label" is a classifier of the column label, whether only the strong LLM
is right. Both are measured on the dev rows of the set; the best epoch and the point of the curve
are chosen on a tenth of its training rows. The baseline is TF-IDF with logistic regression.
Finished runs in --out are not computed again, so that the command can be stopped and repeated.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import machine

from motherbird import Classifier, strict
from motherbird.core import routing
from motherbird.data.labelled import Labelled, split_off
from motherbird.data.outcomes import read_outcomes
from motherbird.train.finetune import finetune
from motherbird.train.routing import Targets, fit_router
from motherbird.train.tuning import FineTuning
from motherbird.train.tuning_plan import Parts

DATA = Path(__file__).resolve().parents[2] / "shared/data/tasks/routing"
TARGETS = Targets(("weak", "strong"), (1.0, 20.0))
BASELINE = {"auc": 0.619, "apgr": 0.630}


def as_label(data: Labelled) -> Labelled:
    """Return the texts with the label of the set: whether only the strong model is right."""
    labels = ["strong" if own == ["strong"] else "weak" for own in data.labels]
    return replace(data, labels=labels, kind="single")


def router(recipe: FineTuning, parts: Parts, out: Path) -> dict[str, Any]:
    """Fit a router, and return its metrics on test."""
    found = fit_router(recipe, parts, TARGETS, out)
    return {**found["test"], "epoch": found["epoch"], "seconds": found["seconds"]}


def label(recipe: FineTuning, parts: Parts, out: Path) -> dict[str, Any]:
    """Fine-tune a classifier of the label, and return the metrics of its probability on test."""
    assert parts.test is not None
    recipe = replace(recipe, metric="auc")
    own = Parts(as_label(parts.train), as_label(parts.dev), as_label(parts.test))
    found = finetune(recipe, own, out)
    classifier = Classifier.load(out)
    probabilities = classifier.probabilities(
        parts.test.texts, max_length=recipe.max_length, truncate=True
    )
    strong = probabilities[:, classifier.labels.index("strong")]
    both = np.stack([1 - strong, strong], axis=1)
    outcomes = TARGETS.outcomes(parts.test)
    return {
        "auc": routing.auc(both, outcomes, TARGETS.costs),
        "apgr": routing.apgr(routing.curve(both, outcomes, TARGETS.costs)),
        "epoch": found["epoch"], "seconds": found["seconds"],
    }  # fmt: skip


def main() -> None:
    """Train what is missing, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--systems", default="router,label")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    settings: dict[str, Any] = {"task": "classify"}
    for change in given.set:
        strict.change(settings, change)
    report = json.loads(given.out.read_text()) if given.out.is_file() else {"runs": []}
    report |= {
        "command": " ".join(["python benchmarks/routing.py", *(f"--set {c}" for c in given.set)]),
        "machine": machine(), "baseline": BASELINE,
    }  # fmt: skip
    whole, test = (read_outcomes(DATA / f"{part}.jsonl.gz", TARGETS.names)
                   for part in ("train", "dev"))  # fmt: skip
    systems = {"router": router, "label": label}
    for seed in range(given.seeds):
        recipe = replace(strict.build(FineTuning, settings, "--set"), seed=seed)
        for name in given.systems.split(","):
            if any((run["system"], run["seed"]) == (name, seed) for run in report["runs"]):
                continue
            train, dev = split_off(whole, 0.1, seed)
            with tempfile.TemporaryDirectory() as folder:
                run = systems[name](recipe, Parts(train, dev, test), Path(folder) / "model")
            report["runs"].append({"system": name, "seed": seed, **run})
            given.out.write_text(json.dumps(report, indent=1) + "\n")
            print(report["runs"][-1], flush=True)
    for name in systems:
        for metric, baseline in BASELINE.items():
            values = [run[metric] for run in report["runs"] if run["system"] == name]
            if len(values) > 1:
                print(f"{name:8} {metric:5} {statistics.mean(values):.3f} "
                      f"± {statistics.stdev(values):.3f}  baseline {baseline:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
