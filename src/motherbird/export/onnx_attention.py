"""Attention in ONNX, on padded batches, since all runtimes take padded inputs.

Shapes in comments are (batch, N, sequence, H) unless stated otherwise. Batch size and length are
read from the inputs when the graph runs.

Scores are never minus infinity: -30,000, which float16 can represent, is added to those of
invisible keys. A softmax over invisible keys alone is therefore finite, in padding longer than the
window and in the rows that fill the last block.
"""

import torch
from onnx import TensorProto

from ..core.config import EncoderConfig
from ..nn.rope import tables
from .onnx_nodes import Graph, value

CHUNK = 512  # queries of a step in a global layer
BLOCK = 64  # queries of a block in a local layer; more if the window is larger
INVISIBLE = -30_000.0
LAYER_TYPES = ("full_attention", "sliding_attention")


class GraphAttention:
    """Attention in a graph; what all layers share is added to the graph once, here.

    Args:
        graph: the graph, with the inputs input_ids and attention_mask.
        config: the encoder's configuration.
        chunked: compute a global layer in steps over its queries (a Scan), so that the scores need
            CHUNK times sequence numbers. Otherwise the layer is one dense product, which OpenVINO
            recognizes and computes without storing the scores.
    """

    def __init__(self, graph: Graph, config: EncoderConfig, chunked: bool) -> None:
        self.graph, self.config, self.chunked = graph, config, chunked
        self.sequence = graph.gather(
            graph.node("Shape", "input_ids", name="shape"), graph.ints(1), 0, "sequence"
        )
        self.length = graph.unsqueeze(self.sequence, [0], "length")  # as a list
        self.mask = graph.node("Cast", "attention_mask", name="mask", to=TensorProto.BOOL)
        self.rotary = {theta: self._rotary(theta) for theta in self._thetas()}
        if "full_attention" in config.layers:
            self._global()
        if "sliding_attention" in config.layers:
            self._local()

    def _thetas(self) -> list[float]:
        config = self.config
        thetas = (config.global_rope_theta, config.local_rope_theta)
        used = [theta for theta, kind in zip(thetas, LAYER_TYPES, strict=True)
                if kind in config.layers]  # fmt: skip
        return list(dict.fromkeys(used))

    def _rotary(self, theta: float) -> tuple[str, str]:
        """Return cosines and sines (sequence, H), from tables of all positions.

        Tables give the same bits as the encoder in every runtime, also in one that computes in
        bfloat16, which cannot represent position 257.
        """
        graph, config = self.graph, self.config
        made = tables(torch.arange(config.max_position_embeddings), theta, config.head_dim)
        names = []
        for name, table in (("cos", made.real[:, 0]), ("sin", made.imag[:, 0])):
            whole = graph.tensor(f"rotary.{name}.{theta}", table.numpy())
            half = graph.first(whole, self.length, 0, f"{name}.{theta}.half")
            names.append(graph.node("Concat", half, half, name=f"{name}.{theta}", axis=1))
        return names[0], names[1]

    def _bias(self, seen: str, name: str) -> str:
        """Return what is added to scores: 0 if visible."""
        graph = self.graph
        return graph.node("Where", seen, graph.number(0.0), graph.number(INVISIBLE), name=name)

    def _global(self) -> None:
        graph = self.graph
        keys = graph.unsqueeze(self.mask, [1, 2], "global.seen")  # (batch, 1, 1, sequence)
        self.padding = self._bias(keys, "global.bias")
        if not self.chunked:
            return
        more = graph.add(self.sequence, graph.ints(CHUNK - 1), "global.more")
        chunks = graph.node("Div", more, graph.ints(CHUNK), name="global.chunks")
        size = self._divide_up(self.sequence, chunks, "global.size")  # all chunks have this size
        rows = self._grid(chunks, size, graph.ints(0), size, "global.rows")
        self.chunk_rows = graph.node("Min", rows, self._last("global"), name="global.queries")

    def _local(self) -> None:
        """Prepare blocks of queries with the keys within the window of any of them.

        A short sequence is a single block, if that is less work.
        """
        graph, window = self.graph, self.config.half_window
        block = max(BLOCK, window)
        short = graph.node(
            "LessOrEqual", self.sequence, graph.ints(block + 2 * window), name="local.short"
        )
        size = graph.node("Where", short, self.sequence, graph.ints(block), name="local.size")
        reach = graph.node("Where", short, graph.ints(0), graph.ints(window), name="local.reach")
        blocks = self._divide_up(self.sequence, size, "local.blocks")
        start = graph.node("Neg", reach, name="local.start")
        end = graph.add(size, reach, "local.end")
        queries = self._grid(blocks, size, graph.ints(0), size, "local.rows")  # (blocks, size)
        keys = self._grid(blocks, size, start, end, "local.columns")  # (blocks, keys)
        # Beyond the ends of the sequence are invisible copies of its first and last entry.
        last = self._last("local")
        self.queries = graph.node("Clip", queries, graph.ints(0), last, name="local.queries")
        self.keys = graph.node("Clip", keys, graph.ints(0), last, name="local.keys")
        inside = graph.node("Equal", keys, self.keys, name="local.inside")
        real = graph.gather(self.mask, self.keys, 1, "local.real")  # (batch, blocks, keys)
        real = graph.node("And", real, inside, name="local.real.inside")
        across = graph.unsqueeze(keys, [1], "local.columns.across")
        down = graph.unsqueeze(queries, [2], "local.rows.down")
        signed = graph.node("Sub", across, down, name="local.offset")
        distance = graph.node("Abs", signed, name="local.distance")  # (blocks, size, keys)
        near = graph.node("LessOrEqual", distance, graph.ints(window), name="local.near")
        own = graph.node("Equal", distance, graph.ints(0), name="local.own")
        real = graph.unsqueeze(real, [2], "local.real.down")
        seen = graph.node("And", real, near, name="local.seen.others")
        seen = graph.node("Or", seen, own, name="local.seen")  # (batch, blocks, size, keys)
        self.band = self._bias(graph.unsqueeze(seen, [1], "local.seen.heads"), "local.bias")

    def _divide_up(self, a: str, b: str, name: str) -> str:
        """Return the quotient, rounded up."""
        graph = self.graph
        more = graph.node("Sub", graph.add(a, b, f"{name}.sum"), graph.ints(1), name=f"{name}.more")
        return graph.node("Div", more, b, name=name)

    def _last(self, name: str) -> str:
        return self.graph.node("Sub", self.sequence, self.graph.ints(1), name=f"{name}.last")

    def _grid(self, count: str, size: str, start: str, end: str, name: str) -> str:
        """Return rows: row i is the range from i * size + start to i * size + end."""
        graph, one = self.graph, self.graph.ints(1)
        numbers = graph.node("Range", graph.ints(0), count, one, name=f"{name}.numbers")
        starts = graph.multiply(numbers, size, f"{name}.starts")
        offsets = graph.node("Range", start, end, one, name=f"{name}.offsets")
        return graph.add(graph.unsqueeze(starts, [1], f"{name}.starts.down"), offsets, name)

    def rotate(self, x: str, theta: float, name: str) -> str:
        """Rotate channels k and k + H/2 of every head by the token's angle."""
        graph, half = self.graph, self.config.head_dim // 2
        cos, sin = self.rotary[theta]
        first, second = graph.split(x, 2, half, 3, [f"{name}.first", f"{name}.second"])
        minus = graph.node("Neg", second, name=f"{name}.minus")
        swapped = graph.node("Concat", minus, first, name=f"{name}.swapped", axis=3)
        straight = graph.multiply(x, cos, f"{name}.cos")
        return graph.add(straight, graph.multiply(swapped, sin, f"{name}.sin"), name)

    def attend(self, q: str, k: str, v: str, kind: str, name: str) -> str:
        """Compute attention; q is already scaled."""
        if kind == "sliding_attention":
            return self._by_block(q, k, v, name)
        columns = self.graph.transpose(k, [0, 1, 3, 2], f"{name}.columns")
        if self.chunked:
            return self._by_chunk(q, columns, v, name)
        return _softmax_product(self.graph, q, columns, v, self.padding, name)

    def _by_chunk(self, q: str, columns: str, v: str, name: str) -> str:
        """Scan over chunks of queries; the body reads keys and values of the outer graph."""
        graph = self.graph
        chunks = graph.gather(q, self.chunk_rows, 2, f"{name}.chunks")  # (b, N, chunks, size, H)
        body, chunk, seen = Graph(), f"{name}.chunk", f"{name}.chunk.seen"
        _softmax_product(body, chunk, columns, v, self.padding, seen)
        y = graph.node(
            "Scan", chunks, name=f"{name}.scan", num_scan_inputs=1,
            scan_input_axes=[2], scan_output_axes=[2],
            body=body.finish(
                f"{name}.step",
                [value(chunk, TensorProto.FLOAT, None)],
                [value(seen, TensorProto.FLOAT, None)],
            ),
        )  # fmt: skip
        return self._join(y, name)

    def _by_block(self, q: str, k: str, v: str, name: str) -> str:
        """Compute every block with its band of keys, (batch, N, blocks, ., H)."""
        graph = self.graph
        q = graph.gather(q, self.queries, 2, f"{name}.q.blocks")
        k = graph.gather(k, self.keys, 2, f"{name}.k.bands")
        v = graph.gather(v, self.keys, 2, f"{name}.v.bands")
        columns = graph.transpose(k, [0, 1, 2, 4, 3], f"{name}.columns")
        return self._join(_softmax_product(graph, q, columns, v, self.band, f"{name}.blocks"), name)

    def _join(self, y: str, name: str) -> str:
        """Join blocks to a sequence, without the padding of the last one."""
        whole = self.graph.reshape(y, [0, 0, -1, self.config.head_dim], f"{name}.row")
        return self.graph.first(whole, self.length, 2, name)


def _softmax_product(graph: Graph, q: str, columns: str, v: str, bias: str, name: str) -> str:
    scores = graph.add(graph.matmul(q, columns, f"{name}.products"), bias, f"{name}.scores")
    weights = graph.node("Softmax", scores, name=f"{name}.weights", axis=-1)
    return graph.matmul(weights, v, name)
