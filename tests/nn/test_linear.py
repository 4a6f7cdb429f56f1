"""The linear layers of the encoder."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import linear

from motherbird.nn import Encoder, pack
from motherbird.nn.encoder import QKV, permute_qkv


@pytest.mark.parametrize("bias", [True, False])
def test_qkv_is_linear_with_its_rows_permuted(bias, toy):
    layer = QKV(replace(toy, attention_bias=bias))
    x = torch.randn(7, toy.hidden_size)
    expected = permute_qkv(linear(x, layer.weight, layer.bias).T, toy.head_dim).T
    torch.testing.assert_close(layer(x), expected)


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
