"""What Classifier, Tagger and Scorer share: a head whose logits have names."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from ..arrays import Float32
from ..core import hf_config, weights
from ..core.arguments import Documents, check_ids, check_list, check_type
from ..core.hf_config import HeadConfig
from ..core.inference import InferenceModel
from ..core.measure import Metrics, measure, sigmoid
from ..engine.model import NativeModel
from ..errors import HeadError, InputError, counted, require_extra
from . import backend
from .text_model import TextModel, softmax

if TYPE_CHECKING:
    from ..nn.model import Model

L = TypeVar("L", bound="LabelModel")

# What a directory is loaded with, by the end of its architecture.
_CLASSES = {
    "ForSequenceClassification": "Classifier or Scorer",
    "ForTokenClassification": "Tagger",
    "ForMaskedLM": "MaskedLM",
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction of a classifier for a text.

    Attributes:
        label: the most probable label.
        probability: its probability.
        labels: the predicted labels, the most probable first: the same label alone, or for a model
            of any number of labels all that reach their threshold.
    """

    label: str
    probability: float
    labels: tuple[str, ...]


class LabelModel(TextModel):
    """Base class of the models whose logits have labels.

    Args:
        model: a torch model with the head, or any `InferenceModel`.
        head_config: what its logits mean; None takes the labels of the model, one of which is
            right.
        max_length: maximum number of tokens per text; None is the encoder's limit.

    Raises:
        InputError: the model does not have the head, or the labels are not known.
    """

    architecture: ClassVar[str]  # the end of the name of the class in transformers
    task: ClassVar[str]  # of `train.tuning.FineTuning`
    purpose: ClassVar[str]  # what the class does, for errors

    def __init__(
        self,
        model: "Model | InferenceModel",
        head_config: HeadConfig | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__(model, max_length)
        if head_config is None:
            head_config = self._default_head()
        self.head_config = check_type(head_config, "head_config", HeadConfig)

    @classmethod
    def fit(
        cls: type[L],
        texts: Iterable[Any],
        labels: Iterable[Any],
        out: str | Path,
        *,
        dev: tuple[Iterable[Any], Iterable[Any]] | None = None,
        device: str | None = None,
        **settings: Any,
    ) -> L:
        """Fine-tune a model on labelled texts, write it, and load it; needs the extra "train".

        A call that was stopped or killed is resumed by the same call; if it was finished, the model
        is only loaded.

        Args:
            texts: what the class takes: texts, pairs of texts (Scorer), or lists of words (Tagger).
            labels: for each a label or a list of labels (Classifier), a list of tags (Tagger), or a
                label or a number (Scorer). Integers are labels; numbers are floats.
            out: directory of the model, new or that of the same call.
            dev: texts and labels by which the best epoch is chosen; None sets a tenth aside.
            device: a torch device; None is the CPU.
            settings: of `motherbird.train.tuning.FineTuning`, such as ``model`` and ``epochs``.

        Raises:
            InputError: texts, labels or settings cannot be used.
            DivergedError: the loss is not finite.
            StoppedError: a signal stopped it; its state is saved.
        """
        require_extra("torch", "train")
        from ..train.fit import fit

        fit(cls.task, (texts, labels), dev, Path(out), device, settings)
        return cls.load(out, device=device)

    @classmethod
    def _load(cls: type[L], directory: Path, **options: Any) -> L:
        raw = weights.read_config(directory)
        architecture = hf_config.architecture(raw)
        for end, wanted in _CLASSES.items():
            if architecture.endswith(end) and end != cls.architecture:
                what = f"this model cannot {cls.purpose} ({architecture})"
                raise HeadError(what, str(directory), f"load it with {wanted}")
        head_config = cls._read_head(directory, raw)
        try:
            assert cls.head is not None
            return cls(backend.load(directory, cls.head, **options), head_config)
        except HeadError as error:
            how = "fine-tune it first, or use another model"
            raise HeadError(f"this model cannot {cls.purpose}", error.where, how) from error

    @classmethod
    def _read_head(cls, directory: Path, raw: dict[str, Any]) -> HeadConfig:
        return hf_config.read_head(raw, str(directory / "config.json"))

    def _default_head(self) -> HeadConfig:
        if isinstance(self.model, NativeModel):
            if self.model.directory is None:
                raise InputError("the labels are not known", how="pass head_config")
            directory = self.model.directory
            return self._read_head(directory, weights.read_config(directory))
        labels = self.module.labels
        if self.logits_of == "tokens":
            return HeadConfig(labels, "tags")
        return HeadConfig(labels, "number" if len(labels) == 1 else "single")

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the C labels, in the order of the logits."""
        return self.head_config.labels

    def _write_more(self, directory: Path) -> None:
        read = hf_config.read_head(weights.read_config(directory), str(directory / "config.json"))
        if read != self.head_config:
            hf_config.write_head(directory, self.head_config)

    def _logits(
        self, ids: Documents, batch_tokens: int | None
    ) -> Iterator[tuple[int, Float32[np.ndarray, "*rows C"]]]:
        """Yield the index of each document and its logits, which are divided by the temperature."""
        temperature = np.float32(self.head_config.temperature)
        for documents, rows in self.batches(ids, "logits", batch_tokens=batch_tokens):
            yield from zip(documents, (row / temperature for row in rows), strict=True)


class DocumentModel(LabelModel):
    """Base class of the models with logits for each document: a text, or a pair of texts."""

    head, logits_of = "SequenceClassifier", "documents"
    architecture = "ForSequenceClassification"

    def probabilities_of_ids(
        self, ids: Documents, *, batch_tokens: int | None = None
    ) -> Float32[np.ndarray, "S C"]:
        """Compute the probability of each label for each list of token ids.

        Raises:
            InputError: the model computes a number, or see `Embedder.embed_ids`.
        """
        if self.head_config.kind == "number":
            raise InputError("this model computes a number, not probabilities", how="use score")
        logits = self._all_logits(ids, batch_tokens)
        return sigmoid(logits) if self.head_config.kind == "multi" else softmax(logits)

    def _all_logits(self, ids: Documents, batch_tokens: int | None) -> Float32[np.ndarray, "S C"]:
        arrays = check_ids(ids)
        logits = np.empty((len(arrays), len(self.labels)), np.float32)
        for document, row in self._logits(arrays, batch_tokens):
            logits[document] = row
        return logits

    def evaluate_ids(
        self, ids: Documents, labels: list[Any], batch_tokens: int | None = None
    ) -> Metrics:
        """Return the metrics on lists of token ids, see `evaluate`.

        Raises:
            InputError: there is not one label for each document; see `Embedder.embed_ids`.
        """
        logits = self._all_logits(ids, batch_tokens)
        check_count(labels, len(logits))
        kind = self.head_config.kind
        if kind == "number" and self.head_config.activation == "sigmoid":
            logits = sigmoid(logits)
        if kind != "number":
            labels = [_as_labels(label, kind == "multi", n) for n, label in enumerate(labels)]
        return measure(
            kind, labels, list(logits), self.labels, thresholds=self.head_config.thresholds
        )

    def predictions(self, probabilities: Float32[np.ndarray, "S C"]) -> list[Prediction]:
        """Return the prediction for each row of probabilities."""
        thresholds = [self.head_config.thresholds.get(label, 0.5) for label in self.labels]
        is_multi = self.head_config.kind == "multi"
        found = []
        for row in probabilities:
            order = np.argsort(-row, kind="stable").tolist()
            reached = [n for n in order if row[n] >= thresholds[n]] if is_multi else order[:1]
            labels = tuple(self.labels[number] for number in reached)
            found.append(Prediction(self.labels[order[0]], float(row[order[0]]), labels))
        return found


def _as_labels(label: Any, several: bool, number: int) -> Any:
    """Return a label as `fit` reads it, or a list of them."""
    if several:
        own = check_list(label, f"the labels of text {number}", "labels")
        return [_as_labels(each, False, number) for each in own]
    if isinstance(label, bool | np.bool_):
        return "true" if label else "false"
    if isinstance(label, int | np.integer):
        return str(label)
    if not isinstance(label, str):
        what = f"the label is of type {type(label).__name__}"
        raise InputError(what, f"text {number}", "pass a name or an integer")
    return label


def check_count(labels: list[Any], count: int) -> None:
    """Raise InputError if there is not one label, or list of tags, for each text."""
    if len(labels) != count:
        raise InputError(f"there are {counted(count, 'text')} and {counted(len(labels), 'label')}",
                         how="pass one for each text")  # fmt: skip
