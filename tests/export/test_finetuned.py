"""Exports of fine-tuned models: equal logits, and config.json says what they mean."""

import json
import shutil

import numpy as np
import pytest
from easy_labels import labelled

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from motherbird import Classifier, Scorer, Tagger
from motherbird.core.batching import pad
from motherbird.core.hf_config import read_head
from motherbird.core.measure import predicted_tags, sigmoid
from motherbird.core.spans import spans
from motherbird.export import certificate as certificates
from motherbird.export import export
from motherbird.models.text_model import softmax

CLASSES = {"single": Classifier, "multi": Classifier, "number": Scorer, "pairs": Scorer,
           "tags": Tagger}  # fmt: skip
SETTINGS = {"multi": {"thresholds": True}}


@pytest.fixture(autouse=True)
def few_cases(monkeypatch):
    monkeypatch.setattr(certificates, "CASES", ((1,), (70, 3)))


def head_of(model):
    return read_head(json.loads((model / "config.json").read_text()), "config.json")


def run(out, format, ids):
    """The logits of a file for token ids, padded."""
    padded, mask = pad(ids)
    inputs = {"input_ids": padded, "attention_mask": mask}
    if format == "onnx":
        session = onnxruntime.InferenceSession(out / "onnx/model.onnx")
        return session.run(["logits"], inputs)[0]
    openvino = pytest.importorskip("openvino")
    model = openvino.Core().read_model(out / "openvino/openvino_model.xml")
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.compile_model(model, "CPU", settings)(inputs)["logits"]


@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("kind", CLASSES)
def test_a_finetuned_model(kind, format, finetuned, tmp_path):
    pytest.importorskip(format)
    model, out = finetuned(kind, **SETTINGS.get(kind, {})), tmp_path / "out"
    found = export(model, out, format)
    assert found.passed and {case.output for case in found.cases} == {"logits"}
    worst = max(case.packed.difference for case in found.cases)
    assert 0 < worst <= found.difference < 1e-4
    assert json.loads((out / "certificate.json").read_text())["cases"][0]["output"] == "logits"
    head = head_of(out)
    assert head == head_of(model)
    if kind in ("single", "multi"):
        assert head.temperature != 1
    assert bool(head.thresholds) == (kind == "multi")
    loaded = CLASSES[kind].load(model, dtype="float32")
    texts = labelled(kind, 12, 7).texts
    if kind == "tags":
        documents, _ = loaded.tokenize_words(texts)
        rows = run(out, format, [document.ids for document in documents])
        for spans_of_text, row, document in zip(loaded.tag(texts), rows, documents, strict=True):
            tags = predicted_tags(row, document.first, head.labels)
            wanted = [tuple(span) for span in spans(tags, "BIO")]
            assert [(s.label, s.first_word, s.end_word) for s in spans_of_text] == wanted
        return
    tokenize = loaded.tokenize if kind in ("single", "multi") else loaded.tokenize_pairs
    logits = run(out, format, tokenize(texts)[0]) / head.temperature
    if kind == "number":
        np.testing.assert_allclose(logits[:, 0], loaded.score(texts), atol=1e-4)
        return
    probabilities = sigmoid(logits) if kind == "multi" else softmax(logits)
    np.testing.assert_allclose(probabilities, loaded.probabilities(texts), atol=1e-4)
    wanted = [each.labels for each in loaded.predict(texts)]
    assert [each.labels for each in loaded.predictions(probabilities)] == wanted


@pytest.mark.parametrize("kind", CLASSES)
def test_an_export_is_a_model_too(kind, finetuned, tmp_path):
    """Also in 8 bits; the directory has the same predictions."""
    model, out = finetuned(kind, **SETTINGS.get(kind, {})), tmp_path / "out"
    export(model, out, "onnx", dtype="int8")
    assert head_of(out) == head_of(model)
    texts = labelled(kind, 12, 7).texts
    one, other = (CLASSES[kind].load(place, dtype="float32") for place in (model, out))
    if kind == "number":
        assert (one.score(texts) == other.score(texts)).all()
    elif kind == "tags":
        assert one.tag(texts) == other.tag(texts)
    else:
        assert one.predict(texts) == other.predict(texts)


@pytest.mark.parametrize("function", ["Sigmoid", "Identity"])
def test_a_directory_of_cross_encoder(function, finetuned, tmp_path):
    """It has a modules.json, but is not an embedder; its activation is in a file of its own."""
    st_ = pytest.importorskip("sentence_transformers")
    torch = pytest.importorskip("torch")
    raw = json.loads((finetuned("number") / "config.json").read_text())
    for key in ("sentence_transformers", "problem_type"):
        del raw[key]
    copied = tmp_path / "model"
    shutil.copytree(finetuned("number"), copied)
    (copied / "motherbird.json").unlink()
    (copied / "config.json").write_text(json.dumps(raw))
    reranker = st_.CrossEncoder(
        str(copied), device="cpu", local_files_only=True,
        activation_fn=getattr(torch.nn, function)(),
    )  # fmt: skip
    reranker.save_pretrained(str(tmp_path / "written"))
    assert (tmp_path / "written" / "modules.json").is_file()
    assert export(tmp_path / "written", tmp_path / "out", "onnx").head == "logits"
    pairs = labelled("number", 5, 1).texts
    found = Scorer.load(tmp_path / "out", dtype="float32").score(pairs)
    np.testing.assert_allclose(found, reranker.predict(pairs), atol=1e-4)


def test_what_config_says_of_other_libraries_is_kept(finetuned, tmp_path):
    """A cross-encoder's activation, under the old key too."""
    model = finetuned("number")
    raw = json.loads((model / "config.json").read_text())
    copied = tmp_path / "model"
    copied.mkdir()
    for file in ("model.safetensors", "tokenizer.json"):
        (copied / file).write_bytes((model / file).read_bytes())
    for key in ("sentence_transformers", "problem_type"):
        del raw[key]
    raw["sbert_ce_default_activation_function"] = "torch.nn.modules.activation.Sigmoid"
    (copied / "config.json").write_text(json.dumps(raw))
    export(copied, tmp_path / "out", "onnx")
    pairs = labelled("number", 5, 1).texts
    found = Scorer.load(tmp_path / "out", dtype="float32").score(pairs)
    logits = Scorer.load(model, dtype="float32").score(pairs)
    np.testing.assert_allclose(found, sigmoid(logits), atol=1e-6)
