"""Dtypes: the default is the fastest, and none is emulated without a warning."""

import logging

import pytest
import torch

from motherbird import InputError
from motherbird.nn import Encoder, MaskedLM

pytestmark = pytest.mark.usefixtures("no_type_checker")

AVX2 = {"architecture": "x86_64", "avx2": True}
BF16 = {**AVX2, "avx512_bf16": True}
AMX = {**AVX2, "amx_bf16": True, "amx_fp16": True}


@pytest.fixture(params=[AVX2, BF16, AMX], ids=["AVX2", "AVX512-BF16", "AMX"])
def cpu(request, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: request.param)
    return request.param


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cls", [Encoder, MaskedLM])
def test_the_default_dtype_is_the_fastest(cls, stored, cpu, toy, small_tokenizer, tmp_path, caplog):
    model = MaskedLM(toy).to(stored)
    model.save(tmp_path / "model", tokenizer=small_tokenizer)
    fastest = "float32" if cpu is AVX2 else "bfloat16"
    with caplog.at_level(logging.WARNING, logger="motherbird"):
        made = [cls.load(tmp_path / "model"), cls.load(tmp_path / "model", dtype="auto")]
    assert "emulates" not in caplog.text
    for one in made:
        assert str(next(one.parameters()).dtype) == f"torch.{fastest}"


@pytest.mark.parametrize(
    ("dtype", "emulated"), [("float32", ()), ("bfloat16", (AVX2,)), ("float16", (AVX2, BF16))]
)
def test_an_emulated_dtype_is_named(dtype, emulated, cpu, toy, tmp_path, caplog):
    Encoder(toy).to(getattr(torch, dtype)).save(tmp_path / "model")
    with caplog.at_level(logging.WARNING, logger="motherbird"):
        Encoder.load(tmp_path / "model", dtype="stored")
    assert (f"this CPU emulates {dtype}" in caplog.text) == (cpu in emulated)


def test_none_is_not_a_dtype(toy, tmp_path):
    Encoder(toy).save(tmp_path / "model")
    with pytest.raises(InputError, match="dtype None"):
        Encoder.load(tmp_path / "model", dtype=None)
