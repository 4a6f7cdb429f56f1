"""OpenVINO through the ONNX file: the numbers, no NaN, and long documents."""

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

from exportables import exportable

from motherbird import Embedder
from motherbird.export import onnx_file, openvino
from motherbird.export.certificate import reference
from motherbird.export.onnx_graph import build
from motherbird.nn import Encoder, MaskedLM, SequenceClassifier


@pytest.fixture
def convert(tmp_path):
    """The .xml of a model."""

    def make(model):
        onnx_file.save(build(exportable(model), chunked=False), tmp_path / "model.onnx")
        path = tmp_path / "openvino" / "openvino_model.xml"
        openvino.convert(tmp_path / "model.onnx", path)
        return path

    return make


MODELS = {
    "masked-lm": lambda make: make(MaskedLM),
    "biases": lambda make: make(
        SequenceClassifier, ("a", "b"), norm_bias=True, attention_bias=True, mlp_bias=True,
        classifier_bias=True, hidden_activation="silu", classifier_activation="gelu_new",
    ),
    "embed": lambda make: Embedder(make(Encoder)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_numbers(name, lively, documents, convert):
    model = MODELS[name](lively)
    run = openvino.runner(convert(model), 0)
    for lengths in ((1,), (64, 65), (300, 150, 60)):
        batch = documents(*lengths)
        theirs, wanted = run(batch), reference(exportable(model))(batch)
        assert list(theirs) == list(wanted)
        for output in wanted:
            for a, b in zip(theirs[output], wanted[output], strict=True):
                assert a.shape == b.shape and np.abs(a - b).max() < 1e-4


@pytest.mark.parametrize(("precision", "allowed"), [("f32", 1e-4), ("bf16", 0.2)])
def test_padding_longer_than_the_window(precision, allowed, lively, documents, convert):
    """Where exported boolean masks turn whole documents to NaN: beyond half a window, 8 tokens."""
    model = lively(Encoder)
    run = openvino.runner(convert(model), 0, precision)
    for lengths in ((20, 12), (20, 11), (300, 150, 60), (512, 4)):
        batch = documents(*lengths)
        states, wanted = (
            run(batch)["last_hidden_state"],
            reference(exportable(model))(batch)["last_hidden_state"],
        )
        for a, b in zip(states, wanted, strict=True):
            assert np.isfinite(a).all() and np.abs(a - b).max() < allowed


def test_8192_tokens(lively, documents, convert):
    model = lively(Encoder, max_position_embeddings=8192)
    batch = documents(8192)
    (theirs,) = openvino.runner(convert(model), 0)(batch)["last_hidden_state"]
    (wanted,) = reference(exportable(model))(batch)["last_hidden_state"]
    assert np.abs(theirs - wanted).max() < 1e-4


def test_weights_are_not_compressed(lively, convert):
    model = lively(Encoder)
    path = convert(model)
    assert path.with_suffix(".bin").stat().st_size > 4 * sum(p.numel() for p in model.parameters())
