"""The graph gives the encoder's numbers, whatever the configuration, the batch and the lengths."""

from dataclasses import replace

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from exportables import exportable

from motherbird import Embedder, InputError
from motherbird.export.certificate import padded, reference
from motherbird.export.onnx_graph import OPSET, build
from motherbird.models.dense import Dense
from motherbird.nn import Encoder, MaskedLM, SequenceClassifier, TokenClassifier

# One block up to 80 tokens, blocks of 64 beyond; chunks of up to 512; half a window is 8 tokens.
LENGTHS = [(1,), (2, 1), (64, 65), (80, 81, 3), (129, 129), (300, 150, 60), (511,), (512, 9)]
DENSE = (
    Dense(np.linspace(-1, 1, 24 * 32).reshape(24, 32) / 9, np.ones(24) / 2, "tanh"),
    Dense(np.linspace(1, -1, 8 * 24).reshape(8, 24)),
)
LOCAL, GLOBAL = "sliding_attention", "full_attention"
ODD = {
    "plain": {},
    "biases": dict(norm_bias=True, attention_bias=True, mlp_bias=True, classifier_bias=True),
    "layers": dict(layer_types=(LOCAL, GLOBAL, GLOBAL, LOCAL)),
    "local": dict(layer_types=(LOCAL,) * 4),
    "global": dict(layer_types=(GLOBAL,) * 4),
    "one-theta": dict(local_rope_theta=160_000.0),
    "like-thetas": dict(global_rope_theta=10_000.01),
    "narrow": dict(local_attention=2),
    "wide": dict(local_attention=200),
    "widest": dict(local_attention=2048),
    "heads": dict(num_attention_heads=1),
    "tanh": dict(hidden_activation="gelu_pytorch_tanh", classifier_activation="gelu_new"),
    "silu": dict(hidden_activation="silu", classifier_activation="relu"),
    "relu": dict(hidden_activation="relu", classifier_activation="silu"),
    "untied": dict(tie_word_embeddings=False),
    "no-decoder-bias": dict(decoder_bias=False),
    "untied-no-bias": dict(tie_word_embeddings=False, decoder_bias=False, norm_eps=1e-3),
}


def start(model, **options):
    """A session of the model's graph."""
    return onnxruntime.InferenceSession(
        build(exportable(model), **options).SerializeToString(), providers=["CPUExecutionProvider"]
    )


def theirs(model, **options):
    """The graph as a function of documents."""
    session = start(model, **options)
    names = [output.name for output in session.get_outputs()]
    return padded(lambda inputs: dict(zip(names, session.run(names, inputs), strict=True)), 0)


def distance(a, b):
    """The largest difference, NaN if one is anywhere; the outputs must be the same."""
    assert list(a) == list(b)
    differences = []
    for name in a:
        for x, y in zip(a[name], b[name], strict=True):
            assert x.shape == y.shape
            differences.append(np.abs(x - y).max())
    return np.max(differences)


@pytest.mark.parametrize("odd", ODD)
def test_masked_lm(odd, lively, documents):
    model = lively(MaskedLM, **ODD[odd])
    run, truth = theirs(model), reference(exportable(model))
    for lengths in LENGTHS:
        batch = documents(*lengths)
        assert distance(run(batch), truth(batch)) < 2e-5, lengths


MODELS = {
    "encoder": lambda make: make(Encoder),
    "mean": lambda make: make(SequenceClassifier, ("a", "b", "c"), classifier_pooling="mean"),
    "cls": lambda make: make(SequenceClassifier, ("a",), classifier_pooling="cls"),
    "tokens": lambda make: make(TokenClassifier, ("a", "b"), classifier_bias=True),
    "embed-mean": lambda make: Embedder(make(Encoder)),
    "embed-cls": lambda make: Embedder(make(Encoder), pooling="cls"),
    "embed-long": lambda make: Embedder(make(Encoder), normalize=False),
    "embed-dense": lambda make: Embedder(make(Encoder), dense=DENSE),
}


@pytest.mark.parametrize("name", MODELS)
def test_heads(name, lively, documents):
    model = MODELS[name](lively)
    run, truth = theirs(model), reference(exportable(model))
    for lengths in ((1,), (64, 65), (300, 150, 60)):
        batch = documents(*lengths)
        assert distance(run(batch), truth(batch)) < 2e-5, lengths


def test_lengths_of_vectors(lively, documents):
    encoder = lively(Encoder)
    for normalize in (True, False):
        run = theirs(Embedder(encoder, normalize=normalize))
        norms = [np.linalg.norm(vector) for vector in run(documents(30, 2))["sentence_embedding"]]
        assert np.allclose(norms, 1, atol=1e-6) is normalize


