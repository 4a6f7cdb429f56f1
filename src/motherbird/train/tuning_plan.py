"""What a fine-tuning run starts from: its texts, its labels, the model and the tokenizer."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import strict
from ..core import hf_config, hub, spans, weights
from ..core.arguments import check_integer
from ..core.config import EncoderConfig
from ..core.measure import Metrics, measure
from ..data.labelled import Labelled
from ..errors import InputError, counted
from ..files import sha256
from ..nn.encoder import Encoder
from ..nn.heads import SequenceClassifier, TokenClassifier
from .encode import encode, in_bio, label_names
from .examples import Examples, steps_per_epoch
from .tuning import METRICS, FineTuning

HeadModel = SequenceClassifier | TokenClassifier


@dataclass(frozen=True, eq=False)
class Parts:
    """The labelled texts of a run."""

    train: Labelled
    dev: Labelled  # by which the best epoch is chosen
    test: Labelled | None = None  # evaluated at the end


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run trains on and with, before the first step."""

    recipe: FineTuning
    directory: Path  # of the model that it starts from
    config: EncoderConfig
    labels: tuple[str, ...]
    train: Examples
    dev: Examples
    parts: Parts
    test: Examples | None = None

    def key(self) -> dict[str, Any]:
        """Return what the result depends on, besides the machine: two runs of one key are equal."""
        files = [self.directory / "config.json", *weights.weight_files(self.directory)]
        test = self.parts.test
        text = "" if test is None else json.dumps([test.texts, test.labels])
        settings = strict.plain(self.recipe)
        for name in ("timeout", "save_every"):
            settings.pop(name)
        return {
            "recipe": settings, "labels": list(self.labels),
            "base": [sha256(file) for file in files],
            "data": [self.train.digest(), self.dev.digest(), _sha256_of(text)],
        }  # fmt: skip

    @property
    def epochs(self) -> int:
        """The largest number of epochs."""
        return self.recipe.epochs_for(len(self.train))

    def measure(
        self, data: Labelled, examples: Examples, logits: Sequence[NDArray[np.float32]]
    ) -> Metrics:
        """Return the metrics of a part."""
        return measure(examples.kind, data.labels, logits, self.labels, examples.firsts)

    def lines(self) -> list[str]:
        """Return what will be done as lines of text."""
        lengths, recipe = self.train.lengths, self.recipe
        steps = steps_per_epoch(len(lengths), recipe.batch_size)
        cut = f"; {self.train.truncated:,} truncated" if self.train.truncated else ""
        return [
            f"tokens of a text: {np.mean(lengths):.0f} on average, {max(lengths):,} at most{cut}",
            "the classifier is trained further"
            if _stored_labels(self.directory, self.parts.train)
            else "the classifier is new",
            f"at most {counted(self.epochs, 'epoch')} of {counted(steps, 'step')}, learning rate "
            f"{recipe.peak(self.config):.2g}; the best epoch by {self.metric} on dev is kept",
        ]

    @property
    def metric(self) -> str:
        """The metric by which the best epoch is chosen."""
        return self.recipe.metric or METRICS[self.train.kind][0]


def plan(recipe: FineTuning, parts: Parts) -> Plan:
    """Read the model's configuration and tokenizer, and tokenize the texts.

    Raises:
        InputError: the model cannot be used, or has no tokenizer.
        DamagedError: its files are damaged.
    """
    directory = hub.find(recipe.model)
    config = weights.encoder_config(directory)
    tokenizer = weights.load_tokenizer(directory, config, True)
    if tokenizer is None:
        how = "put tokenizer.json into its directory"
        raise InputError("the model has no tokenizer", str(directory), how)
    config = replace(
        config, classifier_pooling=recipe.pooling or config.classifier_pooling,
        classifier_dropout=recipe.dropout,
    )  # fmt: skip
    if parts.train.kind == "tags":
        scheme = spans.scheme_of(parts.train.labels)
        tested = parts.test and in_bio(parts.test, scheme)
        parts = Parts(in_bio(parts.train, scheme), in_bio(parts.dev, scheme), tested)
    limit = config.max_position_embeddings
    length = check_integer(recipe.max_length or limit, "max_length", 8, limit)
    labels = _stored_labels(directory, parts.train) or label_names(parts.train)
    has_auc = parts.train.kind == "multi" or len(labels) == 2
    known = [name for name in METRICS[parts.train.kind] if name != "auc" or has_auc]
    if recipe.metric not in (None, *known):
        what = f"the metric {recipe.metric} is not measured for this task"
        raise InputError(what, how=f"use {', '.join(known)}")
    train, dev = (encode(part, labels, tokenizer, length) for part in (parts.train, parts.dev))
    test = encode(parts.test, labels, tokenizer, length) if parts.test is not None else None
    if recipe.class_weights and parts.train.kind not in ("single", "tags"):
        what = "class_weights is for labels of which one is right, and for tags"
        raise InputError(what, how="leave it out")
    return Plan(recipe, directory, config, tuple(labels), train, dev, parts, test)


def _sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _head(kind: str) -> type[HeadModel]:
    return TokenClassifier if kind == "tags" else SequenceClassifier


def _stored_labels(directory: Path, train: Labelled) -> list[str]:
    """Return the labels of a classifier that is trained further: it has the same ones."""
    raw = weights.read_config(directory)
    if _head(train.kind).architecture not in (raw.get("architectures") or ()):
        return []
    stored = hf_config.read_labels(raw)
    return list(stored) if set(stored) == set(label_names(train)) else []


def initial_model(plan: Plan) -> HeadModel:
    """Load the encoder in float32, with a new classifier or that of the same labels.

    As in transformers, the layers before the classifier are those of the checkpoint's head.
    """
    cls, directory = _head(plan.train.kind), plan.directory
    if _stored_labels(directory, plan.parts.train):
        model = cls.load(directory, dtype="float32", split_special_tokens=True)
        model.model.config = plan.config
        return model
    encoder = Encoder.load(directory, dtype="float32", split_special_tokens=True)
    encoder.config = plan.config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.recipe.seed)
        model = cls(encoder, plan.labels or ["score"])
    stored = weights.published_names(weights.read_tensors(directory))
    own = model.head.state_dict()
    found = {name: stored.get(f"head.{name}") for name in own}
    if all(t is not None and t.raw.shape == tuple(own[n].shape) for n, t in found.items()):
        model.head.load_state_dict(
            {n: torch.from_numpy(np.array(t.float32())) for n, t in found.items() if t}
        )
    return model
