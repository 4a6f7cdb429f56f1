"""Inference with the engine: an implementation of `core.inference` without torch."""

import ctypes
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..arrays import Float32, Int, Int32
from ..core import hf_config, threads, weights
from ..core.arguments import check_path
from ..core.batching import check_batch
from ..core.config import EncoderConfig
from ..core.inference import Output, check_output, check_positions
from ..core.tokenizer import Tokenizer
from ..core.weights import Stored
from ..errors import InputError
from . import library, quantize
from .heads import HEADS
from .library import Tensor

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

POOL = "motherbird-engine"  # the names of its threads start with this
MIN_SHARED = 100_000_000  # multiplications of a batch above which threads share it
MIN_TOKENS, MAX_TOKENS = 256, 2048  # of a batch


class NativeModel:
    """A model on the compiled engine, as a `motherbird.core.inference.InferenceModel`.

    Args:
        config: the encoder's configuration.
        tensors: those of a checkpoint with their published names (`weights.shapes`). The embedding
            is read where it is; everything else is copied.
        dtype: "float32", "bfloat16" where the CPU has instructions for it, or "int8"; "auto" is
            bfloat16 or else float32.
        head: what "logits" are: a key of `heads.HEADS`, or None.
        tokenizer: that of the model, or None.

    Raises:
        InputError: this CPU cannot compute in the dtype.
    """

    directory: Path | None = None  # where it was loaded from
    files: dict[Path, weights.State]  # those that were read
    _loaded: tuple[Any, ...] = ()  # the arguments of `load`

    def __init__(
        self,
        config: EncoderConfig,
        tensors: dict[str, Stored],
        dtype: str = "auto",
        head: str | None = None,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self._variant = library.variant()
        self.config, self.tokenizer = config, tokenizer
        self.dtype = library.resolve_dtype(dtype)
        self._tensors = {
            name: Stored("float32", stored.float32()) if stored.dtype == "float64" else stored
            for name, stored in tensors.items()
        }
        self._handle = self._create(self.dtype) if self.dtype != "int8" else self._quantize()
        self.head = HEADS[head](config, self._tensors, self.dtype) if head else None
        self._tensors = {weights.EMBEDDING: self._tensors[weights.EMBEDDING]}
        log.info("engine %s in %s", self._variant.name.decode(), self.dtype)

    @classmethod
    def load(
        cls,
        directory: Path,
        dtype: str = "auto",
        head: str | None = None,
        split_special_tokens: bool = False,
    ) -> "NativeModel":
        """Load a Hugging Face directory of the ModernBERT family.

        Raises:
            InputError: the directory, the dtype or the head cannot be used.
            DamagedError: the weights are truncated, changed, incomplete or not finite.
        """
        directory = check_path(directory, "the directory").absolute()
        files = weights.file_states(directory)  # before they are read
        config = weights.encoder_config(directory)
        is_classifier = head not in (None, "MaskedLM")
        labels = hf_config.read_labels(weights.read_config(directory)) if is_classifier else ()
        wanted = weights.shapes(config, head, len(labels))
        tensors = weights.select(directory, config, wanted, head or "Encoder")
        # The file may be overwritten or truncated while the model is used.
        embedding = tensors[weights.EMBEDDING]
        tensors[weights.EMBEDDING] = Stored(embedding.dtype, np.array(embedding.raw))
        tokenizer = weights.load_tokenizer(directory, config, split_special_tokens)
        model = cls(config, tensors, dtype, head, tokenizer)
        model.directory = directory
        model._loaded = (directory, dtype, head, split_special_tokens)
        model.files = files
        return model

    def __reduce__(self) -> tuple[Any, ...]:
        """Load the directory again in another process, or for a copy."""
        if not self._loaded:
            raise InputError("a model in memory cannot be copied or sent to another process")
        weights.check_unchanged(self.files)
        return NativeModel.load, self._loaded

    def _quantize(self) -> int:
        exact = library.resolve_dtype("auto")

        def build(exact_layers: int) -> "NativeModel":
            model = object.__new__(NativeModel)
            model.__dict__ |= self.__dict__
            model._handle = self._create(exact, exact_layers)
            return model

        chosen = quantize.choose(build(self.config.num_hidden_layers), build)
        handle: int = chosen.__dict__.pop("_handle")
        return handle

    def _create(self, exact: str, exact_layers: int | None = None) -> int:
        """Pack the weights: the first layers, or all, in one precision, and others in 8 bits."""
        config, get = self.config, self._arguments
        d, f = config.hidden_size, config.intermediate_size
        own = library.Config(d, f, config.num_hidden_layers, config.num_attention_heads,
                             library.ACTIVATIONS[config.hidden_activation], config.norm_eps,
                             Tensor.of(self._tensors[weights.EMBEDDING]),
                             *get("model.embeddings.norm"), *get("model.final_norm"))  # fmt: skip
        handle: int = self._variant.create(ctypes.byref(own))
        if not handle:
            raise MemoryError
        for number, kind in enumerate(config.layers):
            at, is_global = f"model.layers.{number}", kind == "full_attention"
            precision = library.PRECISIONS.index(
                exact if exact_layers is None or number < exact_layers else "int8"
            )
            layer = library.Layer(
                *get(f"{at}.attn_norm"), *get(f"{at}.attn.Wqkv"), *get(f"{at}.attn.Wo"),
                *get(f"{at}.mlp_norm"), *get(f"{at}.mlp.Wi"), *get(f"{at}.mlp.Wo"),
                (ctypes.c_int64 * 4)(*[precision] * 4),
                f,
                -1 if is_global else config.half_window,
                config.global_rope_theta if is_global else config.local_rope_theta,
            )  # fmt: skip
            if self._variant.add_layer(handle, ctypes.byref(layer)):
                self._variant.destroy(handle)
                raise MemoryError
        return handle

    def _arguments(self, name: str) -> list[Tensor]:
        """Return the weight and the bias of a part, as far as there are any."""
        found = [self._tensors.get(f"{name}.{part}") for part in ("weight", "bias")]
        return [Tensor() if each is None else Tensor.of(each) for each in found]

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
        check_output(output)
        check_positions(positions, output, len(ids))
        if output != "logits":
            return self._states(ids, cu_seqlens, output)
        if self.head is None:
            raise InputError("the model was loaded without a head")
        rows = self._states(ids, cu_seqlens, self.head.rows)
        return self.head(rows if positions is None else rows[positions])

    def _states(
        self,
        ids: Int32[np.ndarray, " T"],
        cu_seqlens: Int32[np.ndarray, " S_plus_1"],
        output: Output,
    ) -> Float32[np.ndarray, "rows D"]:
        """Compute token vectors or pooled vectors."""
        check_batch(ids, cu_seqlens, self.config)
        documents = len(cu_seqlens) - 1
        ids = np.ascontiguousarray(ids, np.int32)
        starts = np.ascontiguousarray(cu_seqlens, np.int32)
        rows = len(ids) if output == "tokens" else documents
        result = np.empty((rows, self.config.hidden_size), np.float32)
        in_pool = threading.current_thread().name.startswith(POOL)  # `map` computes several at once
        is_long = self._multiplications(len(ids)) > MIN_SHARED
        team = threads.count() if is_long and not in_pool else 1
        stop = _current.stop if in_pool else ctypes.c_int32()
        batch = self._variant.begin(
            self._handle, ids.ctypes.data, starts.ctypes.data, documents, team,
            ctypes.addressof(stop),
        )  # fmt: skip
        if not batch:
            raise MemoryError
        try:
            if in_pool or not is_long:
                self._variant.work(batch)
            else:
                self._work_in_pool(batch, team, stop)
        finally:  # frees the batch
            self._variant.finish(batch, library.OUTPUTS.index(output), result.ctypes.data)
        return result

    def _work_in_pool(self, batch: int, team: int, stop: ctypes.c_int32) -> None:
        """Compute a batch on several threads, while this one waits for signals such as Ctrl-C."""
        helpers: list[Future[None]] = []
        late: BaseException | None = None
        try:
            for _ in range(team):
                helpers.append(_pool(threads.count()).submit(self._variant.work, batch))
            wait(helpers, return_when=FIRST_COMPLETED)
        except BaseException:
            stop.value = 1
            raise
        finally:
            for helper in helpers:
                while not helper.cancel() and not helper.done():
                    try:
                        wait([helper])
                    except BaseException as error:  # a second Ctrl-C; the thread uses the batch
                        stop.value, late = 1, error
        if late is not None:
            raise late

    def _multiplications(self, tokens: int) -> int:
        """Return how many multiplications the products of a batch have."""
        d, f = self.config.hidden_size, self.config.intermediate_size
        return tokens * self.config.num_hidden_layers * (4 * d * d + 3 * d * f)

    def batch_budget(self, total: int) -> int:
        """Return how many tokens a batch should have."""
        return min(MAX_TOKENS, max(MIN_TOKENS, total // (2 * threads.count())))

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Run work on the cores of the CPU; a single item has all of them."""
        if len(items) < 2:
            yield from map(work, items)
            return
        stop = ctypes.c_int32()

        def start(item: Item) -> Result:
            _current.stop = stop
            return work(item)

        try:
            yield from _pool(threads.count()).map(start, items)
        finally:
            stop.value = 1


class _Current(threading.local):
    """What a thread of the pool computes for."""

    stop: ctypes.c_int32  # not 0 once the result is not needed


_current = _Current()


@cache
def _pool(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, thread_name_prefix=POOL)


if hasattr(os, "register_at_fork"):  # the threads of a pool do not exist in a forked process
    os.register_at_fork(after_in_child=_pool.cache_clear)
