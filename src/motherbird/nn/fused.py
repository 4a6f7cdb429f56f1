"""A layer of the encoder for training on a CPU: everything between its products is computed in C.

A layer of torch operations is some 120 calls, forward and backward, most of which take longer to
call than to compute in short batches, or read and write memory once more. Here it is 12 products of
torch and 6 functions of the engine (engine/c/training.h), which hold no lock of Python's, so that
micro-batches on several threads do not wait for each other. Results differ from those of the torch
operations by rounding; the backward pass computes probabilities and gated values again.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from ..arrays import Float
from ..core.config import EncoderConfig
from ..engine import library
from ..errors import InputError
from .attention import AttentionPlan
from .autograd import first_order

if TYPE_CHECKING:
    from .encoder import Encoder, Layer

PRECISIONS = {torch.float32: 0, torch.bfloat16: 1}
LANES = 16  # widths are multiples of it, and half of a head's


def suits(config: EncoderConfig, dtype: torch.dtype) -> bool:
    """Return whether `layer` computes this geometry, with products in ``dtype``, on this CPU."""
    if config.hidden_size % LANES or config.intermediate_size % LANES:
        return False
    if config.head_dim % (2 * LANES) or config.attention_bias or config.mlp_bias:
        return False
    try:
        variant = library.variant()
    except InputError:
        return False  # the engine was not compiled
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(variant.has_bf16))


def applies(encoder: "Encoder", dtype: torch.dtype) -> bool:
    """Return whether `layer` can compute the layers of an encoder, with products in ``dtype``.

    It can with float32 weights on a CPU, where no other attention kernel was asked for and no
    linear layer was replaced.
    """
    config = encoder.config
    if encoder.attention != "auto" or encoder.final_norm.weight.dtype != torch.float32:
        return False
    if encoder.device.type != "cpu" or not suits(config, dtype):
        return False
    if encoder.training and (config.attention_dropout or config.mlp_dropout):
        return False
    linears = [m for part in encoder.layers for m in _linears(cast("Layer", part))]
    return all(isinstance(module, nn.Linear) for module in linears)


def _linears(module: "Layer") -> tuple[Any, Any, Any, Any]:
    """Return the linear layers, or what has replaced them."""
    return module.attn.Wqkv, module.attn.Wo, module.mlp.Wi, module.mlp.Wo


class Rounded:
    """The matrices of layers, rounded once for all batches of a block in which they do not change.

    Args:
        encoder: the encoder; None for a model without one, where nothing is done.
        dtype: that of products.
    """

    def __init__(self, encoder: "Encoder | None", dtype: torch.dtype) -> None:
        self.layers: list[Layer] = []
        if encoder is not None and dtype != torch.float32 and applies(encoder, dtype):
            self.layers = cast("list[Layer]", list(encoder.layers))
        self.copies = [
            [torch.empty_like(linear.weight, dtype=dtype) for linear in _linears(module)]
            for module in self.layers
        ]

    @torch.no_grad()
    def __enter__(self) -> None:
        for module, copies in zip(self.layers, self.copies, strict=True):
            for linear, copy in zip(_linears(module), copies, strict=True):
                copy.copy_(linear.weight)
            module.rounded = copies

    def __exit__(self, *_: object) -> None:
        for module in self.layers:
            module.rounded = None


def layer(module: "Layer", x: Float[Tensor, "T D"], plan: AttentionPlan) -> Float[Tensor, "T D"]:
    """Compute a layer; the residual stream is float32."""
    norms = [module.attn_norm, module.mlp_norm]  # that of layer 0 is the identity
    scales = [getattr(norm, name, None) for norm in norms for name in ("weight", "bias")]
    matrices = [linear.weight for linear in _linears(module)]
    return cast(Tensor, _Layer.apply(x, module, plan, *scales, *matrices))  # type: ignore[no-untyped-call]


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Float[Tensor, "T D"], module: "Layer", plan: AttentionPlan,
        norm1: Tensor | None, bias1: Tensor | None, norm2: Tensor, bias2: Tensor | None,
        *matrices: Tensor,
    ) -> Float[Tensor, "T D"]:  # fmt: skip
        on = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if on else torch.float32
        wqkv, wo, wi, wdown = module.rounded or [matrix.to(dtype) for matrix in matrices]
        c = _Calls(module, plan, dtype, len(x))
        stats1, n1 = c.norm(x, norm1, bias1)
        qkv = n1 @ wqkv.T
        y, logsum = c.attend(qkv)
        x1, stats2, n2 = c.add_norm(x, y @ wo.T, norm2, bias2)
        h = n2 @ wi.T
        out = c.add(x1, c.gate(h) @ wdown.T)
        ctx.calls, ctx.biases = c, (bias1 is not None, bias2 is not None)
        ctx.save_for_backward(x, stats1, n1, qkv, y, logsum, x1, stats2, n2, h, norm1, norm2,
                              wqkv, wo, wi, wdown)  # fmt: skip
        return out

    @staticmethod
    @first_order
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        c: _Calls = ctx.calls
        (x, stats1, n1, qkv, y, logsum, x1, stats2, n2, h, norm1, norm2,
         wqkv, wo, wi, wdown) = ctx.saved_tensors  # fmt: skip
        needed = ctx.needs_input_grad[7:]  # of the matrices

        def product(which: int, dout: Tensor, into: Tensor) -> Tensor | None:
            return dout.T @ into if needed[which] else None

        d = grads[0].contiguous()
        low = c.low(d)
        dh, gated = c.gate_backward(h, low @ wdown)
        ddown, di = product(3, low, gated), product(2, dh, n2)
        d, low, dnorm2, dbias2 = c.norm_backward(dh @ wi, x1, stats2, norm2, d, ctx.biases[1])
        dqkv = c.attend_backward(qkv, y, low @ wo, logsum)
        do, dwqkv = product(1, low, y), product(0, dqkv, n1)
        d, _, dnorm1, dbias1 = c.norm_backward(dqkv @ wqkv, x, stats1, norm1, d, ctx.biases[0])
        return d, None, None, dnorm1, dbias1, dnorm2, dbias2, dwqkv, do, di, ddown


def padded_rows(tokens: int) -> int:
    """Return the rows of products for a number of tokens: one of 16 numbers between powers of 2.

    oneDNN compiles code for every shape of a product. Batches of similar size have few shapes.
    """
    step = max(16, 1 << (tokens.bit_length() - 5)) if tokens > 16 else 16
    return -(-tokens // step) * step


class _Calls:
    """The functions of the engine, for one layer and batch."""

    def __init__(
        self, module: "Layer", plan: AttentionPlan, dtype: torch.dtype, tokens: int
    ) -> None:
        self.engine, self.dtype, self.tokens = library.variant(), dtype, tokens
        attn, config = module.attn, module.config
        precision, padded = PRECISIONS[dtype], padded_rows(tokens)
        activation = library.ACTIVATIONS[config.hidden_activation]
        width, inner = config.hidden_size, config.intermediate_size
        self.rows = library.Rows(tokens, padded, width, precision, activation, config.norm_eps)
        self.inner = library.Rows(tokens, padded, inner, precision, activation, 0.0)
        self.cosine, self.sine = plan.angles(attn.theta, attn.head_dim)
        self.starts = plan.packed.cu_seqlens.to(torch.int32).contiguous()
        self.attention = library.Attention(
            precision, tokens, padded, len(self.starts) - 1, plan.packed.max_seqlen, attn.heads,
            attn.head_dim, -1 if attn.window is None else attn.window,
            *(t.data_ptr() for t in (self.starts, self.cosine, self.sine)),
        )  # fmt: skip

    def _low(self, width: int) -> Tensor:
        return torch.empty((self.rows.padded, width), dtype=self.dtype)

    def low(self, x: Tensor) -> Tensor:
        """Return x rounded."""
        out = self._low(x.shape[1])
        self._call("add_norm", self.rows, x, None, None, None, None, None, out)
        return out

    def norm(self, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the statistics and the norm of x; x itself without a weight."""
        stats, out = x.new_empty((self.tokens, 2)), self._low(x.shape[1])
        self._call("add_norm", self.rows, x, None, None, weight, bias, stats, out)
        return stats, out

    def add_norm(
        self, x: Tensor, y: Tensor, weight: Tensor | None, bias: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return x + y, its statistics and its norm."""
        stats, out = x.new_empty((self.tokens, 2)), self._low(x.shape[1])
        total = torch.empty_like(x)
        self._call("add_norm", self.rows, x, y, total, weight, bias, stats, out)
        return total, stats, out

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Return x + y."""
        total = torch.empty_like(x)
        self._call("add_norm", self.rows, x, y, total, None, None, None, None)
        return total

    def norm_backward(
        self, dout: Tensor, x: Tensor, stats: Tensor, weight: Tensor | None, d: Tensor,
        with_bias: bool,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:  # fmt: skip
        """Return d + the gradient of x, the same rounded, and those of weight and bias."""
        dx, low = torch.empty_like(d), self._low(d.shape[1])
        dweight = None if weight is None else torch.zeros_like(weight)
        dbias = torch.zeros_like(weight) if weight is not None and with_bias else None
        self._call("norm_backward", self.rows, dout, x, stats, weight, d, dx, low, dweight, dbias)
        return dx, low, dweight, dbias

    def gate(self, h: Tensor) -> Tensor:
        """Return the activation of the first half of h times the second half."""
        out = self._low(h.shape[1] // 2)
        self._call("gate", self.inner, h, out)
        return out

    def gate_backward(self, h: Tensor, dout: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient of h, and what `gate` returned."""
        dh, out = self._low(h.shape[1]), self._low(dout.shape[1])
        self._call("gate_backward", self.inner, h, dout, dh, out)
        return dh, out

    def attend(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output of attention, and log2 of the sum of the powers of each row."""
        out = self._low(qkv.shape[1] // 3)
        logsum = torch.empty((self.attention.heads, self.tokens))
        self._call("attention_forward", self.attention, qkv, out, logsum)
        return out, logsum

    def attend_backward(self, qkv: Tensor, y: Tensor, dy: Tensor, logsum: Tensor) -> Tensor:
        """Return the gradient of qkv."""
        dqkv = self._low(qkv.shape[1])
        self._call("attention_backward", self.attention, qkv, y, dy, logsum, dqkv)
        return dqkv

    def _call(self, name: str, about: Any, *tensors: Tensor | None) -> None:
        pointers: Sequence[int | None] = [None if t is None else t.data_ptr() for t in tensors]
        if getattr(self.engine, name)(about, *pointers):
            raise MemoryError("attention has no memory for its batch")
