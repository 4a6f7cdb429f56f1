"""The heads of the family on the engine: from token vectors or pooled vectors to logits."""

import ctypes
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float32

from ..core.config import EncoderConfig
from ..core.weights import EMBEDDING, Stored
from . import library

Get = Callable[..., Stored]  # (name, *shape): a tensor of the checkpoint


class Linear:
    """A linear layer (n, k), with a bias or not, and an activation or not."""

    def __init__(
        self, weight: Stored, bias: Stored | None, dtype: str, activation: str | None = None
    ) -> None:
        self._variant = library.variant()
        self.size, k = weight.raw.shape
        self._activation = library.ACTIVATIONS[activation]
        own = library.Tensor() if bias is None else library.Tensor.of(bias)
        precision = library.PRECISIONS.index(dtype)
        self._handle = self._variant.linear(
            ctypes.byref(library.Tensor.of(weight)), ctypes.byref(own), self.size, k, precision
        )
        if not self._handle:
            raise MemoryError

    def __call__(self, x: Float32[np.ndarray, "M k"]) -> Float32[np.ndarray, "M n"]:
        """Apply the layer to each row."""
        x = np.ascontiguousarray(x, np.float32)
        y = np.empty((len(x), self.size), np.float32)
        if self._variant.apply(
            self._handle, x.ctypes.data, len(x), self._activation, y.ctypes.data
        ):
            raise MemoryError
        return y

    def __del__(self) -> None:
        if handle := self.__dict__.pop("_handle", None):
            self._variant.free_linear(handle)


class Head:
    """Dense layer, activation, norm and an output layer.

    Args:
        config: the encoder's configuration.
        get: returns a tensor of the checkpoint.
        dtype: that of the model; 8 bits are used in the encoder only.

    Attributes:
        rows: the vectors it takes: "tokens", "mean" or "cls".
    """

    rows: Literal["tokens", "mean", "cls"] = "tokens"

    def __init__(self, config: EncoderConfig, get: Get, dtype: str) -> None:
        d = config.hidden_size
        dtype = library.resolve_dtype("auto") if dtype == "int8" else dtype
        bias = get("head.dense.bias", d) if config.classifier_bias else None
        self._dense = Linear(
            get("head.dense.weight", d, d), bias, dtype, config.classifier_activation
        )
        self._norm = get("head.norm.weight", d).float32()
        self._norm_bias = get("head.norm.bias", d).float32() if config.norm_bias else np.float32(0)
        self._epsilon = np.float32(config.norm_eps)
        self._output = self.output(config, get, dtype)

    def output(self, config: EncoderConfig, get: Get, dtype: str) -> Linear:
        """Return the last layer."""
        raise NotImplementedError

    def __call__(self, x: Float32[np.ndarray, "M D"]) -> Float32[np.ndarray, "M C"]:
        """Return the logits of each row."""
        x = self._dense(x)
        x = x - x.mean(axis=1, keepdims=True)
        x /= np.sqrt(np.square(x).mean(axis=1, keepdims=True) + self._epsilon)
        return self._output(x * self._norm + self._norm_bias)


class MaskedLM(Head):
    """Logits over the vocabulary."""

    def output(self, config: EncoderConfig, get: Get, dtype: str) -> Linear:
        """Return the decoder, which may be tied to the embedding."""
        v, d = config.vocab_size, config.hidden_size
        name = EMBEDDING if config.tie_word_embeddings else "decoder.weight"
        bias = get("decoder.bias", v) if config.decoder_bias else None
        return Linear(get(name, v, d), bias, dtype)


class TokenClassifier(Head):
    """Logits of C labels for each token."""

    def output(self, config: EncoderConfig, get: Get, dtype: str) -> Linear:
        """Return the classifier, in float32."""
        bias = get("classifier.bias")
        return Linear(get("classifier.weight", len(bias.raw), config.hidden_size), bias, "float32")


class SequenceClassifier(TokenClassifier):
    """Logits of C labels for each document."""

    def __init__(self, config: EncoderConfig, get: Get, dtype: str) -> None:
        self.rows = config.classifier_pooling
        super().__init__(config, get, dtype)


HEADS: dict[str, type[Head]] = {
    "ModernBertForMaskedLM": MaskedLM,
    "ModernBertForTokenClassification": TokenClassifier,
    "ModernBertForSequenceClassification": SequenceClassifier,
}
