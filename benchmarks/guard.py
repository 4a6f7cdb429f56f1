"""Measure guards on ../shared/data: injections, long documents, evasions, answers, latency.

    python benchmarks/guard.py --work DIR --out benchmarks/guard.json
    python benchmarks/guard.py --work DIR --out benchmarks/guard.json --latency

The first call fine-tunes motherbird-nano: "short" for three epochs on the normal form of the rows
of injection, "long" from there for one epoch on a third of the rows and on 200 documents of up to
8,192 tokens, half of which have a jailbreak at a random place, "answers" for an epoch on
hate_offensive, and "raw" as "short" on the rows as they are. A fifth of the training rows is set
aside, and the thresholds are chosen on it. Models in DIR and figures in --out are not computed
again. --latency needs a machine without other work, and adds its figures to those of --out.
"""

import argparse
import json
import logging
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, machine

from motherbird import Classifier, Guard, strict, tokenizer
from motherbird.core import metrics
from motherbird.core.normalization import normalize
from motherbird.data import readers
from motherbird.data.labelled import Labelled, read_labelled, split_off
from motherbird.train.finetune import finetune
from motherbird.train.tuning import FineTuning
from motherbird.train.tuning_plan import Parts

DATA = Path(__file__).resolve().parents[2] / "shared/data"
MODELS = ("short", "long", "answers", "raw")
TOKENIZER = tokenizer("motherbird-nano", split_special_tokens=True)
EVASIONS = {
    "none": lambda text: text,
    "upper case": str.upper,
    "full-width letters": lambda text: "".join(
        chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text
    ),
    "zero-width spaces": lambda text: "\u200b".join(text),
    "spaced letters": lambda text: "   ".join(" ".join(word) for word in text.split()),
    "hyphens between letters": lambda text: " ".join("-".join(word) for word in text.split()),
}  # fmt: skip


# --- data


def rows(name: str) -> tuple[Labelled, Labelled]:
    """Return the training rows of a set without a fifth, and that fifth."""
    return split_off(read_labelled(DATA / f"tasks/{name}/train.jsonl.gz", "classify"), 0.2, 0)


def dev(name: str) -> Labelled:
    """Return the dev rows of a set."""
    return read_labelled(DATA / f"tasks/{name}/dev.jsonl.gz", "classify", kind="single")


def labelled(label: str, data: Labelled, count: int | None = None) -> list[str]:
    """Return the first texts with a label."""
    return [t for t, own in zip(data.texts, data.labels, strict=True) if own == label][:count]


class Documents:
    """Documents of the corpus of 8,192 tokens or more; ``half`` 0 is for training, 1 for tests."""

    def __init__(self, half: int) -> None:
        self.random = np.random.default_rng(half)
        texts = [
            document.text
            for name in ("narrative", "technical", "government", "encyclopedic")
            for document in readers.read(DATA / f"corpus/{name}.jsonl.zst")
            if len(document.text) > 36_000
        ]
        self.texts = texts[half::2]
        self.random.shuffle(self.texts)
        self.next = 0

    def make(self, tokens: int, prompt: str = "") -> str:
        """Return a part of a document of about so many tokens, with a prompt at a random place."""
        text = self.texts[self.next % len(self.texts)]
        self.next += 1
        room = max(16, tokens - 16 - len(TOKENIZER.encode(prompt)))
        [encoding] = TOKENIZER.encode_offsets([text])
        offsets = encoding.offsets[1:-1]
        first = int(self.random.integers(max(1, len(offsets) - room)))
        part = text[offsets[first][0] : offsets[min(first + room, len(offsets)) - 1][1]]
        place = part.find(" ", int(self.random.integers(len(part))))
        place = len(part) if place < 0 else place
        return f"{part[:place]}\n\n{prompt}\n\n{part[place:]}" if prompt else part


def long_documents(train: Labelled) -> Labelled:
    """Return 100 documents with a jailbreak, 50 with a benign prompt, and 50 with neither."""
    documents = Documents(0)
    prompts = labelled("jailbreak", train, 100), [*labelled("benign", train, 50), *[""] * 50]
    texts, labels = [], []
    for name, own in zip(("jailbreak", "benign"), prompts, strict=True):
        for prompt in own:
            length = int(np.exp(documents.random.uniform(np.log(256), np.log(8192))))
            texts.append(documents.make(length, prompt))
            labels.append(name)
    return Labelled(texts, labels, [f"document {n}" for n in range(len(texts))], "single")


def in_normal_form(data: Labelled) -> Labelled:
    """Return labelled texts in the form in which a guard's model gets them."""
    texts = [normalize(text).text for text in data.texts]
    return Labelled(texts, data.labels, data.where, data.kind)


# --- models


