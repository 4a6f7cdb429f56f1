"""Fine-tune a model on the labelled sets of ../shared/data/tasks, beside their baselines.

    python benchmarks/finetune_tasks.py --out benchmarks/finetune-tasks.json
        [--tasks trec,sst2] [--model motherbird-nano] [--random] [--seeds 3] [--set lr=2e-4]

The baselines are those of the README there: TF-IDF with logistic regression, a CRF for tags, the
cosine of TF-IDF for scores. With --random, the same architecture starts from random weights. The
dev rows of a set are the test; the best epoch is chosen on a tenth of its training rows, by the
metric of the set. Finished
runs in --out are not computed again, so that the command can be stopped and repeated.
"""

import argparse
import json
import logging
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import machine

from motherbird import strict
from motherbird.core import hub
from motherbird.data.labelled import Columns, read_labelled, split_off
from motherbird.nn import Encoder, MaskedLM
from motherbird.train.finetune import finetune
from motherbird.train.tuning import FineTuning
from motherbird.train.tuning_plan import Parts

DATA = Path(__file__).resolve().parents[2] / "shared/data/tasks"
# The task, the metric and the baseline of each set (README.md there).
SETS: dict[str, tuple[str, str, float]] = {
    "wikigold": ("tag", "entity_f1", 0.519), "movie_reviews_long": ("classify", "accuracy", 0.865),
    "rte": ("score", "accuracy", 0.549), "wnut17": ("tag", "entity_f1", 0.200),
    "injection": ("classify", "accuracy", 0.921), "mrpc": ("score", "accuracy", 0.791),
    "qnli": ("score", "accuracy", 0.720), "sick": ("score", "spearman", 0.620),
    "sick-entailment": ("score", "accuracy", 0.816), "trec": ("classify", "accuracy", 0.862),
    "ag_news": ("classify", "accuracy", 0.885), "stsb": ("score", "spearman", 0.752),
    "cola": ("classify", "mcc", 0.105), "banking77": ("classify", "accuracy", 0.904),
    "routing": ("classify", "auc", 0.619), "snips": ("classify", "accuracy", 0.984),
    "snips_slots": ("tag", "entity_f1", 0.926), "clinc150": ("classify", "accuracy", 0.908),
    "qqp": ("score", "accuracy", 0.793), "hate_offensive": ("classify", "accuracy", 0.902),
    "sst2": ("classify", "accuracy", 0.817),
}  # fmt: skip


def parts(name: str, seed: int) -> Parts:
    """Return the rows of a set; its dev rows are the test."""
    folder, task = DATA / name.removesuffix("-entailment"), SETS[name][0]
    columns = Columns(label="label") if name == "sick-entailment" else None
    whole = read_labelled(folder / "train.jsonl.gz", task, columns)
    test = read_labelled(folder / "dev.jsonl.gz", task, columns, whole.kind)
    train, dev = split_off(whole, 0.1, seed)
    return Parts(train, dev, test)


def random_model(name: str, folder: Path) -> str:
    """Write a model of the same shape with random weights, and return its directory."""
    trained = Encoder.load(name, dtype="float32")
    torch.manual_seed(0)
    MaskedLM(trained.config).save(folder, tokenizer=trained.tokenizer)
    return str(folder)


def main() -> None:
    """Train what is missing, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default=",".join(SETS))
    parser.add_argument("--model", default=hub.NANO)
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    settings: dict[str, Any] = {}
    for change in given.set:
        strict.change(settings, change)
    report = json.loads(given.out.read_text()) if given.out.is_file() else {"runs": []}
    report |= {"command": "python benchmarks/finetune_tasks.py", "machine": machine()}
    done = {(run["set"], run["seed"]) for run in report["runs"]}
    with tempfile.TemporaryDirectory() as folder:
        model = given.model
        if given.random:
            model = random_model(model, Path(folder) / "random")
        for name in given.tasks.split(","):
            task, metric, _ = SETS[name]
            chosen = {"task": task, "metric": metric, **settings}
            recipe = strict.build(FineTuning, chosen, "--set")
            for seed in range(given.seeds):
                if (name, seed) in done:
                    continue
                out = Path(folder) / f"{name}-{seed}"
                run = replace(recipe, model=model, seed=seed)
                found = finetune(run, parts(name, seed), out)
                report["runs"].append(
                    {"set": name, "seed": seed, "random": given.random, "settings": settings}
                    | {key: found[key] for key in ("dev", "test", "epoch", "seconds", "documents")}
                )
                given.out.write_text(json.dumps(report, indent=1) + "\n")
                print(line(name, [report["runs"][-1]]), flush=True)
    print()
    for name in SETS:
        if runs := [run for run in report["runs"] if run["set"] == name]:
            print(line(name, runs))


def line(name: str, runs: list[dict[str, Any]]) -> str:
    """Return a line of the table: the metric on the test rows, its deviation, the baseline."""
    _, metric, baseline = SETS[name]
    values = [run["test"][metric] or 0.0 for run in runs]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    mean = statistics.mean(values)
    seconds = sum(run["seconds"] for run in runs)
    sign = "+" if mean > baseline else "-"
    return (f"{name:20} {metric:10} {mean:.3f} ± {deviation:.3f}  baseline {baseline:.3f} {sign}"
            f"  {seconds:6.0f} s")  # fmt: skip


if __name__ == "__main__":
    main()
