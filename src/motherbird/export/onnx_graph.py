"""The encoder and its heads as an ONNX graph, to be read top to bottom like nn/encoder.py.

The graph is built from the configuration and the tensors, without torch's exporter. Values and
tensors have the names of the modules in a checkpoint (``layers.3.attn.Wqkv``). Opset 17 is the
lowest with LayerNormalization. GELU is built from elementary operations, which every runtime fuses.

Matrices are stored transposed, ready for MatMul, and the rows of Q in Wqkv are scaled by
H ** -0.5, which saves a multiplication in the graph.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from torch import nn

from .. import __version__
from ..arrays import Float32
from ..core.config import EncoderConfig, Pooling
from ..errors import InputError
from .models import Exportable
from .onnx_attention import GraphAttention
from .onnx_nodes import Graph, value

OPSET, IR_VERSION = 17, 8
MAX_POSITIONS = 2**17  # their rotary tables have 67 MB with a head dimension of 64


def build(exported: Exportable, *, chunked: bool = True) -> ModelProto:
    """Build a float32 ONNX graph of a model, for any batch size and length.

    Inputs are ``input_ids`` and ``attention_mask`` (1 for tokens, 0 for padding), int64, (batch,
    sequence). Outputs are those of `Exportable.outputs`.

    Args:
        exported: the model; its weights are read as float32.
        chunked: see `onnx_attention.GraphAttention`.

    Raises:
        InputError: the model takes more than 131,072 tokens.
    """
    config = exported.model.encoder.config
    if config.max_position_embeddings > MAX_POSITIONS:
        raise InputError(
            f"max_position_embeddings = {config.max_position_embeddings} is too large to export",
            how=f"lower it in config.json to {MAX_POSITIONS} or less",
        )
    builder = _Builder(config, exported.model, chunked)
    axes = {"tokens": ("batch", "sequence"), "documents": ("batch",)}
    outputs = []
    for name, built in exported.build(builder, builder.encoder()).items():
        builder.graph.rename(built, name)
        axis, size = exported.outputs[name]
        outputs.append(value(name, TensorProto.FLOAT, (*axes[axis], size)))
    inputs = [
        value(name, TensorProto.INT64, ("batch", "sequence"))
        for name in ("input_ids", "attention_mask")
    ]
    made = helper.make_model(
        builder.graph.finish("modernbert", inputs, outputs),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="motherbird",
        producer_version=__version__,
    )
    builder.graph.move_tensors(made.graph)
    return made


class _Builder:
    """The modules of nn/encoder.py and nn/heads, a method each, on names of values.

    Shapes are (batch, sequence, D), and (batch, D) after pooling.
    """

    def __init__(self, config: EncoderConfig, module: nn.Module, chunked: bool) -> None:
        self.config = config
        self.graph = Graph()
        self.attention_ops = GraphAttention(self.graph, config, chunked)
        self.weights = {
            name.removeprefix("model."): tensor for name, tensor in module.state_dict().items()
        }

    def _weight(self, name: str) -> NDArray[np.float32]:
        return self.weights[name].detach().to("cpu", torch.float32).numpy()

    def encoder(self) -> str:
        """Token ids to token vectors."""
        table = "embeddings.tok_embeddings"
        weight = self.graph.tensor(f"{table}.weight", self._weight(f"{table}.weight"))
        x = self.graph.gather(weight, "input_ids", 0, table)
        x = self.norm(x, "embeddings.norm")
        for number, kind in enumerate(self.config.layers):
            x = self.layer(x, f"layers.{number}", number, kind)
        return self.norm(x, "final_norm")

    def layer(self, x: str, at: str, number: int, kind: str) -> str:
        """Attention and MLP, each added to the residual stream."""
        normed = x if number == 0 else self.norm(x, f"{at}.attn_norm")
        x = self.graph.add(x, self.attention(normed, f"{at}.attn", kind), f"{at}.attn.sum")
        mlp = self.mlp(self.norm(x, f"{at}.mlp_norm"), f"{at}.mlp")
        return self.graph.add(x, mlp, f"{at}.mlp.sum")

    def attention(self, x: str, at: str, kind: str) -> str:
        """Attention with fused Q, K, V and RoPE, global or within a window."""
        graph, config = self.graph, self.config
        width, heads = config.hidden_size, config.num_attention_heads
        scale = np.ones((3, width), np.float32)
        scale[0] = config.head_dim**-0.5
        qkv = self.linear(x, f"{at}.Wqkv", scale.ravel())
        parts = []
        for part in graph.split(qkv, 3, width, 2, [f"{at}.{letter}.row" for letter in "qkv"]):
            name = part.removesuffix(".row")
            split = graph.reshape(part, [0, 0, heads, config.head_dim], f"{name}.split")
            parts.append(graph.transpose(split, [0, 2, 1, 3], name))
        q, k, v = parts  # (batch, N, sequence, H) each
        is_global = kind == "full_attention"
        theta = config.global_rope_theta if is_global else config.local_rope_theta
        q = self.attention_ops.rotate(q, theta, f"{at}.q.rotated")
        k = self.attention_ops.rotate(k, theta, f"{at}.k.rotated")
        y = self.attention_ops.attend(q, k, v, kind, f"{at}.seen")
        y = graph.transpose(y, [0, 2, 1, 3], f"{at}.seen.tokens")
        return self.linear(graph.reshape(y, [0, 0, width], f"{at}.joined"), f"{at}.Wo")

    def mlp(self, x: str, at: str) -> str:
        """Gated MLP: the activation of the first half of Wi is the gate of the second."""
        names = [f"{at}.first", f"{at}.second"]
        wide = self.linear(x, f"{at}.Wi")
        first, second = self.graph.split(wide, 2, self.config.intermediate_size, 2, names)
        gate = self.activation(first, self.config.hidden_activation, f"{at}.gate")
        return self.linear(self.graph.multiply(gate, second, f"{at}.gated"), f"{at}.Wo")

    def linear(self, x: str, name: str, scale: NDArray[np.float32] | None = None) -> str:
        """Multiply by the weight and add the bias, both scaled if ``scale`` is given."""
        bias, last = f"{name}.bias", f"{name}.weight"
        by = np.float32(1) if scale is None else scale
        matrix = self.graph.tensor(last, self._weight(last).T * by)
        if bias not in self.weights:
            return self.graph.matmul(x, matrix, name)
        product = self.graph.matmul(x, matrix, f"{name}.product")
        return self.graph.add(product, self.graph.tensor(bias, self._weight(bias) * by), name)

    def norm(self, x: str, name: str) -> str:
        """LayerNorm over D."""
        names = [n for n in (f"{name}.weight", f"{name}.bias") if n in self.weights]
        tensors = [self.graph.tensor(n, self._weight(n)) for n in names]
        return self.graph.node(
            "LayerNormalization", x, *tensors, name=name, axis=-1, epsilon=self.config.norm_eps
        )

    def activation(self, x: str, kind: str, name: str) -> str:
        """The activation functions of nn/encoder.py."""
        graph = self.graph
        if kind == "relu":
            return graph.node("Relu", x, name=name)
        if kind == "silu":
            return graph.multiply(x, graph.node("Sigmoid", x, name=f"{name}.sigmoid"), name)
        if kind == "gelu":
            scaled = graph.node("Div", x, graph.number(2**0.5), name=f"{name}.scaled")
            curve = graph.node("Erf", scaled, name=f"{name}.erf")
        else:  # the tanh approximation of GELU: sqrt(2 / pi) (x + 0.044715 x^3)
            square = graph.multiply(x, x, f"{name}.square")
            cubic = graph.multiply(square, graph.number(0.044715), f"{name}.cubic")
            inner = graph.multiply(
                x, graph.add(cubic, graph.number(1.0), f"{name}.c"), f"{name}.in"
            )
            scaled = graph.multiply(inner, graph.number((2 / np.pi) ** 0.5), f"{name}.scaled")
            curve = graph.node("Tanh", scaled, name=f"{name}.tanh")
        raised = graph.multiply(
            x, graph.add(curve, graph.number(1.0), f"{name}.c1"), f"{name}.twice"
        )
        return graph.multiply(raised, graph.number(0.5), name)

    def prediction_head(self, x: str) -> str:
        """Dense layer, activation and norm, which all heads start with."""
        dense = self.linear(x, "head.dense")
        return self.norm(
            self.activation(dense, self.config.classifier_activation, "head.activation"),
            "head.norm",
        )

    def decoder(self, x: str) -> str:
        """The decoder from D to V; a weight that is tied to the embedding is stored once."""
        if "decoder.weight" in self.weights:
            return self.linear(x, "decoder")
        graph, config = self.graph, self.config
        rows = graph.node("Reshape", x, graph.ints([-1, config.hidden_size]), name="decoder.rows")
        inputs = [rows, "embeddings.tok_embeddings.weight"]
        if "decoder.bias" in self.weights:
            inputs.append(graph.tensor("decoder.bias", self._weight("decoder.bias")))
        logits = graph.node("Gemm", *inputs, name="decoder.logits", transB=1)
        shape = graph.node(
            "Concat", "shape", graph.ints([config.vocab_size]), name="decoder.shape", axis=0
        )
        return graph.node("Reshape", logits, shape, name="decoder")

    def pool(self, x: str, how: Pooling) -> str:
        """One vector per row of the batch: the first token's, or the mean over its tokens."""
        graph = self.graph
        if how == "cls":
            return graph.gather(x, graph.ints(0), 1, "pooled")
        weights = graph.node("Cast", "mask", name="pool.weights", to=TensorProto.FLOAT)
        total = graph.matmul(graph.unsqueeze(weights, [1], "pool.row"), x, "pool.total")
        total = graph.node("Squeeze", total, graph.ints([1]), name="pool.sum")
        count = graph.node("ReduceSum", weights, graph.ints([1]), name="pool.count", keepdims=1)
        count = graph.node("Max", count, graph.number(1.0), name="pool.count.positive")
        return graph.node("Div", total, count, name="pooled")

    def dense(
        self,
        x: str,
        name: str,
        weight: Float32[np.ndarray, "O I"],
        bias: Float32[np.ndarray, " O"] | None,
        tanh: bool,
    ) -> str:
        """A linear layer with these weights, and tanh if asked, on the vector of each document."""
        graph = self.graph
        x = graph.matmul(x, graph.tensor(f"{name}.weight", weight.T), f"{name}.product")
        if bias is not None:
            x = graph.add(x, graph.tensor(f"{name}.bias", bias), f"{name}.sum")
        return graph.node("Tanh", x, name=f"{name}.tanh") if tanh else x

    def normalize(self, x: str) -> str:
        """Scale vectors to length 1; a zero vector stays zero."""
        length = self.graph.node("ReduceL2", x, name="unit.length", axes=[1], keepdims=1)
        safe = self.graph.node("Max", length, self.graph.number(1e-12), name="unit.safe")
        return self.graph.node("Div", x, safe, name="unit")
