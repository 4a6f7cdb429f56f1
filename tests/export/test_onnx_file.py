"""The ONNX file: whole, in two parts where it is large, or with matrices of int8."""

import numpy as np
import pytest
import torch

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from exportables import exportable

from motherbird.export import onnx_file
from motherbird.export.certificate import reference
from motherbird.export.onnx_graph import build
from motherbird.nn import Encoder, MaskedLM


@pytest.fixture
def model(lively):
    return lively(MaskedLM)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def distance(path, model, batch):
    theirs, wanted = (
        onnx_file.runner(path, 0)(batch)["logits"],
        reference(exportable(model))(batch)["logits"],
    )
    return max(np.abs(a - b).max() for a, b in zip(theirs, wanted, strict=True))


def test_one_file(model, documents, tmp_path):
    path = tmp_path / "onnx" / "model.onnx"
    onnx_file.save(build(exportable(model)), path)
    assert files(path.parent) == ["model.onnx"]
    onnx.checker.check_model(path, full_check=True)
    assert distance(path, model, documents(70, 3)) < 2e-5


def test_large_weights_lie_beside_it(model, documents, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "ONE_FILE", 10_000)
    path = tmp_path / "onnx" / "model.onnx"
    onnx_file.save(build(exportable(model)), path)
    assert files(path.parent) == ["model.onnx", "model.onnx_data"]
    assert path.stat().st_size < 150_000 < path.with_name("model.onnx_data").stat().st_size
    onnx.checker.check_model(path, full_check=True)
    assert distance(path, model, documents(70, 3)) < 2e-5
    moved = tmp_path / "elsewhere"
    path.parent.rename(moved)
    assert distance(moved / "model.onnx", model, documents(70, 3)) < 2e-5


def test_int8(model, documents, tmp_path, capfd, recwarn, caplog):
    path, whole = tmp_path / "onnx" / "model_int8.onnx", tmp_path / "whole.onnx"
    onnx_file.save(build(exportable(model)), whole)
    onnx_file.save_int8(build(exportable(model)), path)
    assert files(path.parent) == ["model_int8.onnx"]
    assert capfd.readouterr() == ("", "") and not caplog.records and not list(recwarn)
    tensors = {t.name: t for t in onnx.load(path).graph.initializer}
    quantized = [n for n, t in tensors.items() if t.data_type == onnx.TensorProto.INT8]
    matrices = [n for n in tensors if n.endswith("_quantized")]
    assert len(matrices) == 4 * 4 + 2 and set(matrices) <= set(quantized)  # head and decoder
    floats = [t for t in tensors.values() if t.data_type == onnx.TensorProto.FLOAT]
    wide = [t.name for t in floats if np.prod(t.dims) > 512 * 8]  # larger than a rotary table
    assert wide == ["embeddings.tok_embeddings.weight"]
    assert 2e-5 < distance(path, model, documents(70, 3)) < 0.5


def test_threads_are_those_of_torch(model, tmp_path):
    onnx_file.save(build(exportable(model)), tmp_path / "model.onnx")
    torch.set_num_threads(1)
    options = onnx_file.session(tmp_path / "model.onnx").get_session_options()
    assert options.intra_op_num_threads == 1


def test_bfloat16_weights_become_float32(lively, documents, tmp_path):
    model = lively(Encoder).to(torch.bfloat16)
    onnx_file.save(build(exportable(model)), tmp_path / "model.onnx")
    batch = documents(70, 3)
    theirs = onnx_file.runner(tmp_path / "model.onnx", 0)(batch)["last_hidden_state"]
    wanted = reference(exportable(model.float()))(batch)["last_hidden_state"]
    assert max(np.abs(a - b).max() for a, b in zip(theirs, wanted, strict=True)) < 2e-5
