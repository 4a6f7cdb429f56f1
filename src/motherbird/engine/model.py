"""Inference with the engine: an implementation of `core.inference` without torch."""

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32, Int, Int32
from numpy.typing import NDArray

from ..core import hf_config, hub, weights
from ..core import tokenizer as tokenizers
from ..core.config import EncoderConfig
from ..core.inference import Output
from ..core.tokenizer import Tokenizer
from ..errors import DamagedError, InputError
from . import library

Item = TypeVar("Item")
Result = TypeVar("Result")

PRECISIONS = ("float32", "bfloat16", "int8")
MIN_TOKENS, MAX_TOKENS = 256, 2048  # of a batch


class NativeModel:
    """An encoder on the compiled engine, as a `motherbird.core.inference.InferenceModel`.

    Args:
        directory: a Hugging Face directory of the ModernBERT family.
        dtype: "float32", "bfloat16" or "int8".
        split_special_tokens: of the tokenizer; see `Tokenizer`.

    Raises:
        InputError: the directory or the dtype cannot be used.
        DamagedError: the weights are incomplete or of other shapes.
    """

    def __init__(
        self, directory: Path, dtype: str = "float32", split_special_tokens: bool = False
    ) -> None:
        hub.check_path(directory)
        self._variant = library.variant()
        has = {"bfloat16": self._variant.has_bf16, "int8": self._variant.has_int8, "float32": True}
        if not has.get(dtype):
            known = ", ".join(name for name in PRECISIONS if has[name])
            raise InputError(f"dtype {dtype!r} cannot run on this CPU", how=f"use {known}")
        raw = weights.read_config(directory)
        self.config: EncoderConfig = hf_config.read(raw, str(directory / "config.json"))
        if self.config.hidden_activation != "gelu":
            raise InputError("the engine computes GELU only", str(directory / "config.json"))
        self.dtype = dtype
        self.tokenizer: Tokenizer | None = None
        if (directory / "tokenizer.json").is_file():
            self.tokenizer = tokenizers.load(directory, split_special_tokens)
        self._handle = self._create(weights.published_names(weights.read_tensors(directory)))

    def _create(self, tensors: dict[str, weights.Stored]) -> int:
        config = self.config
        kept: list[NDArray[np.float32]] = []  # until they are copied

        def get(name: str, *shape: int) -> Any:
            if name not in tensors:
                raise DamagedError(f"the checkpoint lacks tensor {name}")
            array = np.ascontiguousarray(tensors[name].float32())
            if array.shape != shape:
                raise DamagedError(f"{name} is {array.shape}, not {shape}")
            kept.append(array)
            return array.ctypes.data_as(library.Floats)

        d, f = config.hidden_size, config.intermediate_size
        bias = config.norm_bias

        def norm(name: str) -> list[Any]:
            return [get(f"{name}.weight", d), get(f"{name}.bias", d) if bias else None]

        precision = PRECISIONS.index(self.dtype)
        own = library.Config(d, f, config.num_hidden_layers, config.num_attention_heads,
                             config.vocab_size, precision, config.norm_eps)  # fmt: skip
        handle: int = self._variant.create(
            ctypes.byref(own), get(weights.EMBEDDING, config.vocab_size, d),
            *norm("model.embeddings.norm"), *norm("model.final_norm"),
        )  # fmt: skip
        if not handle:
            raise MemoryError
        for number, kind in enumerate(config.layers):
            kept.clear()
            at, is_global = f"model.layers.{number}", kind == "full_attention"

            def linear(name: str, rows: int, columns: int, biased: bool, at: str = at) -> list[Any]:
                return [get(f"{at}.{name}.weight", rows, columns),
                        get(f"{at}.{name}.bias", rows) if biased else None]  # fmt: skip

            layer = library.Layer(
                *(norm(f"{at}.attn_norm") if number else (None, None)),
                *linear("attn.Wqkv", 3 * d, d, config.attention_bias),
                *linear("attn.Wo", d, d, config.attention_bias),
                *norm(f"{at}.mlp_norm"),
                *linear("mlp.Wi", 2 * f, d, config.mlp_bias),
                *linear("mlp.Wo", d, f, config.mlp_bias),
                -1 if is_global else config.half_window,
                config.global_rope_theta if is_global else config.local_rope_theta,
            )
            if self._variant.add_layer(handle, ctypes.byref(layer)):
                raise MemoryError
        return handle

    def __del__(self) -> None:
        if handle := self.__dict__.pop("_handle", None):
            self._variant.destroy(handle)

    def run(
        self,
        ids: Int32[np.ndarray, " T"],
        cu_seqlens: Int32[np.ndarray, " S_plus_1"],
        output: Output,
        positions: Int[np.ndarray, " M"] | None = None,
    ) -> Float32[np.ndarray, "rows width"]:
        """Compute one packed batch; see `InferenceModel.run`."""
        limit = self.config.max_position_embeddings
        lengths = np.diff(cu_seqlens)
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise InputError(f"a token id is outside the vocabulary of {self.config.vocab_size}")
        if lengths.max() > limit:
            raise InputError(
                f"a document has {lengths.max()} tokens, more than the model's {limit}"
            )
        ids = np.ascontiguousarray(ids, np.int32)
        starts = np.ascontiguousarray(cu_seqlens, np.int32)
        x = np.empty((len(ids), self.config.hidden_size), np.float32)
        if self._variant.run(
            self._handle, ids.ctypes.data, starts.ctypes.data, len(lengths), x.ctypes.data
        ):
            raise MemoryError
        if output == "tokens":
            return x
        if output == "cls":
            return x[starts[:-1]]
        if output == "mean":
            return np.asarray(np.add.reduceat(x, starts[:-1]) / lengths[:, None], np.float32)
        raise InputError("the engine has no head yet")

    def is_per_document(self, output: Output) -> bool:
        """Return whether an output has a row for each document, or for each token."""
        return output in ("mean", "cls")

    def batch_budget(self, total: int) -> int:
        """Return how many tokens a batch should have."""
        return min(MAX_TOKENS, max(MIN_TOKENS, total // (2 * _threads())))

    def map(
        self, work: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[tuple[int, Result]]:
        """Run work on the cores of the CPU."""
        if len(items) < 2:
            yield from enumerate(map(work, items))
            return
        indices = {_pool().submit(work, item): index for index, item in enumerate(items)}
        try:
            for future in as_completed(list(indices)):
                yield indices.pop(future), future.result()
        finally:
            for future in indices:
                future.cancel()


def _threads() -> int:
    has = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has else os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), thread_name_prefix="motherbird")
