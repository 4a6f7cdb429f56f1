"""What a fine-tuning run starts from: its texts, its labels, the model and the tokenizer."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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
from ..errors import InputError, counted, human, require_extra
from ..files import sha256
from ..nn.encoder import Encoder
from ..nn.heads import SequenceClassifier, TokenClassifier
from .encode import encode, in_bio, label_names
from .examples import Examples
from .rows import steps_per_epoch
from .tuning import METRICS, FineTuning

HeadModel = SequenceClassifier | TokenClassifier


@dataclass(frozen=True, eq=False)
class Parts:
    """The labelled texts of a run."""

    train: Labelled
    dev: Labelled  # by which the best epoch is chosen
    test: Labelled | None = None  # evaluated at the end
    # for the model card: where each part is from, and the command or the call that trains
    sources: Mapping[str, str] = field(default_factory=dict)
    command: str = ""


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
    memory: float | None = None  # bytes that a process needs, estimated

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

    @cached_property
    def tokens(self) -> NDArray[np.int32]:
        """The ids of all tokens that occur, ascending.

        The embeddings of the others have no gradient, and are left out of the training, with their
        gradients and optimizer state.
        """
        parts = [part for part in (self.train, self.dev, self.test) if part is not None]
        return np.unique(np.concatenate([part.tokens() for part in parts]))

    @property
    def epochs(self) -> int:
        """The largest number of epochs."""
        return self.recipe.epochs_for(len(self.train))

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps of an epoch; with few_shot, a step has pairs of texts."""
        texts = self.recipe.batch_size * (2 if self.recipe.few_shot else 1)
        return steps_per_epoch(len(self.train), texts)

    def measure(
        self,
        data: Labelled,
        examples: Examples,
        logits: Sequence[NDArray[np.float32]],
        thresholds: Mapping[str, float] | None = None,
    ) -> Metrics:
        """Return the metrics of a part."""
        kind, firsts = examples.kind, examples.firsts
        return measure(kind, data.labels, logits, self.labels, firsts, thresholds)

    def evaluated(self) -> dict[str, tuple[Labelled, Examples]]:
        """Return dev and test, if there is one, by their names."""
        found = {"dev": (self.parts.dev, self.dev)}
        if self.parts.test is not None and self.test is not None:
            found["test"] = self.parts.test, self.test
        return found

    def lines(self) -> list[str]:
        """Return what will be done as lines of text."""
        lengths = self.train.lengths
        cut = f"; {self.train.truncated:,} truncated" if self.train.truncated else ""
        return [
            f"tokens of a text: {np.mean(lengths):.0f} on average, {max(lengths):,} at most{cut}",
            "the classifier is trained further"
            if _stored_labels(self.directory, self.parts.train)
            else "the classifier is new",
            self._training(),
            *([] if self.memory is None else [f"memory: {self._memory()}"]),
        ]

    def _training(self) -> str:
        steps = f"{counted(self.epochs, 'epoch')} of {counted(self.steps_per_epoch, 'step')}"
        rate = f"learning rate {self.recipe.peak(self.config):.2g}"
        if self.recipe.few_shot:
            return f"few-shot: {steps}, {rate}; then a logistic regression"
        return f"at most {steps}, {rate}; the best epoch by {self.metric} on dev is kept"

    def _memory(self) -> str:
        recipe = self.recipe
        size = f"{recipe.micro_tokens:,} tokens"
        if recipe.few_shot:
            size = f"{2 * recipe.batch_size} texts"
        checkpointing = ", gradient checkpointing" if recipe.gradient_checkpointing else ""
        estimate = human(self.memory or 0, "B")
        return f"about {estimate}, micro-batches of at most {size}{checkpointing}"

    @property
    def metric(self) -> str:
        """The metric by which the best epoch is chosen."""
        return self.recipe.metric or METRICS[self.train.kind][0]


def plan(recipe: FineTuning, parts: Parts) -> Plan:
    """Read the model's configuration and tokenizer, and tokenize the texts.

    Raises:
        InputError: the model cannot be used, or has no tokenizer.
        DamagedError: its files are damaged.
        MissingExtraError: a package of the extra "train" is not installed.
    """
    for package in ("jinja2", "matplotlib"):  # which write the card and the report at the end
        require_extra(package, "train")
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
        train_in_bio, dev_in_bio = in_bio(parts.train, scheme), in_bio(parts.dev, scheme)
        parts = replace(parts, train=train_in_bio, dev=dev_in_bio, test=tested)
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
    if recipe.few_shot and parts.train.kind != "single":
        raise InputError("few_shot is for texts of which each has one label", how="leave it out")
    if recipe.few_shot and recipe.class_weights:
        raise InputError("few_shot has no class_weights", how="leave one of them out")
    if recipe.lora_rank:
        require_extra("peft", "lora")
    if recipe.class_weights and parts.train.kind not in ("single", "tags"):
        what = "class_weights is for labels of which one is right, and for tags"
        raise InputError(what, how="leave it out")
    if recipe.thresholds and parts.train.kind != "multi":
        what = "thresholds is for texts with any number of labels"
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
