"""EncoderConfig: everything in which two encoders of the family differ."""

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

from ..errors import InputError
from ..strict import type_errors

LayerType = Literal["full_attention", "sliding_attention"]
Activation = Literal["gelu", "gelu_pytorch_tanh", "gelu_new", "silu", "relu"]
Pooling = Literal["cls", "mean"]

# Larger sizes mean a damaged or malicious file, and are an error before memory is allocated.
_MAXIMA = {
    "vocab_size": 2**24,
    "hidden_size": 2**16,
    "intermediate_size": 2**18,
    "num_hidden_layers": 1024,
    "num_attention_heads": 2**10,
    "max_position_embeddings": 2**24,
    "local_attention": 2**24,
    "global_attn_every_n_layers": 1024,
}


@dataclass(frozen=True)
class EncoderConfig:
    """Geometry and arithmetic of an encoder; names and meanings are those of transformers.

    The defaults are ModernBERT-base (paper, table 4 and appendix A). Layer i is global if
    ``i % global_attn_every_n_layers == 0``, unless ``layer_types`` lists the layers.
    ``local_attention`` is the whole window: a token sees ``local_attention // 2`` tokens on each
    side, and itself.

    Raises:
        InputError: a value is invalid; the message lists all such values.
    """

    vocab_size: int = 50_368
    hidden_size: int = 768
    intermediate_size: int = 1_152
    num_hidden_layers: int = 22
    num_attention_heads: int = 12
    max_position_embeddings: int = 8_192
    local_attention: int = 128
    global_attn_every_n_layers: int = 3
    layer_types: tuple[LayerType, ...] | None = None
    global_rope_theta: float = 160_000.0
    local_rope_theta: float = 10_000.0
    hidden_activation: Activation = "gelu"
    classifier_activation: Activation = "gelu"
    classifier_pooling: Pooling = "mean"
    norm_eps: float = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    classifier_bias: bool = False
    decoder_bias: bool = True
    tie_word_embeddings: bool = True
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    mlp_dropout: float = 0.0
    classifier_dropout: float = 0.0
    initializer_range: float = 0.02
    initializer_cutoff_factor: float = 2.0
    pad_token_id: int | None = 50_283
    bos_token_id: int | None = 50_281
    eos_token_id: int | None = 50_282
    cls_token_id: int | None = 50_281
    sep_token_id: int | None = 50_282

    def __post_init__(self) -> None:
        if isinstance(self.layer_types, list):
            object.__setattr__(self, "layer_types", tuple(self.layer_types))
        # The types first, because the other checks compute with the values.
        problems = type_errors(self) or [*self._out_of_range(), *self._impossible()]
        if problems:
            raise InputError("; ".join(problems), "EncoderConfig")
        if self.layer_types is not None:  # so that equal models have equal configurations
            every = period(self.layer_types)
            object.__setattr__(self, "global_attn_every_n_layers", every or 3)
            object.__setattr__(self, "layer_types", None if every else self.layer_types)

    @property
    def head_dim(self) -> int:
        """H, the dimension of an attention head."""
        return self.hidden_size // self.num_attention_heads

    @property
    def half_window(self) -> int:
        """The number of tokens that a local layer sees on each side."""
        return self.local_attention // 2

    @cached_property
    def layers(self) -> tuple[LayerType, ...]:
        """The type of each of the L layers."""
        every = self.global_attn_every_n_layers
        return self.layer_types or every_nth_global(self.num_hidden_layers, every)

    def _out_of_range(self) -> list[str]:
        problems = []
        for name, largest in _MAXIMA.items():
            if not 1 <= getattr(self, name) <= largest:
                problems.append(
                    f"{name} = {getattr(self, name)} is not an integer from 1 to {largest}"
                )
        for name in ("embedding", "attention", "mlp", "classifier"):
            if not 0 <= getattr(self, f"{name}_dropout") < 1:
                problems.append(f"{name}_dropout is not within 0..1")
        for name in (
            "global_rope_theta",
            "local_rope_theta",
            "norm_eps",
            "initializer_range",
            "initializer_cutoff_factor",
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                problems.append(f"{name} = {value} is not a positive number")
        for name in ("pad", "bos", "eos", "cls", "sep"):
            token = getattr(self, f"{name}_token_id")
            if token is not None and not 0 <= token < self.vocab_size:
                problems.append(
                    f"{name}_token_id = {token} is outside the vocabulary of {self.vocab_size}"
                )
        return problems

    def _impossible(self) -> list[str]:
        problems = []
        size, heads = self.hidden_size, self.num_attention_heads
        if heads < 1 or size % heads:
            problems.append(
                f"hidden_size = {size} is not divisible by num_attention_heads = {heads}"
            )
        elif self.head_dim % 2:
            problems.append(
                f"the head dimension {self.head_dim} is odd; rotary embeddings need an even one"
            )
        if self.local_attention % 2:
            problems.append(
                f"local_attention = {self.local_attention} is odd; "
                f"use {self.local_attention - 1} or {self.local_attention + 1}"
            )
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            problems.append(
                f"layer_types has {len(self.layer_types)} entries "
                f"for num_hidden_layers = {self.num_hidden_layers}"
            )
        return problems


def every_nth_global(layers: int, n: int) -> tuple[LayerType, ...]:
    """Return the layer types of the paper: layer i is global if i % n == 0."""
    return tuple("sliding_attention" if i % n else "full_attention" for i in range(layers))


def period(layers: tuple[LayerType, ...]) -> int | None:
    """Return the smallest n for which `every_nth_global` gives these layers, or None."""
    for n in range(1, len(layers) + 1):
        if layers == every_nth_global(len(layers), n):
            return n
    return None


FIELDS = tuple(field.name for field in fields(EncoderConfig))
