"""The encoder (paper section 2.1; transformers 5 ``models/modernbert``), to be read top to bottom.

Modules have the names of the published tensors, so that a state dict is a checkpoint. The letters
of the shapes are explained in packed.py.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, lru_cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, relu, silu
from torch.utils.checkpoint import checkpoint

from ..arrays import Float, Int, Shaped
from ..core.arguments import check_type
from ..core.batching import check_batch
from ..core.config import Activation, EncoderConfig
from ..core.tokenizer import Tokenizer
from . import attention as attention_kernels
from . import fused, init
from .attention import AttentionKernel, AttentionPlan
from .autograd import first_order
from .dropout import dropout, replayed
from .model import GraphBuilder, Model
from .packed import Packed
from .rope import pairs_together, rotate

tanh_gelu = partial(gelu, approximate="tanh")
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": gelu,
    "gelu_pytorch_tanh": tanh_gelu,
    "gelu_new": tanh_gelu,
    "silu": silu,
    "relu": relu,
}
SHAPES = 256  # shapes of products in each cache of oneDNN


class Norm(nn.LayerNorm):
    """LayerNorm over D, with a bias only where the configuration asks for one."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)


class Embeddings(nn.Module):
    """Token embedding and its norm; there is no position embedding besides RoPE."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.norm = Norm(config)
        self.dropout = config.embedding_dropout

    def forward(self, ids: Int[Tensor, " T"]) -> Float[Tensor, "T D"]:
        """Look up and normalize the vectors of token ids."""
        return dropout(self.norm(self.tok_embeddings(ids)), self.dropout, self.training)


def permute_qkv(rows: Shaped[Tensor, "Q_K_V ..."], head_dim: int) -> Shaped[Tensor, "Q_K_V ..."]:
    """Reorder the rows of Q and K so that `rotate` finds its pairs of channels together."""
    order, inverse = qkv_order(len(rows), head_dim, rows.device)
    return cast(Tensor, _Reorder.apply(rows, order, inverse))  # type: ignore[no-untyped-call]


@lru_cache
def qkv_order(
    rows: int, head_dim: int, device: torch.device
) -> tuple[Int[Tensor, " rows"], Int[Tensor, " rows"]]:
    """Return which row is where after `permute_qkv`, and the inverse."""
    with torch.inference_mode(False):  # autograd refuses tensors of inference mode
        order = torch.arange(rows, device=device)
        qk = 2 * rows // 3
        order = torch.cat((pairs_together(order[:qk], head_dim), order[qk:]))
        return order, order.argsort()


class _Reorder(torch.autograd.Function):
    """Rows in another order. Autograd's backward pass of slices would add matrices of zeros."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return rows.index_select(0, order)

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return grads[0].index_select(0, ctx.saved_tensors[0]), None, None


class QKV(nn.Linear):
    """The fused projection to Q, K and V, with rows in the order of `permute_qkv`."""

    def __init__(self, config: EncoderConfig) -> None:
        width = config.hidden_size
        super().__init__(width, 3 * width, bias=config.attention_bias)
        self.head_dim = config.head_dim

    def forward(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "T Q_K_V"]:
        """Project each token."""
        bias = None if self.bias is None else permute_qkv(self.bias, self.head_dim)
        return linear(x, permute_qkv(self.weight, self.head_dim), bias)


