"""The linear layers of the encoder."""

import gc
import weakref

import pytest
import torch
from torch.nn.functional import linear

from motherbird.nn import Encoder, pack
from motherbird.nn.linear import Projection


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("parts", [(96,), (64, 32)])
def test_a_projection_is_linear(bias, parts):
    layer = Projection(48, parts, bias, lambda rows: rows.flip(0))
    x = torch.randn(7, 48)
    got = layer(x)
    assert [part.shape[1] for part in got] == list(parts)
    flipped = layer.bias.flip(0) if bias else None
    torch.testing.assert_close(torch.cat(got, 1), linear(x, layer.weight.flip(0), flipped))


def test_a_model_is_freed_with_its_last_reference(toy):
    model = Encoder(toy).eval()
    with torch.no_grad():
        model(pack([[1, 2, 3]]))
    weight = weakref.ref(model.layers[0].attn.Wqkv.weight)
    gc.disable()
    try:
        del model
        assert weight() is None
    finally:
        gc.enable()
