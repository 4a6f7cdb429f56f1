"""Classifier: texts to labels."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Float32
from ..core.hf_config import HeadConfig
from ..core.inference import InferenceModel
from ..core.measure import Metrics
from ..errors import InputError
from .label_model import DocumentModel, Prediction

if TYPE_CHECKING:
    from ..nn.model import Model


class Classifier(DocumentModel):
    """A model with a sequence-classification head, which predicts the labels of texts.

    It has one label for each text (softmax), or any number of labels (sigmoid, and a threshold for
    each label), as the problem_type of config.json says. Arguments are those of `LabelModel`.
    """

    task = "classify"
    purpose = "classify texts"

    def __init__(
        self,
        model: "Model | InferenceModel",
        head_config: HeadConfig | None = None,
        max_length: int | None = None,
    ) -> None:
        super().__init__(model, head_config, max_length)
        if self.head_config.kind == "number":
            what = "this model computes a number for each text, not labels"
            raise InputError(what, how="use Scorer, or a model with labels")

    def predict(
        self,
        texts: Iterable[str],
        *,
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int | None = None,
    ) -> list[Prediction]:
        """Predict the label, or the labels, of each text.

        Arguments and errors are those of `probabilities`.
        """
        return self.predictions(self.probabilities(
            texts, max_length=max_length, truncate=truncate, batch_tokens=batch_tokens
        ))  # fmt: skip

    def evaluate(
        self,
        texts: Iterable[str],
        labels: Iterable[Any],
        *,
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int | None = None,
    ) -> Metrics:
        """Return the metrics of the model on labelled texts, see `core.measure.measure`.

        ``labels`` has a label for each text, or a list of labels for a model of any number of them.
        Other arguments and errors are those of `probabilities`.
        """
        ids, _ = self.tokenize(texts, max_length=max_length, truncate=truncate)
        return self.evaluate_ids(ids, list(labels), batch_tokens)

    def probabilities(
        self,
        texts: Iterable[str],
        *,
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int | None = None,
    ) -> Float32[np.ndarray, "S C"]:
        """Compute the probability of each label for each text.

        Args:
            texts: S texts, none of them empty.
            max_length: maximum number of tokens per text, special tokens included.
            truncate: truncate longer texts, and log how many; otherwise they are an error.
            batch_tokens: tokens per batch; None chooses by the device.

        Returns:
            An array (S, C), whose columns are in the order of `labels`. Rows add up to 1 unless the
            model predicts any number of labels.

        Raises:
            InputError: a text is not a string, empty or too long, or an argument is invalid.
        """
        ids, _ = self.tokenize(texts, max_length=max_length, truncate=truncate)
        return self.probabilities_of_ids(ids, batch_tokens=batch_tokens)