class Attention(nn.Module):
    """Multi-head attention with fused Q, K, V and RoPE, global or within a window."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.head_dim = config.num_attention_heads, config.head_dim
        self.Wqkv = QKV(config)
        self.Wo = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        self.dropout = config.attention_dropout
        if config.layers[layer] == "full_attention":
            self.theta, self.window = config.global_rope_theta, None
        else:
            self.theta, self.window = config.local_rope_theta, config.half_window

    def forward(
        self, x: Float[Tensor, "T D"], plan: AttentionPlan, kernel: AttentionKernel
    ) -> Float[Tensor, "T D"]:
        """Let every token attend to the tokens that it sees."""
        qkv = self.Wqkv(x).view(len(x), -1, self.head_dim)
        qk, v = qkv.split((2 * self.heads, self.heads), dim=1)
        q, k = rotate(qk, plan.rotary(self.theta, self.head_dim)).chunk(2, dim=1)
        y = kernel.attend(q, k, v, plan, self.window)  # (T, N, H) each
        # As in the paper, dropout applies to the output, not to the attention probabilities.
        return dropout(self.Wo(y.flatten(1)), self.dropout, self.training)


class GatedMLP(nn.Module):
    """Gated MLP (GeGLU): the activation of the first half of Wi is the gate of the second."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.Wi = nn.Linear(width, 2 * inner, bias=bias)
        self.Wo = nn.Linear(inner, width, bias=bias)
        self.activation = ACTIVATIONS[config.hidden_activation]
        self.dropout = config.mlp_dropout

    def forward(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
        """Apply the MLP to each token."""
        first, second = self.Wi(x).chunk(2, dim=-1)  # (T, F) each
        return self.Wo(dropout(self.activation(first) * second, self.dropout, self.training))


class Layer(nn.Module):
    """A pre-norm layer. Layer 0 has no attention norm, since it follows the embedding's norm."""

    def __init__(self, config: EncoderConfig, layer: int) -> None:
        super().__init__()
        self.attn_norm = nn.Identity() if layer == 0 else Norm(config)
        self.attn = Attention(config, layer)
        self.mlp_norm = Norm(config)
        self.mlp = GatedMLP(config)
        self.config = config
        self.rounded: list[Tensor] | None = None  # see `fused.Rounded`

    def forward(
        self, x: Float[Tensor, "T D"], plan: AttentionPlan, kernel: AttentionKernel | None
    ) -> Float[Tensor, "T D"]:
        """Add the outputs of attention and MLP to the residual stream; no kernel: see `fused`."""
        if kernel is None:
            return fused.layer(self, x, plan)
        x = x + self.attn(self.attn_norm(x), plan, kernel)
        return x + self.mlp(self.mlp_norm(x))


class Encoder(Model):
    """The encoder: from a packed batch to a vector of size D for each token.

    Args:
        config: geometry and arithmetic.
        attention: "auto", "flash", "tiled", "banded" or "oracle"; see `motherbird.nn.attention`.

    Attributes:
        tokenizer: the tokenizer that was loaded with the weights, or None.
        rounded_from: the stored dtype of the weights, if they were rounded when they were loaded.
        gradient_checkpointing: whether the backward pass computes each layer again, instead of
            keeping its intermediate results.
    """

    architecture = "ModernBertModel"
    output = "last_hidden_state"
    axis = "tokens"

    def __init__(self, config: EncoderConfig, attention: str = "auto") -> None:
        super().__init__()
        attention_kernels.check_name(attention)
        check_type(config, "config", EncoderConfig, "load a directory with Encoder.load")
        self.config = config
        self.attention = attention
        self.gradient_checkpointing = False
        self.tokenizer: Tokenizer | None = None
        self.rounded_from: torch.dtype | None = None
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config, i) for i in range(config.num_hidden_layers))
        self.final_norm = Norm(config)
        init.init_weights(self, config)

    @property
    def encoder(self) -> "Encoder":
        """This encoder."""
        return self

    @property
    def size(self) -> int:
        """D, the size of a token vector."""
        return self.config.hidden_size

    def export(self, graph: GraphBuilder, states: str) -> str:
        """Return the token vectors themselves."""
        return states

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.final_norm.weight.device

    def set_context(self, config: EncoderConfig) -> None:
        """Change theta and the maximum length, but no weight (context extension, paper 2.2.1)."""
        self.config = config
        for module in self.modules():
            if isinstance(module, Attention) and module.window is None:
                module.theta = config.global_rope_theta

    @property
    def product_dtype(self) -> torch.dtype:
        """The dtype of products at present: autocast's, or that of the weights."""
        if torch.is_autocast_enabled(self.device.type):
            return torch.get_autocast_dtype(self.device.type)
        return self.final_norm.weight.dtype

    def kernel(self) -> AttentionKernel:
        """Return the attention kernel for the present device and dtype."""
        return attention_kernels.choose(self.attention, self.device, self.product_dtype)

    def forward(self, packed: Packed) -> Float[Tensor, "T D"]:
        """Encode a batch, which may be on any device.

        Raises:
            InputError: the batch is not `Packed`, an id is outside the vocabulary, or a document is
                longer than ``max_position_embeddings``.
        """
        check_type(packed, "the batch", Packed, "make one with motherbird.nn.pack(documents)")
        # On a GPU an invalid id would leave the process's CUDA context unusable.
        check_batch(packed.ids.cpu().numpy(), packed.cu_seqlens.cpu().numpy(), self.config)
        set_up_memory()
        kernel = self.kernel()
        packed, restore = packed.by_length() if kernel.BY_LENGTH else (packed, None)
        plan = AttentionPlan(packed.to(self.device))
        x = self.embeddings(plan.packed.ids)
        gradient = torch.is_grad_enabled()
        used = None if gradient and fused.applies(self, self.product_dtype) else kernel
        recompute = self.gradient_checkpointing and self.training and gradient
        for layer in self.layers:
            x = _recomputed(layer, x, plan, used) if recompute else layer(x, plan, used)
        x = self.final_norm(x)
        return x if restore is None else x[restore.to(x.device)]


def _recomputed(
    layer: nn.Module, x: Float[Tensor, "T D"], plan: AttentionPlan, kernel: AttentionKernel | None
) -> Float[Tensor, "T D"]:
    """Compute a layer, and keep only its input for the backward pass."""
    again = replayed()
    found = checkpoint(
        layer, x, plan, kernel, use_reentrant=False, preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), again()),
    )  # fmt: skip
    return cast(Tensor, found)


@cache
def set_up_memory() -> None:
    """Set how memory is reused and cached, before the first batch of a process.

    oneDNN keeps compiled code and buffers for every shape of a product that it has seen, 0.5 MB
    each, up to 1,024. Every number of tokens is a new shape, five times a layer. It keeps `SHAPES`,
    unless the environment says otherwise.

    By default glibc returns large blocks as soon as they are freed, and every layer pays for new
    pages: up to a fifth of the time. The limit follows the largest block ever freed (mallopt(3),
    "dynamic mmap threshold", at most 32 MB). This frees one such block, which is never touched.
    """
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(SHAPES))
    torch.empty(31 * 2**20, dtype=torch.uint8, device="cpu")
