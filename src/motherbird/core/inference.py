"""The interface between models that take texts and the backends that compute: ids in, arrays out.

Everything above it (prompts, truncation, batching, order, normalization) is written once and does
not depend on the backend. `motherbird.nn.inference` implements it with PyTorch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol, TypeVar, get_args, runtime_checkable

import numpy as np

from ..arrays import Float32, Int, Int32
from ..errors import InputError
from .config import EncoderConfig
from .tokenizer import Tokenizer

Item = TypeVar("Item")
Result = TypeVar("Result")

# "tokens": a vector for each token (T, D). "mean", "cls": a pooled vector for each document (S, D).
# "logits": what the model's head computes, for each token, document or position.
Vectors = Literal["tokens", "mean", "cls"]
Output = Literal[Vectors, "logits"]


@runtime_checkable
class InferenceModel(Protocol):
    """A model in evaluation mode, with its kernels chosen."""

    @property
    def config(self) -> EncoderConfig:
        """The encoder's configuration."""

    @property
    def dtype(self) -> str:
        """The dtype that it computes in: "float32", "bfloat16", "float16", "float64" or "int8"."""

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the checkpoint, or None."""

    def run(
        self,
        ids: Int32[np.ndarray, " T"],
        cu_seqlens: Int32[np.ndarray, " S_plus_1"],
        output: Output,
        positions: Int[np.ndarray, " M"] | None = None,
    ) -> Float32[np.ndarray, "rows width"]:
        """Compute one packed batch; safe to call from several threads.

        Args:
            ids: token ids of S documents, one after another.
            cu_seqlens: the offset at which each document starts, followed by T.
            output: what to compute.
            positions: for the logits of a masked-LM head, the tokens to compute them for.

        Raises:
            InputError: an id is outside the vocabulary, a document is too long, or the output or
                a position does not exist.
        """

    def batch_budget(self, total: int) -> int:
        """Return how many tokens a batch should have where there are ``total`` in all."""

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield the result of each item in order, computed on all cores."""


def check_output(output: Any, known: Any = Output) -> None:
    """Raise InputError if an output is not one of a Literal."""
    if output not in get_args(known):
        raise InputError(f"unknown output {output!r}", how=f"use {', '.join(get_args(known))}")


def check_positions(positions: Any, output: Output, tokens: int) -> None:
    """Raise InputError if positions are not those of tokens of a batch, to compute logits for."""
    if positions is None:
        return
    if output != "logits":
        raise InputError("positions are for logits", f"output {output!r}", "leave them out")
    if len(outside := np.flatnonzero((positions < 0) | (positions >= tokens))):
        what = f"position {positions[outside[0]]} is outside the batch"
        raise InputError(what, f"positions[{outside[0]}]", f"use 0 to {tokens - 1}")
