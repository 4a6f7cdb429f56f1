"""The encoder, read top to bottom (paper section 2.1; transformers 5 ``models/modernbert``).

Modules carry the names of the published tensors, so a state dict *is* a checkpoint. Letters of the
shapes are in packed.py.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.functional import gelu, relu, silu

from ..core.config import Activation, EncoderConfig
from ..core.tokenizer import Tokenizer
from ..errors import InputError
from . import attention as attention_backends
from . import checkpoint, init
from .attention import AttentionPlan, Backend
from .dropout import dropout
from .linear import Projection
from .memory import keep_freed_memory
from .packed import Packed, check_ids
from .rope import pairs_together, rotate

tanh_gelu = partial(gelu, approximate="tanh")
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_pytorch_tanh": tanh_gelu,
    "gelu_new": tanh_gelu,
    "silu": silu,
    "relu": relu,
}


class Norm(nn.LayerNorm):
    """LayerNorm over D, with a bias only where the configuration asks for one."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)


class Embeddings(nn.Module):
    """Token embedding and its norm; positions come from RoPE alone."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = Norm(config)
        self.dropout = config.embedding_dropout

    def forward(self, ids: Int[Tensor, " T"]) -> Float[Tensor, "T D"]:
        """Ids to normed vectors."""
        return dropout(self.norm(self.tok_embeddings(ids)), self.dropout, self.training)


class Attention(nn.Module):
    """Fused Q, K, V; RoPE with the theta of the layer's kind; global or within the window."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        width, bias = config.hidden_size, config.attention_bias
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.Wqkv = Projection(width, (3 * width,), bias, self._rows_of_qkv)
        self.Wo = Projection(width, (width,), bias)
        self.dropout = config.attention_dropout
        if config.layers[layer] == "full_attention":
            self.theta, self.window = config.global_rope_theta, None
        else:
            self.theta, self.window = config.local_rope_theta, config.half_window

    def forward(
        self, x: Float[Tensor, "T D"], plan: AttentionPlan, backend: Backend
    ) -> Float[Tensor, "T D"]:
        """Every token attends to what it sees in ``plan``."""
        qkv = self.Wqkv(x)[0].view(len(x), -1, self.head_dim)
        qk, v = qkv.split((2 * self.heads, self.heads), dim=1)
        q, k = rotate(qk, plan.rotary(self.theta, self.head_dim)).chunk(2, dim=1)
        y = backend.attend(q, k, v, plan, self.window)  # (T, N, H) each
        # The paper drops the output and no probabilities: a fused kernel never shows them.
        return dropout(self.Wo(y.flatten(1))[0], self.dropout, self.training)

    def _rows_of_qkv(self, rows: Shaped[Tensor, "Q_K_V ..."]) -> Shaped[Tensor, "Q_K_V ..."]:
        """Q and K with the channels that turn together side by side, as `rotate` wants them."""
        third = len(rows) // 3
        return torch.cat((pairs_together(rows[: 2 * third], self.head_dim), rows[2 * third :]))


class GatedMLP(nn.Module):
    """GeGLU: the first half of Wi is activated and gates the second."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.Wi = Projection(width, (inner, inner), bias)
        self.Wo = Projection(inner, (width,), bias)
        self.activation = ACTIVATIONS[config.hidden_activation]
        self.dropout = config.mlp_dropout

    def forward(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
        """Token by token."""
        first, second = self.Wi(x)  # (T, F) each
        return self.Wo(dropout(self.activation(first) * second, self.dropout, self.training))[0]


class Layer(nn.Module):
    """One pre-norm layer; layer 0 follows the embedding's norm directly and has none of its own."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.attn_norm = nn.Identity() if layer == 0 else Norm(config)
        self.attn = Attention(config, layer)
        self.mlp_norm = Norm(config)
        self.mlp = GatedMLP(config)

    def forward(
        self, x: Float[Tensor, "T D"], plan: AttentionPlan, backend: Backend
    ) -> Float[Tensor, "T D"]:
        """Attention, then MLP, each added to the residual stream."""
        x = x + self.attn(self.attn_norm(x), plan, backend)
        return x + self.mlp(self.mlp_norm(x))


class Encoder(nn.Module):
    """Packed ids in, one vector of width D per token out.

    Args:
        config: geometry and arithmetic.
        attention: "auto", "flash", "tiled", "banded" or "oracle"; see `motherbird.nn.attention`.

    ``tokenizer`` is the one that was loaded beside the weights, or None.
    """

    architecture = "ModernBertModel"

    def __init__(self, config: EncoderConfig, attention: str = "auto") -> None:
        super().__init__()
        attention_backends.check_name(attention)
        self.config = config
        self.attention = attention
        self.tokenizer: Tokenizer | None = None
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.final_norm = Norm(config)
        init.init_weights(self, config)

    @classmethod
    def load(
        cls,
        name_or_dir: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        attention: str = "auto",
        device: torch.device | str | None = None,
        revision: str | None = None,
    ) -> "Encoder":
        """Load the encoder of any checkpoint of the family; a head that is in the file is left out.

        Args:
            name_or_dir: a Hugging Face directory, or a name on the Hub.
            dtype: a torch dtype or its name; None as stored, "auto" the fastest on this machine,
                "int8" products of 8-bit integers where they are good enough (`quantize`).
            attention: see the class.
            device: a torch device or its name; None the CPU.
            revision: branch, tag or commit on the Hub.

        Raises:
            InputError: no such model, not of this family, or it cannot run as asked for.
            DamagedError: the weights are truncated, altered, incomplete or not finite.
        """
        attention_backends.check_name(attention)
        return checkpoint.load(
            lambda config, _: cls(config, attention), name_or_dir, dtype, device, revision
        )

    def save(self, directory: str | Path, *, tokenizer: Tokenizer | None = None) -> None:
        """Write a Hugging Face directory (class ``ModernBertModel``); see `checkpoint.save`."""
        checkpoint.save(self, directory, tokenizer=tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.final_norm.weight.device

    def set_context(self, config: EncoderConfig) -> None:
        """Take over another theta or length limit; the weights stay (context extension, 2.2.1)."""
        self.config = config
        for module in self.modules():
            if isinstance(module, Attention) and module.window is None:
                module.theta = config.global_rope_theta

    def forward(self, packed: Packed) -> Float[Tensor, "T D"]:
        """Encode a batch; it may lie on any device.

        Raises:
            InputError: an id outside the vocabulary, or a document beyond
                ``max_position_embeddings``.
        """
        self._check(packed)
        keep_freed_memory()
        device, dtype = self.device, self.final_norm.weight.dtype
        if torch.is_autocast_enabled(device.type):
            dtype = torch.get_autocast_dtype(device.type)
        backend = attention_backends.choose(self.attention, device, dtype)
        packed, restore = packed.by_length() if backend.BY_LENGTH else (packed, None)
        plan = AttentionPlan(packed.to(device))
        x = self.embeddings(plan.packed.ids)
        for layer in self.layers:
            x = layer(x, plan, backend)
        x = self.final_norm(x)
        return x if restore is None else x[restore.to(x.device)]

    def _check(self, packed: Packed) -> None:
        check_ids(packed, self.config.vocab_size)
        limit = self.config.max_position_embeddings
        if packed.max_seqlen > limit:
            raise InputError(
                f"a document of {packed.max_seqlen} tokens is longer than the model's {limit}",
                f"document {packed.lengths.index(packed.max_seqlen)}",
                "cut it into pieces, or truncate it",
            )
