"""The masked-LM head on the engine: from token vectors to logits."""

import ctypes

import numpy as np
from jaxtyping import Float32

from ..core.config import EncoderConfig
from ..core.weights import EMBEDDING, Stored
from . import library


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


class MaskedLM:
    """Dense layer, activation, norm and decoder: logits over the vocabulary.

    Args:
        config: the encoder's configuration.
        tensors: the tensors of the checkpoint; without ``decoder.weight`` it is the embedding's.
        dtype: that of the model; 8 bits are used in the encoder only.
    """

    def __init__(self, config: EncoderConfig, tensors: dict[str, Stored], dtype: str) -> None:
        dtype = library.resolve_dtype("auto") if dtype == "int8" else dtype
        dense, bias = tensors["head.dense.weight"], tensors.get("head.dense.bias")
        self._dense = Linear(dense, bias, dtype, config.classifier_activation)
        self._norm = tensors["head.norm.weight"].float32()
        bias = tensors.get("head.norm.bias")
        self._norm_bias = np.float32(0) if bias is None else bias.float32()
        self._epsilon = np.float32(config.norm_eps)
        weight = tensors.get("decoder.weight", tensors[EMBEDDING])
        self._decoder = Linear(weight, tensors.get("decoder.bias"), dtype)

    def __call__(self, x: Float32[np.ndarray, "M D"]) -> Float32[np.ndarray, "M V"]:
        """Return the logits of each row."""
        x = self._dense(x)
        x = x - x.mean(axis=1, keepdims=True)
        x /= np.sqrt(np.square(x).mean(axis=1, keepdims=True) + self._epsilon)
        return self._decoder(x * self._norm + self._norm_bias)