def train(name: str, work: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Fine-tune a model, or return the record of one that is finished."""
    own, held_out = rows("hate_offensive" if name == "answers" else "injection")
    start: dict[str, Any] = {"epochs": 1 if name in ("long", "answers") else 3}
    if name == "long":
        start["model"] = str(work / "short")
        more, own = long_documents(own), own.select(range(0, len(own), 3))
        own = Labelled(
            own.texts + more.texts, own.labels + more.labels, own.where + more.where, own.kind
        )
    if name != "raw":
        own, held_out = in_normal_form(own), in_normal_form(held_out)
    recipe = strict.build(FineTuning, {**start, **settings, "task": "classify"}, "--set")
    found = finetune(recipe, Parts(own, held_out), work / name)
    return {key: found[key] for key in ("dev", "epoch", "seconds", "documents", "machine")}


def guard(name: str, work: Path, window: int = 0, threshold: float = 1.0) -> Guard:
    """Return a guard with one classifier, "rule"."""
    labels = ["hate", "offensive"] if name == "answers" else ["jailbreak"]
    policy = work / f"{name}.toml"
    policy.write_text(
        f"[classifiers.rule]\nmodel = {json.dumps(name)}\nlabels = {json.dumps(labels)}\n"
        f"threshold = {threshold}\nwindow = {window}\nnormalize = {json.dumps(name != 'raw')}\n"
    )
    return Guard.load(policy)


def threshold_of(benign: np.ndarray) -> float:
    """Return the lowest threshold that 1% of these probabilities reach, or fewer."""
    allowed = int(0.01 * len(benign))
    return float(np.nextafter(np.sort(benign)[::-1][allowed], np.float32(2)))


def short_texts(name: str, work: Path) -> dict[str, Any]:
    """Return the metrics of a model on the dev rows."""
    data = "hate_offensive" if name == "answers" else "injection"
    harmless = "neither" if name == "answers" else "benign"
    own = guard(name, work)
    _, held_out = rows(data)
    threshold = threshold_of(own.probabilities(labelled(harmless, held_out), "rule"))
    test = dev(data)
    found = own.probabilities(test.texts, "rule")
    positive = np.array(test.labels) != harmless
    result = {
        "threshold": threshold,
        "auc": metrics.auc(found, positive),
        "recall": float((found >= threshold)[positive].mean()),
        "false_alarms": float((found >= threshold)[~positive].mean()),
    }
    if name == "answers":
        return result
    trained = threshold_of(own.probabilities(labelled(harmless, test), "rule"))
    result["recall_at_1_percent_of_dev"] = float((found >= trained)[positive].mean())
    trigger_words = own.probabilities(dev("notinject").texts, "rule")
    result["false_alarms_notinject"] = float((trigger_words >= threshold).mean())
    jailbreaks = labelled("jailbreak", test)
    result["recall_after_evasion"] = {
        evasion: float((own.probabilities(map(change, jailbreaks), "rule") >= threshold).mean())
        for evasion, change in EVASIONS.items()
    }
    return result


def long_texts(name: str, given: argparse.Namespace, report: dict[str, Any]) -> None:
    """Add the AUC by window and length: documents with a jailbreak against a benign prompt."""
    wanted = [window for window in given.windows.split(",") if window not in report]
    documents, test = Documents(1), dev("injection")
    texts: dict[str, tuple[list[str], np.ndarray]] = {}
    for length in given.lengths.split(",") if wanted else []:
        prompts = {
            label: [p for p in labelled(label, test) if len(TOKENIZER.encode(p)) < 384]
            for label in ("jailbreak", "benign")
        }
        prompts = {label: each[: given.count] for label, each in prompts.items()}
        own = [documents.make(int(length), prompt) for each in prompts.values() for prompt in each]
        texts[length] = own, np.arange(len(own)) < len(prompts["jailbreak"])
    for window in wanted:
        own_guard = guard(name, given.work, int(window))
        report[window] = {"texts_of_a_label": given.count} | {
            length: metrics.auc(own_guard.probabilities(own, "rule"), positive)
            for length, (own, positive) in texts.items()
        }


# --- latency


def latency(work: Path, repeats: int) -> dict[str, Any]:
    """Return the median and p95 of milliseconds for one text, of a guard and of transformers."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    directory = work / "long"
    own, documents = guard("long", work), Documents(1)
    theirs = AutoTokenizer.from_pretrained(directory)
    systems: dict[str, Any] = {"guard": lambda text: own.check([text])}
    for dtype in ("float32", "bfloat16"):
        model = AutoModelForSequenceClassification.from_pretrained(
            directory, dtype=getattr(torch, dtype)
        ).eval()

        def classify(text: str, model: Any = model) -> Any:
            with torch.inference_mode():
                return model(**theirs(text, return_tensors="pt", truncation=True)).logits

        systems[f"transformers {dtype}"] = classify
    report: dict[str, Any] = {}
    for length in (512, 8192):
        texts = [documents.make(length) for _ in range(repeats)]
        seconds: dict[str, list[float]] = {name: [] for name in systems}
        for call in systems.values():
            call(texts[0])
        for text in texts:
            for name, call in systems.items():
                start = time.perf_counter()
                call(text)
                seconds[name].append(time.perf_counter() - start)
        report[str(length)] = {
            name: {
                "median_ms": round(1000 * statistics.median(each), 1),
                "p95_ms": round(1000 * float(np.quantile(each, 0.95)), 1),
            }
            for name, each in seconds.items()
        }
    return {**report, "repeats": repeats, "dtype_of_guard": Classifier.load(directory).model.dtype}


def main() -> None:
    """Train what is missing, measure, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--count", type=int, default=80, help="texts of a label and a length")
    parser.add_argument("--lengths", default="512,1024,2048,4096,8192")
    parser.add_argument("--windows", default="0,512,128", help="0: the whole text")
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    report = json.loads(given.out.read_text()) if given.out.is_file() else {}
    report["command"] = "python benchmarks/guard.py"
    if given.latency:
        report["latency"] = {**latency(given.work, given.repeats), "machine": machine()}
        finish(report, given.out)
        return
    given.work.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {}
    for change in given.set:
        strict.change(settings, change)
    report["machine"] = machine()
    for name in given.models.split(","):
        trained = train(name, given.work, settings)
        if name not in report:
            report[name] = {"training": trained, **short_texts(name, given.work)}
        if name != "answers":
            long_texts(name, given, report[name].setdefault("auc_by_window_and_length", {}))
        finish(report, given.out)


if __name__ == "__main__":
    main()
