"""motherbird.export.export: a whole directory with a certificate, or nothing."""

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from motherbird import DamagedError, Embedder, InputError
from motherbird.errors import MissingExtraError, OutputExistsError, ParityError
from motherbird.export import certificate as certificates
from motherbird.export import export, onnx_file, onnx_graph
from motherbird.files import read_manifest
from motherbird.nn import Encoder, MaskedLM, SequenceClassifier


@pytest.fixture(autouse=True)
def few_cases(monkeypatch):
    """Less to compare than a user's export has, which tests of the command line run in full."""
    monkeypatch.setattr(certificates, "CASES", ((1,), (70, 3), (300,)))


@pytest.fixture
def embedder(lively, small_tokenizer):
    model = Embedder(lively(Encoder), prompts={"query": "question: "})
    model.encoder.tokenizer = small_tokenizer
    return model


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


CHECKPOINT = {"README.md", "config.json", "model.safetensors", "motherbird.json",
              "certificate.json"}  # fmt: skip
TOKENIZER = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
MODULES = {"modules.json", "config_sentence_transformers.json", "sentence_bert_config.json",
           "1_Pooling/config.json", "2_Normalize/config.json"}  # fmt: skip


def test_layout_is_where_consumers_look(embedder, tmp_path):
    """interop's table: TEI, fastembed, transformers.js and sentence-transformers' backends."""
    embedder.save(tmp_path / "model")
    around = CHECKPOINT | TOKENIZER | MODULES
    for format, own in (
        ("hf", set()),
        ("onnx", {"onnx/model.onnx"}),
        ("openvino", {"openvino/openvino_model.xml", "openvino/openvino_model.bin"}),
    ):
        if format == "openvino":
            pytest.importorskip("openvino")
        export(tmp_path / "model", tmp_path / format, format)
        assert files(tmp_path / format) == around | own
        manifest = read_manifest(tmp_path / format)
        assert manifest["kind"] == "converted model"
        assert set(manifest["sha256"]) == (around | own) - {"motherbird.json"}
    settings = json.loads((tmp_path / "onnx" / "tokenizer_config.json").read_text())
    assert settings["model_max_length"] == 512 and settings["pad_token"]  # fastembed asks for both


@pytest.mark.parametrize(
    ("format", "file", "pattern", "name"),
    [
        ("onnx", "model.onnx", "*.onnx", "ONNX"),
        ("openvino", "openvino_model.xml", "openvino*.xml", "OpenVINO"),
    ],
)
def test_sentence_transformers_finds_the_file(
    format, file, pattern, name, embedder, tmp_path, caplog
):
    """By its own search; its runtimes cannot be installed beside its version 6."""
    search = pytest.importorskip("sentence_transformers.backend.utils").backend_should_export
    pytest.importorskip(format)
    embedder.save(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "out", format)
    found = search(tmp_path / "out", True, {}, file, pattern, name)
    assert found == (False, {"subfolder": format, "file_name": file}) and not caplog.records


def test_an_export_is_a_model_too(embedder, tmp_path):
    embedder.save(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "out", "onnx")
    again = Embedder.load(tmp_path / "out", dtype="stored")
    assert np.array_equal(again.embed(["a text"]), embedder.embed(["a text"]))
    file = tmp_path / "out" / "onnx" / "model.onnx"
    ids = embedder.tokenizer.encode_batch(["a text", "another text, longer than the first"])
    vectors = onnx_file.runner(file, 0)(ids)["sentence_embedding"]
    assert np.abs(np.stack(vectors) - embedder.embed_ids(ids)).max() < 1e-5


def test_certificate(lively, tmp_path):
    lively(SequenceClassifier, ("no", "yes")).save(tmp_path / "model")
    told = []
    found = export(
        tmp_path / "model", tmp_path / "out", "onnx", on_case=lambda n, of: told.append((n, of))
    )
    written = json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert written == json.loads(json.dumps(dataclasses.asdict(found)))
    assert {k: written[k] for k in ("model", "head", "format", "dtype", "file", "passed")} == {
        "model": "model",
        "head": "logits",
        "format": "onnx",
        "dtype": "float32",
        "file": "onnx/model.onnx",
        "passed": True,
    }
    assert set(written["versions"]) == {"motherbird", "torch", "onnx", "onnxruntime"}
    assert written["versions"]["onnx"] == onnx.__version__
    assert written["tolerance"] == {"difference": 1e-4, "cosine": 0.9999}
    assert [case["lengths"] for case in written["cases"]] == [[1], [70, 3], [300]]
    all_of_them = [c[way] for c in written["cases"] for way in ("packed", "one_by_one")]
    assert written["difference"] == max(a["difference"] for a in all_of_them) < 1e-5
    assert written["cosine"] == min(a["cosine"] for a in all_of_them) > 0.9999
    assert written["difference"] > 0  # two programs do not give equal bits
    assert told == [(1, 374), (73, 374), (300, 374)]
    assert set(written["machine"]) == {"system", "architecture", "cpu"}
    assert str(tmp_path) not in json.dumps(written)  # no path of this machine


def test_both_outputs_of_an_embedder_are_compared(embedder, tmp_path):
    embedder.save(tmp_path / "model")
    found = export(tmp_path / "model", tmp_path / "out", "onnx")
    assert [(c.lengths, c.output) for c in found.cases] == [
        (lengths, output)
        for lengths in ((1,), (70, 3), (300,))
        for output in ("token_embeddings", "sentence_embedding")
    ]


