"""What a fine-tuning run starts from: its texts, its labels, the model and the tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..core import hf_config, hub, spans, weights
from ..core.config import EncoderConfig
from ..core.measure import Metrics, measure
from ..data.labelled import Labelled
from ..errors import InputError, counted
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
        test = parts.test and in_bio(parts.test, scheme)
        parts = Parts(in_bio(parts.train, scheme), in_bio(parts.dev, scheme), test)
    limit = config.max_position_embeddings
    length = min(limit, recipe.max_length or limit)
    labels = _stored_labels(recipe, directory, parts.train) or label_names(parts.train)
    known = METRICS[parts.train.kind][: None if len(labels) == 2 else 3]
    if recipe.metric not in (None, *known):
        what = f"the metric {recipe.metric} is not measured for this task"
        raise InputError(what, how=f"use {', '.join(known)}")
    train, dev = (encode(part, labels, tokenizer, length) for part in (parts.train, parts.dev))
    return Plan(recipe, directory, config, tuple(labels), train, dev, parts)


def _head(kind: str) -> type[HeadModel]:
    return TokenClassifier if kind == "tags" else SequenceClassifier


def _stored_labels(recipe: FineTuning, directory: Path, train: Labelled) -> list[str]:
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
    cls, kind, directory = _head(plan.train.kind), plan.train.kind, plan.directory
    if kind != "number" and _stored_labels(plan.recipe, directory, plan.parts.train):
        model = cls.load(directory, dtype="float32")
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
