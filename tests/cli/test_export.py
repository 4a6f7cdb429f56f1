"""motherbird export: one line, or one JSON document, and a folder that is whole."""

import json

import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def test_onnx(motherbird, model, tmp_path):
    out = tmp_path / "out"
    said = motherbird("export", model, "--format", "onnx", "--out", out).done().out
    assert said.startswith(f"{out / 'onnx' / 'model.onnx'}: float32, ")
    assert "differs from the model by at most " in said and said.endswith(", up to 512 tokens\n")
    certificate = json.loads((out / "certificate.json").read_text())
    assert (certificate["head"], certificate["passed"]) == ("pooling", True)
    lengths = [case["lengths"] for case in certificate["cases"]][::2]
    assert lengths == [[1], [64, 65], [129, 129], [300, 150, 60], [512, 4], [512]]


def test_json_is_the_certificate(motherbird, model, tmp_path, documented, has_shape):
    options = ("--head", "logits", "--threads", "1", "--json")
    found = motherbird("export", model, "--format", "onnx", "--out", tmp_path / "out", *options)
    (shape,) = documented("export")
    assert has_shape(found.done().json, shape)
    assert found.json == json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert found.json["head"] == "logits"


@pytest.mark.parametrize("format", ["hf", "openvino"])
def test_other_formats(format, motherbird, model, tmp_path):
    if format == "openvino":
        pytest.importorskip("openvino")
    motherbird("export", model, "--format", format, "--out", tmp_path / "out").done()
    again = motherbird("info", tmp_path / "out", "--json").done().json
    assert again["embedding"]["prompts"] == {"query": "question: "}


def test_refusals(motherbird, model, tmp_path, tree):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("not to be lost")
    before = tree(tmp_path)

    def call(*options, out="out", format="onnx"):
        return motherbird("export", model, "--format", format, "--out", tmp_path / out, *options)

    call(out="mine").refused("not created by motherbird")
    call(format="tflite").refused("'tflite' is unknown: use hf, onnx, openvino")
    call("--head", "hat").refused("'hat' is unknown")
    call("--dtype", "int4").refused("'int4' is unknown")
    call(out="nowhere/out").refused("does not exist")
    motherbird("export", model, "--format", "hf", "--out", model / "x").refused(
        "(is|inside) the input"
    )
    motherbird("export", model, "--format", "hf", "--out", model).refused("(is|inside) the input")
    motherbird("export", model, "--out", tmp_path / "out").refused("'--format'")
    motherbird("export", tmp_path / "none", "--format", "hf", "--out", tmp_path / "out").refused(
        "no such directory"
    )
    error = call("--json", out="mine").refused().json["error"]
    assert error["code"] == "output-exists"
    assert tree(tmp_path) == before


def test_a_file_that_differs_is_not_kept(motherbird, model, tmp_path, monkeypatch):
    from motherbird.export import onnx_attention

    monkeypatch.setattr(onnx_attention, "INVISIBLE", -1.0)  # a mask that hides little
    result = motherbird("export", model, "--format", "onnx", "--out", tmp_path / "out", "--json")
    error = result.refused("exported token_embeddings differs", code=1).json["error"]
    assert error["code"] == "parity" and "onnx/model.onnx, packed" in error["where"]
    assert not list(tmp_path.iterdir())
