"""Inference with the engine: an implementation of `core.inference` without torch."""

import copy
import ctypes
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float32, Int, Int32

from ..core import hf_config, weights
from ..core import tokenizer as tokenizers
from ..core.arguments import check_path
from ..core.config import EncoderConfig
from ..core.inference import Output
from ..core.tokenizer import Tokenizer
from ..errors import DamagedError, InputError
from . import library, quantize
from .heads import HEADS, Head
from .library import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

POOL = "motherbird-engine"  # the names of its threads start with this
MIN_SHARED = 100_000_000  # multiplications of a batch above which threads share it
MIN_TOKENS, MAX_TOKENS = 256, 2048  # of a batch


class NativeModel:
    """A model on the compiled engine, as a `motherbird.core.inference.InferenceModel`.

    Args:
        directory: a Hugging Face directory of the ModernBERT family.
        dtype: "float32", "bfloat16" where the CPU has instructions for it, or "int8"; "auto" is
            bfloat16 or else float32.
        head: what "logits" are: a key of `heads.HEADS`, or None.
        split_special_tokens: of the tokenizer; see `Tokenizer`.

    Raises:
        InputError: the directory, the dtype or the head cannot be used.
        DamagedError: the weights are incomplete or of other shapes.
    """

    def __init__(
        self,
        directory: Path,
        dtype: str = "auto",
        head: str | None = None,
        split_special_tokens: bool = False,
    ) -> None:
        self.directory = directory = check_path(directory, "the directory")
        self._variant = library.variant()
        self.dtype = library.resolve_dtype(dtype)
        raw = weights.read_config(directory)
        self.config: EncoderConfig = hf_config.read(raw, str(directory / "config.json"))
        self.tokenizer: Tokenizer | None = None
        if (directory / "tokenizer.json").is_file():
            self.tokenizer = tokenizers.load(directory, split_special_tokens)
        tensors = weights.published_names(weights.read_tensors(directory))
        self._weights = _Weights(tensors, str(directory))
        self._handle = self._create(*self._precisions())
        self.head: Head | None = None
        if head is not None:
            self.head = HEADS[head](self.config, self._weights.get, self.dtype)

    def _precisions(self) -> tuple[str, int]:
        """Return the precision of the first layers, and their number."""
        if self.dtype != "int8":
            return self.dtype, self.config.num_hidden_layers
        exact = library.resolve_dtype("auto")

        def build(layers: int) -> "NativeModel":
            model = copy.copy(self)
            model._handle = self._create(exact, layers)
            return model

        return exact, quantize.exact_layers(build(self.config.num_hidden_layers), build)

    def _create(self, exact: str, exact_layers: int) -> int:
        config, get = self.config, self._weights
        d, f = config.hidden_size, config.intermediate_size
        own = library.Config(d, f, config.num_hidden_layers, config.num_attention_heads,
                             library.ACTIVATIONS[config.hidden_activation], config.norm_eps,
                             get(weights.EMBEDDING, config.vocab_size, d),
                             *get.norm("model.embeddings.norm", config),
                             *get.norm("model.final_norm", config))  # fmt: skip
        handle: int = self._variant.create(ctypes.byref(own))
        if not handle:
            raise MemoryError
        for number, kind in enumerate(config.layers):
            at, is_global = f"model.layers.{number}", kind == "full_attention"
            precision = library.PRECISIONS.index(exact if number < exact_layers else "int8")
            layer = library.Layer(
                *(get.norm(f"{at}.attn_norm", config) if number else (Tensor(), Tensor())),
                *get.linear(f"{at}.attn.Wqkv", 3 * d, d, config.attention_bias),
                *get.linear(f"{at}.attn.Wo", d, d, config.attention_bias),
                *get.norm(f"{at}.mlp_norm", config),
                *get.linear(f"{at}.mlp.Wi", 2 * f, d, config.mlp_bias),
                *get.linear(f"{at}.mlp.Wo", d, f, config.mlp_bias),
                (ctypes.c_int64 * 4)(*[precision] * 4),
                f,
                -1 if is_global else config.half_window,
                config.global_rope_theta if is_global else config.local_rope_theta,
            )
            if self._variant.add_layer(handle, ctypes.byref(layer)):
                self._variant.destroy(handle)
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
        if output != "logits":
            return self._states(ids, cu_seqlens, output)
        if self.head is None:
            raise InputError("the model was loaded without a head", str(self.directory))
        rows = self._states(ids, cu_seqlens, self.head.rows)
        return self.head(rows if positions is None else rows[positions])

    def _states(
        self,
        ids: Int32[np.ndarray, " T"],
        cu_seqlens: Int32[np.ndarray, " S_plus_1"],
        output: Output,
    ) -> Float32[np.ndarray, "rows D"]:
        """Compute token vectors or pooled vectors."""
        lengths, limit = np.diff(cu_seqlens), self.config.max_position_embeddings
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            raise InputError(f"a token id is outside the vocabulary of {self.config.vocab_size}")
        if lengths.max() > limit:
            raise InputError(
                f"a document has {lengths.max()} tokens, more than the model's {limit}"
            )
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
        """Return how many threads share a batch: one if `map` computes several at once."""
        if threading.current_thread().name.startswith(POOL):
            return 1
        d, f = self.config.hidden_size, self.config.intermediate_size
        work = tokens * self.config.num_hidden_layers * (4 * d * d + 3 * d * f)
        return _threads() if work > MIN_SHARED else 1

    def is_per_document(self, output: Output) -> bool:
        """Return whether an output has a row for each document, or for each token."""
        if output == "logits" and self.head is not None:
            output = self.head.rows
        return output != "tokens"

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


class _Weights:
    """The tensors of a checkpoint, which stay mapped, as arguments of the engine."""

    def __init__(self, tensors: dict[str, weights.Stored], where: str) -> None:
        self.tensors, self.where = tensors, where

    def get(self, name: str, *shape: int) -> weights.Stored:
        """Return a tensor, of a shape if one is given; DamagedError if there is no such tensor."""
        if name not in self.tensors:
            raise DamagedError(f"the checkpoint lacks tensor {name}", self.where)
        stored = self.tensors[name]
        if shape and stored.raw.shape != shape:
            raise DamagedError(f"{name} is {stored.raw.shape}, not {shape}", self.where)
        if stored.dtype == "float64":
            stored = self.tensors[name] = weights.Stored("float32", stored.float32())
        return stored

    def __call__(self, name: str, *shape: int) -> Tensor:
        return Tensor.of(self.get(name, *shape))

    def linear(self, name: str, rows: int, columns: int, bias: bool) -> list[Tensor]:
        return [self(f"{name}.weight", rows, columns),
                self(f"{name}.bias", rows) if bias else Tensor()]  # fmt: skip

    def norm(self, name: str, config: EncoderConfig) -> list[Tensor]:
        size = config.hidden_size
        return [self(f"{name}.weight", size),
                self(f"{name}.bias", size) if config.norm_bias else Tensor()]  # fmt: skip


def _threads() -> int:
    has = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if has else os.cpu_count() or 1


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_threads(), thread_name_prefix=POOL)
