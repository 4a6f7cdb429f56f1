"""Inference with the engine: an implementation of `core.inference` without torch."""

import ctypes
import os
import threading
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

POOL = "motherbird-engine"  # the names of its threads start with this
MIN_SHARED = 100_000_000  # multiplications of a batch above which threads share it
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
        known = [p for p in library.PRECISIONS if p != "bfloat16" or self._variant.has_bf16]
        if dtype not in known:
            raise InputError(
                f"dtype {dtype!r} cannot run on this CPU", how=f"use {', '.join(known)}"
            )
        raw = weights.read_config(directory)
        self.config: EncoderConfig = hf_config.read(raw, str(directory / "config.json"))
        if self.config.hidden_activation != "gelu":
            raise InputError("the engine computes GELU only", str(directory / "config.json"))
        self.dtype = dtype
        self.tokenizer: Tokenizer | None = None
        if (directory / "tokenizer.json").is_file():
            self.tokenizer = tokenizers.load(directory, split_special_tokens)
        self._tensors = weights.published_names(weights.read_tensors(directory))
        self._weights = config_weights(self.config)
        self._handle = self._create()

    def _tensor(self, name: str, *shape: int) -> library.Tensor:
        if name not in self._tensors:
            raise DamagedError(f"the checkpoint lacks tensor {name}")
        stored = self._tensors[name]
        if stored.raw.shape != shape:
            raise DamagedError(f"{name} is {stored.raw.shape}, not {shape}")
        if stored.dtype == "float64":
            stored = self._tensors[name] = weights.Stored("float32", stored.float32())
        return library.Tensor.of(stored)

    def _create(self) -> int:
        config = self.config
        d, f = config.hidden_size, config.intermediate_size
        none = library.Tensor()

        def norm(name: str) -> list[library.Tensor]:
            bias = self._tensor(f"{name}.bias", d) if config.norm_bias else none
            return [self._tensor(f"{name}.weight", d), bias]

        own = library.Config(d, f, config.num_hidden_layers, config.num_attention_heads,
                             config.norm_eps,
                             self._tensor(weights.EMBEDDING, config.vocab_size, d),
                             *norm("model.embeddings.norm"), *norm("model.final_norm"))  # fmt: skip
        handle: int = self._variant.create(ctypes.byref(own))
        if not handle:
            raise MemoryError
        precision = [library.PRECISIONS.index(self.dtype)] * 4
        for number, kind in enumerate(config.layers):
            at, is_global = f"model.layers.{number}", kind == "full_attention"

            def linear(
                name: str, rows: int, columns: int, biased: bool, at: str = at
            ) -> list[library.Tensor]:
                bias = self._tensor(f"{at}.{name}.bias", rows) if biased else none
                return [self._tensor(f"{at}.{name}.weight", rows, columns), bias]

            layer = library.Layer(
                *(norm(f"{at}.attn_norm") if number else (none, none)),
                *linear("attn.Wqkv", 3 * d, d, config.attention_bias),
                *linear("attn.Wo", d, d, config.attention_bias),
                *norm(f"{at}.mlp_norm"),
                *linear("mlp.Wi", 2 * f, d, config.mlp_bias),
                *linear("mlp.Wo", d, f, config.mlp_bias),
                (ctypes.c_int64 * 4)(*precision),
                f,
                -1 if is_global else config.half_window,
                config.global_rope_theta if is_global else config.local_rope_theta,
            )
            if self._variant.add_layer(handle, ctypes.byref(layer)):
                self._variant.destroy(handle)
                raise MemoryError
        # The embedding is read from the file, which stays mapped.
        self._tensors = {weights.EMBEDDING: self._tensors[weights.EMBEDDING]}
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
        if output not in library.OUTPUTS:
            raise InputError("the engine has no head yet")
        ids = np.ascontiguousarray(ids, np.int32)
        starts = np.ascontiguousarray(cu_seqlens, np.int32)
        rows = len(ids) if output == "tokens" else len(lengths)
        result = np.empty((rows, self.config.hidden_size), np.float32)
        threads = self._threads_for(len(ids))
        batch = self._variant.begin(
            self._handle, ids.ctypes.data, starts.ctypes.data, len(lengths), threads
        )
        if not batch:
            raise MemoryError
        helpers = [_pool().submit(self._variant.work, batch) for _ in range(threads - 1)]
        self._variant.work(batch)
        for helper in helpers:
            if not helper.cancel():
                helper.result()
        self._variant.finish(batch, library.OUTPUTS.index(output), result.ctypes.data)
        return result

    def _threads_for(self, tokens: int) -> int:
        """Return how many threads compute a batch: those of `map` compute one batch each."""
        if threading.current_thread().name.startswith(POOL):
            return 1
        return _threads() if tokens * self._weights > MIN_SHARED else 1

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


def config_weights(config: EncoderConfig) -> int:
    """Return how many multiplications a token needs, without attention."""
    d, f = config.hidden_size, config.intermediate_size
    return config.num_hidden_layers * (4 * d * d + 3 * d * f)


def _threads() -> int:
    has = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has else os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), thread_name_prefix=POOL)
