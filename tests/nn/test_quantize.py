"""int8 models: near to float32, and products that 8 bits do not suit stay as they are."""

import logging

import pytest
import torch

from motherbird import InputError
from motherbird.nn import Encoder, pack
from motherbird.nn.linear import Projection, int8
from motherbird.nn.quantize import error, quantize

pytestmark = pytest.mark.skipif(
    int8.why_not(torch.device("cpu"), torch.float32) is not None, reason="no VNNI, no AMX"
)


@pytest.fixture
def folder(toy, tmp_path):
    Encoder(toy).save(tmp_path / "model")
    return tmp_path / "model"


def products(model):
    return {n: m for n, m in model.named_modules() if isinstance(m, Projection)}


@torch.no_grad()
def test_an_encoder_in_8_bits_is_near(folder):
    exact, fast = Encoder.load(folder, dtype="float32"), Encoder.load(folder, dtype="int8")
    assert all(product.int8 for product in products(fast).values())
    packed = pack([list(range(40)), [7], list(range(300))])
    cosine = torch.cosine_similarity(fast(packed).float(), exact(packed), dim=-1)
    assert 0.995 < cosine.min() and cosine.mean() > 0.999
    assert not torch.equal(fast(packed).float(), exact(packed))


def test_a_product_with_an_outlier_stays(toy, caplog):
    model = Encoder(toy).eval()
    with torch.no_grad():
        model.layers[1].mlp_norm.weight[3] = 3000.0  # one channel far above all others
        model.layers[1].mlp.Wi.weight[:, 3] = 1e-4  # that hardly counts
    with caplog.at_level(logging.INFO, logger="motherbird"):
        kept = quantize(model)
    assert kept == ["layers.1.mlp.Wi"]
    assert {n for n, p in products(model).items() if not p.int8} == set(kept)
    assert "layers.1.mlp.Wi" in caplog.text
    assert not any(p._forward_pre_hooks for p in products(model).values())


@torch.no_grad()
def test_the_error_of_bell_shaped_values():
    layer = Projection(768, (256,), False)
    torch.nn.init.normal_(layer.weight)
    assert 0.005 < error(layer, torch.randn(200, 768)) < 0.02


def test_where_it_cannot_run(folder, monkeypatch):
    monkeypatch.setattr(int8, "why_not", lambda device, dtype: "this CPU has neither VNNI nor AMX")
    with pytest.raises(InputError, match="neither VNNI nor AMX.*use auto"):
        Encoder.load(folder, dtype="int8")


def test_8_bits_do_not_depend_on_the_caller_s_mode(folder):
    fast = Encoder.load(folder, dtype="int8")
    packed = pack([list(range(40)), [7]])
    with torch.no_grad():
        expected = fast(packed)
    assert torch.equal(fast(packed), expected)
    with pytest.raises(InputError, match="cannot be trained"):
        fast.train()


def test_weights_are_saved_as_they_were(folder, tmp_path):
    model = Encoder.load(folder, dtype="int8")
    model(pack([[1, 2, 3]]))
    model.save(tmp_path / "again")
    again = Encoder.load(tmp_path / "again", dtype="stored")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])
