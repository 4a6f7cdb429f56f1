"""Labelled texts that a tiny model learns in seconds, one set for each type of labels."""

import json
from dataclasses import replace

import numpy as np
import torch

from motherbird.core.hf_config import read_head, write_head
from motherbird.data.labelled import Labelled
from motherbird.nn import SequenceClassifier, TokenClassifier, checkpoint
from motherbird.train.tuning_plan import Parts

WORDS = "the a file path opens reads writes line of with for in text code bytes".split()
TASKS = {"single": "classify", "multi": "classify", "number": "score", "tags": "tag"}


def texts(count: int, seed: int) -> list[list[str]]:
    """Lists of words, of which some are "good" or "bad"."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        words = draw.choice(WORDS, size=draw.integers(3, 12)).tolist()
        words.insert(int(draw.integers(len(words))), str(draw.choice(["good", "bad"])))
        found.append(words)
    return found


def labelled(kind: str, count: int, seed: int) -> Labelled:
    """What is easy to learn of `texts`; "pairs" are pairs of texts with one label."""
    words = texts(count, seed)
    plain = [" ".join(each) for each in words]
    is_good = ["good" in each for each in words]
    where = [f"row {number}" for number in range(count)]
    if kind == "single":
        return Labelled(plain, ["good" if each else "bad" for each in is_good], where, kind)
    if kind == "multi":
        labels = [
            ["good"] * good + ["file"] * ("file" in w)
            for good, w in zip(is_good, words, strict=True)
        ]
        return Labelled(plain, labels, where, kind)
    if kind in ("number", "pairs"):
        pairs = [(text, "good") for text in plain]
        if kind == "pairs":
            return Labelled(pairs, ["same" if g else "other" for g in is_good], where, "single")
        return Labelled(pairs, [float(each) for each in is_good], where, kind)
    tags = [["B-J" if w in ("good", "bad") else "O" for w in each] for each in words]
    return Labelled(words, tags, where, kind)


def parts(kind: str, dev: int = 40) -> Parts:
    return Parts(labelled(kind, 96, 1), labelled(kind, dev, 2), labelled(kind, 40, 3))


def reverse_labels(directory, out):
    """Write the same model with the opposite order of its labels, in id2label too."""
    raw = json.loads((directory / "config.json").read_text())
    head = read_head(raw, "config.json")
    cls = TokenClassifier if head.kind == "tags" else SequenceClassifier
    model = cls.load(directory, dtype="float32")
    turned = cls(model.model, head.labels[::-1])
    turned.head.load_state_dict(model.head.state_dict())
    with torch.no_grad():
        turned.classifier.weight.copy_(model.classifier.weight.flip(0))
        turned.classifier.bias.copy_(model.classifier.bias.flip(0))
    tuned = replace(head, labels=head.labels[::-1])
    checkpoint.save(turned, out, write_more=lambda fresh: write_head(fresh, tuned))
    return head.labels