def test_stored_dtype(lively, tmp_path):
    """hf keeps what is stored unless asked; what others run is float32, with files that say so."""
    lively(MaskedLM).to(torch.bfloat16).save(tmp_path / "model")
    for format, dtype, wanted in (
        ("hf", "auto", "bfloat16"),
        ("hf", "float32", "float32"),
        ("onnx", "auto", "float32"),
    ):
        found = export(tmp_path / "model", tmp_path / "out", format, dtype=dtype)
        assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == wanted
        model = MaskedLM.load(tmp_path / "out", dtype="stored")
        assert str(model.model.final_norm.weight.dtype) == f"torch.{wanted}"
        assert found.difference < 1e-5


def test_int8(lively, tmp_path):
    lively(MaskedLM).save(tmp_path / "model")
    found = export(tmp_path / "model", tmp_path / "out", "onnx", dtype="int8")
    assert (found.file, found.dtype) == ("onnx/model_int8.onnx", "int8")
    assert files(tmp_path / "out") == CHECKPOINT | {"onnx/model_int8.onnx"}
    assert 1e-4 < found.difference and found.cosine > 0.9
    assert found.tolerance == {"difference": 0.5, "cosine": 0.8}


def test_an_earlier_export_is_replaced(lively, tmp_path):
    lively(MaskedLM).save(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "out", "onnx")
    export(tmp_path / "model", tmp_path / "out", "hf")
    assert files(tmp_path / "out") == CHECKPOINT


def test_a_model_is_never_replaced(lively, tmp_path, tree):
    for name in ("model", "other"):
        lively(MaskedLM).save(tmp_path / name)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("years of work")
    before = tree(tmp_path)
    for out, says in (
        ("other", "is a saved model, not an exported model"),
        ("foreign", "not created by motherbird"),
    ):
        with pytest.raises(OutputExistsError, match=says):
            export(tmp_path / "model", tmp_path / out, "hf")
    assert tree(tmp_path) == before


@pytest.fixture
def tree():
    """All files below a folder and what is in them."""

    def look(folder):
        return {p: p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}

    return look


@pytest.mark.parametrize("value", [0.5, float("nan")])
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_a_wrong_weight_leaves_nothing(format, value, lively, tmp_path, tree, monkeypatch):
    """One number of one matrix in the graph; what was there before stays."""
    if format == "openvino":
        pytest.importorskip("openvino")
    lively(Encoder).save(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "out", "hf")
    read = onnx_graph._Builder._weight

    def damaged(self, name):
        weight = read(self, name).copy()
        if name == "layers.2.mlp.Wo.weight":
            weight[0, 0] += value
        return weight

    monkeypatch.setattr(onnx_graph._Builder, "_weight", damaged)
    before = tree(tmp_path)
    with pytest.raises(ParityError, match="exported last_hidden_state differs.*nothing was wri"):
        export(tmp_path / "model", tmp_path / "out", format)
    assert tree(tmp_path) == before


def test_a_checkpoint_that_was_written_wrong_leaves_nothing(lively, tmp_path, tree, monkeypatch):
    lively(Encoder).save(tmp_path / "model")
    before = tree(tmp_path)
    from motherbird.export import models

    write = models.Exportable.write

    def damaged(self, directory):
        self.model.final_norm.weight.data[3] += 0.1
        write(self, directory)
        self.model.final_norm.weight.data[3] -= 0.1

    monkeypatch.setattr(models.Exportable, "write", damaged)
    with pytest.raises(ParityError, match="model.safetensors"):
        export(tmp_path / "model", tmp_path / "out", "hf")
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (dict(format="gguf"), "format 'gguf' is unknown: use hf, onnx, openvino"),
        (dict(format="onnx", head="mean"), "head 'mean' is unknown: use auto, none, pooling"),
        (dict(format="onnx", dtype="float16"), "dtype 'float16' is unknown: use auto, float32"),
        (dict(format="openvino", dtype="int8"), "openvino has no int8"),
        (dict(format="hf", dtype="int8"), "hf has no int8"),
    ],
    ids=str,
)
def test_impossible_arguments(arguments, says, tmp_path):
    with pytest.raises(InputError, match=says):
        export(tmp_path / "no-model-is-looked-for", tmp_path / "out", **arguments)


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [("onnx", "onnx", "export"), ("onnx", "onnxruntime", "export"),
     ("openvino", "openvino", "openvino")],
)  # fmt: skip
def test_a_missing_package_is_named(format, package, extra, tmp_path, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"'{package}'.*'\.\[{extra}\]"):
        export(tmp_path / "model", tmp_path / "out", format)


def test_hf_needs_no_extra(lively, tmp_path, monkeypatch):
    for package in ("onnx", "onnxruntime", "openvino"):
        monkeypatch.setitem(__import__("sys").modules, package, None)
    lively(Encoder).save(tmp_path / "model")
    assert export(tmp_path / "model", tmp_path / "out", "hf").passed


def test_damaged_weights(lively, tmp_path):
    lively(Encoder).save(tmp_path / "model")
    with (tmp_path / "model" / "model.safetensors").open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\0\1")
    with pytest.raises(DamagedError, match="SHA-256"):
        export(tmp_path / "model", tmp_path / "out", "onnx")
    assert not (tmp_path / "out").exists()


def test_layers_that_others_cannot_read_are_warned_of(lively, tmp_path, caplog):
    kinds = ("sliding_attention", "full_attention") * 2
    lively(Encoder, layer_types=kinds).save(tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        export(tmp_path / "model", tmp_path / "out", "onnx")
    assert "layer_types of this model cannot be written" in caplog.text
