"""The heads of the family on the engine: from token vectors or pooled vectors to logits."""

import ctypes
from typing import Literal

import numpy as np

from ..arrays import Float32, Int64
from ..core.config import EncoderConfig
from ..core.weights import EMBEDDING, Stored
from . import library

Tensors = dict[str, Stored]


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

    def largest(
        self, x: Float32[np.ndarray, "M k"], starts: Int64[np.ndarray, " S_plus_1"]
    ) -> Float32[np.ndarray, "S n"]:
        """Return the largest outputs over the rows of each document, without the activation.

        Args:
            x: rows of documents.
            starts: the first row of each document, and M; no document is empty.
        """
        x, starts = np.ascontiguousarray(x, np.float32), np.ascontiguousarray(starts, np.int64)
        y = np.empty((len(starts) - 1, self.size), np.float32)
        if self._variant.largest(
            self._handle, x.ctypes.data, starts.ctypes.data, len(y), y.ctypes.data
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
        tensors: the tensors of the checkpoint.
        dtype: that of the model; 8 bits are used in the encoder only.

    Attributes:
        rows: the vectors it takes: "tokens", "mean" or "cls".
    """

    rows: Literal["tokens", "mean", "cls"] = "tokens"

    def __init__(self, config: EncoderConfig, tensors: Tensors, dtype: str) -> None:
        dtype = library.resolve_dtype("auto") if dtype == "int8" else dtype
        dense, bias = tensors["head.dense.weight"], tensors.get("head.dense.bias")
        self._dense = Linear(dense, bias, dtype, config.classifier_activation)
        self._norm = tensors["head.norm.weight"].float32()
        bias = tensors.get("head.norm.bias")
        self._norm_bias = np.float32(0) if bias is None else bias.float32()
        self._epsilon = np.float32(config.norm_eps)
        self._output = self.output(tensors, dtype)

    def output(self, tensors: Tensors, dtype: str) -> Linear:
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

    def output(self, tensors: Tensors, dtype: str) -> Linear:
        """Return the decoder, which may be tied to the embedding."""
        weight = tensors.get("decoder.weight", tensors[EMBEDDING])
        return Linear(weight, tensors.get("decoder.bias"), dtype)


class TokenClassifier(Head):
    """Logits of C labels for each token."""

    def output(self, tensors: Tensors, dtype: str) -> Linear:
        """Return the classifier, in float32."""
        return Linear(tensors["classifier.weight"], tensors["classifier.bias"], "float32")


class SequenceClassifier(TokenClassifier):
    """Logits of C labels for each document."""

    def __init__(self, config: EncoderConfig, tensors: Tensors, dtype: str) -> None:
        self.rows = config.classifier_pooling
        super().__init__(config, tensors, dtype)


HEADS: dict[str, type[Head]] = {
    head.__name__: head for head in (MaskedLM, TokenClassifier, SequenceClassifier)
}
