"""What sequence and token classifiers share."""

from collections.abc import Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from ...arrays import Float
from ...core.arguments import check_labels
from ...core.config import EncoderConfig
from ...core.hf_config import read_labels
from ..dropout import dropout
from ..encoder import Encoder
from .base import Example, HeadModel

C = TypeVar("C", bound="Classifier[Any]")


class Classifier(HeadModel[Example]):
    """An encoder with a head and C logits.

    Args:
        encoder, attention: see `HeadModel`.
        labels: the C names, all different, in the order of the logits.

    Raises:
        InputError: the labels are not names, there is none, or one occurs twice.
    """

    def __init__(
        self,
        encoder: Encoder | EncoderConfig,
        labels: Sequence[str],
        attention: str = "auto",
    ) -> None:
        super().__init__(encoder, attention)
        self._labels = check_labels(labels)
        self.classifier = nn.Linear(self.model.config.hidden_size, self.size)
        self._init_weights()

    @classmethod
    def from_config(cls: type[C], config: EncoderConfig, raw: dict[str, Any], attention: str) -> C:
        """Build a classifier with the labels of config.json, without weights."""
        return cls(config, read_labels(raw), attention)

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, in the order of the logits."""
        return self._labels

    @property
    def size(self) -> int:
        """C, the number of labels."""
        return len(self._labels)

    def classify(self, x: Float[Tensor, "rows D"]) -> Float[Tensor, "rows C"]:
        """Apply head, dropout and classifier to each row."""
        x = dropout(self.head(x), self.model.config.classifier_dropout, self.training)
        return self.classifier(x)
