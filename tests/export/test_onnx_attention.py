"""What attention costs in the graph: never a table of sequence by sequence in memory."""

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from exportables import exportable

from motherbird.export.onnx_graph import build
from motherbird.nn import Encoder

LOCAL, GLOBAL = "sliding_attention", "full_attention"


@pytest.fixture
def shape_of(lively):
    """The shape that a value inside the graph has at some length."""

    def look(name, kind, length, batch=1, **changes):
        model = build(exportable(lively(Encoder, layer_types=(kind,) * 4, **changes)))
        model.graph.output.append(onnx.ValueInfoProto(name=name))
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        ids = np.ones((batch, length), np.int64)
        return session.run([name], {"input_ids": ids, "attention_mask": ids})[0].shape

    return look


@pytest.mark.parametrize(
    ("length", "blocks", "queries", "keys"),
    [(1, 1, 1, 1), (80, 1, 80, 80), (81, 2, 64, 80), (128, 2, 64, 80), (512, 8, 64, 80)],
)
def test_scores_of_a_local_layer(length, blocks, queries, keys, shape_of):
    """A short row is one block of itself; a long one has 80 scores a query at any length."""
    scores = shape_of("layers.1.attn.seen.blocks.scores", LOCAL, length)
    assert scores == (1, 2, blocks, queries, keys)
    assert shape_of("local.bias", LOCAL, length, batch=3) == (3, 1, blocks, queries, keys)


def test_blocks_grow_with_the_window(shape_of):
    scores = shape_of("layers.1.attn.seen.blocks.scores", LOCAL, 400, local_attention=200)
    assert scores == (1, 2, 4, 100, 300)


@pytest.mark.parametrize(
    ("length", "chunks", "size"), [(1, 1, 1), (512, 1, 512), (513, 2, 257), (2000, 4, 500)]
)
def test_queries_of_a_step_of_a_global_layer(length, chunks, size, shape_of):
    rows = shape_of("global.queries", GLOBAL, length, max_position_embeddings=2048)
    assert rows == (chunks, size)


def test_every_kind_of_layer_brings_only_what_it_needs(lively):
    def heads(**changes):
        graph = build(exportable(lively(Encoder, **changes))).graph
        names = {tensor.name for tensor in graph.initializer} | {n.name for n in graph.node}
        return {word for word in ("local", "global", "rotary.cos") for n in names if word in n}

    assert heads(layer_types=(LOCAL,) * 4) == {"local", "rotary.cos"}
    assert heads(layer_types=(GLOBAL,) * 4) == {"global", "rotary.cos"}
    assert heads() == {"local", "global", "rotary.cos"}