@pytest.mark.parametrize("odd", ["plain", "layers", "global"])
def test_dense_form(odd, lively, documents):
    model = lively(Encoder, **ODD[odd])
    run, truth = theirs(model, chunked=False), reference(exportable(model))
    assert "Scan" not in {
        node.op_type for node in build(exportable(model), chunked=False).graph.node
    }
    for lengths in ((1,), (300, 150, 60), (512, 9)):
        batch = documents(*lengths)
        assert distance(run(batch), truth(batch)) < 2e-5, lengths


@pytest.mark.parametrize(
    "change",
    [dict(local_attention=14), dict(local_attention=18), dict(local_rope_theta=9e3)],
    ids=str,
)
def test_a_mistake_is_seen(change, lively, documents):
    """The tolerance above is not so wide that a real error fits into it."""
    model, wrong = lively(Encoder), lively(Encoder, **change)
    wrong.load_state_dict(model.state_dict())
    batch = documents(300, 150, 60)
    assert distance(theirs(wrong)(batch), reference(exportable(model))(batch)) > 100 * 2e-5


def test_padding_is_without_effect(lively, documents):
    """On the right or on the left, whatever stands in it, however much longer than the window."""
    session = start(lively(Encoder))
    (document,) = documents(40)

    def run(left, right, filler):
        ids = np.array([[filler] * left + document + [filler] * right])
        mask = np.array([[0] * left + [1] * 40 + [0] * right])
        (hidden,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
        assert np.isfinite(hidden).all()
        return hidden[0, left : left + 40]

    alone = run(0, 0, 0)
    for left, right in ((0, 9), (0, 300), (300, 0), (100, 100)):
        assert np.abs(run(left, right, 5) - alone).max() < 2e-5
        assert np.array_equal(run(left, right, 5), run(left, right, 900))


def test_a_row_of_padding_is_finite(lively):
    """Its outputs are not used, but must not be NaN: float16 and sums would spread them."""
    for model in (lively(Encoder), Embedder(lively(Encoder)), Embedder(lively(Encoder), "cls")):
        session = start(model)
        inputs = {
            "input_ids": np.ones((2, 100), np.int64),
            "attention_mask": np.array([[1] * 100, [0] * 100]),
        }
        for output in session.run(None, inputs):
            assert np.isfinite(output).all()


def test_the_checker_passes(lively):
    for model in (lively(MaskedLM, **ODD["biases"]), Embedder(lively(Encoder))):
        for chunked in (True, False):
            graph = build(exportable(model), chunked=chunked)
            onnx.checker.check_model(graph, full_check=True)
            assert [(o.domain, o.version) for o in graph.opset_import] == [("", OPSET)]


def shapes(values):
    return {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in values
    }


def test_inputs_and_outputs_are_what_consumers_ask_for(lively):
    row = ["batch", "sequence"]
    wanted = {
        "encoder": {"last_hidden_state": [*row, 32]},
        "mean": {"logits": ["batch", 3]},
        "tokens": {"logits": [*row, 2]},
        "embed-mean": {"token_embeddings": [*row, 32], "sentence_embedding": ["batch", 32]},
    }
    for name, outputs in wanted.items():
        graph = build(exportable(MODELS[name](lively))).graph
        assert shapes(graph.input) == {"input_ids": row, "attention_mask": row}
        assert {i.type.tensor_type.elem_type for i in graph.input} == {onnx.TensorProto.INT64}
        assert shapes(graph.output) == outputs
        assert list(shapes(graph.output)) == list(outputs)  # some consumers take the first
    assert shapes(build(exportable(lively(MaskedLM))).graph.output) == {"logits": [*row, 1024]}


def test_names_are_those_of_the_checkpoint(lively):
    model = lively(MaskedLM, **ODD["biases"])
    graph = build(exportable(model)).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    for name in model.state_dict():
        module = name.removeprefix("model.").rpartition(".")[0]
        assert module in names
        assert name.removeprefix("model.") in {tensor.name for tensor in graph.initializer}


def test_nothing_in_the_graph_is_infinite_or_too_large_for_float16(lively):
    graph = build(exportable(lively(MaskedLM))).graph
    for tensor in graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            assert np.abs(array).max() < 65_504


def test_tensors_are_stored_once(lively):
    model = lively(MaskedLM)
    tables = 2 * 2 * 512 * 8 * 4  # two thetas, cosines and sines of 512 positions, 8 pairs
    weights = sum(tensor.numel() for tensor in model.parameters()) * 4
    small = len(build(exportable(model)).SerializeToString()) - weights - tables
    assert 0 < small < 100_000


def test_onnxruntime_recognises_gelu(lively, tmp_path):
    """It is one fast kernel instead of six nodes."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3  # that such a file is for one machine only
    onnxruntime.InferenceSession(
        build(exportable(lively(MaskedLM))).SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
    )
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert kinds.count("Gelu") == 5 and "Erf" not in kinds


def test_too_many_positions_are_refused(toy):
    model = Encoder(toy)
    model.config = replace(toy, max_position_embeddings=2**17 + 1)
    with pytest.raises(InputError, match="131073 is too large.*131072"):
        build(exportable(model))
