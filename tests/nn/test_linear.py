"""Every way to compute a product against torch's own, and that it follows the weight."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import linear

from motherbird.nn.linear import Projection, int8, onednn

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 8e-3}  # relative, in the Frobenius norm
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def backwards(rows):
    return rows.flip(0)


def relative(got, exact):
    return float((torch.cat(list(got), 1).double() - exact).norm() / exact.norm())


def projection(bias=True, dtype=torch.float32, arrange=None):
    layer = Projection(48, (64, 32), bias, arrange).to(dtype).eval()
    return layer


def exact(layer, x):
    bias = None if layer.bias is None else layer.bias.detach().double()
    return linear(x.double(), layer.weight.detach().double(), bias)


@pytest.fixture(params=[onednn, int8], ids=["onednn", "int8"])
def way(request):
    if reason := request.param.why_not(CPU, torch.float32):
        pytest.skip(reason)
    return request.param


@DTYPES
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 16, 700])
@torch.no_grad()
def test_a_prepared_product_is_linear(way, dtype, bias, rows):
    if reason := way.why_not(CPU, dtype):
        pytest.skip(reason)
    layer, x = projection(bias, dtype), torch.randn(rows, 48).to(dtype)
    layer.int8 = way is int8
    given = x.clone()
    got = layer(x)
    assert torch.equal(x, given)
    assert [part.shape for part in got] == [(rows, 64), (rows, 32)]
    assert all(part.dtype == dtype for part in got) and isinstance(
        layer._prepared, way.PackedLinear
    )
    assert relative(got, exact(layer, x)) < (0.02 if way is int8 else TOLERANCE[dtype])


@torch.no_grad()
def test_rows_in_another_order(way):
    layer, x = projection(arrange=backwards), torch.randn(5, 48)
    layer.int8 = way is int8
    expected = exact(layer, x).flip(1)
    assert relative(layer(x), expected) < 0.02
    layer.train()
    assert relative(layer(x), expected) < 1e-5


def test_gradients_take_the_plain_way():
    layer, x = projection(), torch.randn(5, 48)
    torch.cat(layer(x), 1).sum().backward()
    assert layer._prepared is None
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(96, 48))


@torch.no_grad()
def test_float64_and_autocast_take_the_plain_way():
    layer = projection(dtype=torch.float64)
    layer(torch.randn(2, 48, dtype=torch.float64))
    assert layer._prepared is None
    layer = projection()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(2, 48))[0].dtype == torch.bfloat16
    assert layer._prepared is None


def step(layer):
    layer.weight.grad = torch.randn_like(layer.weight)
    torch.optim.SGD(layer.parameters(), lr=1.0).step()


def other_object(layer):
    layer.weight = torch.nn.Parameter(torch.randn_like(layer.weight))


def other_data(layer):
    layer.weight.data = torch.randn_like(layer.weight)


CHANGES = {
    "step": step,
    "in place": lambda layer: layer.weight.mul_(-1),
    "bias": lambda layer: layer.bias.add_(5),
    "state": lambda layer: layer.load_state_dict(projection().state_dict()),
    "assigned": lambda layer: layer.load_state_dict(projection().state_dict(), assign=True),
    "object": other_object,
    "data": other_data,
    "dtype": lambda layer: layer.to(torch.bfloat16).to(torch.float32),
    "data in training": lambda layer: (layer.train(), layer.weight.data.mul_(-1), layer.eval()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@torch.no_grad()
def test_it_follows_the_weight(way, change):
    layer, x = projection(), torch.randn(9, 48)
    layer.int8 = way is int8
    before = torch.cat(layer(x), 1)
    change(layer)
    assert relative(layer(x), exact(layer, x)) < 0.02
    if change is not CHANGES["dtype"]:
        assert (before - torch.cat(layer(x), 1)).norm() > 0.1 * before.norm()


@torch.no_grad()
def test_a_new_weight_at_an_old_address_is_new():
    """The allocator gives a block that was just freed to the next of its size."""
    layer, x = projection(bias=False), torch.randn(9, 48)
    for _ in range(50):
        layer(x)
        layer.weight = None
        layer.weight = torch.nn.Parameter(torch.randn(96, 48))
        assert relative(layer(x), exact(layer, x)) < 1e-5


@torch.no_grad()
def test_an_unchanged_weight_is_prepared_once(way):
    layer, x = projection(), torch.randn(9, 48)
    layer.int8 = way is int8
    layer(x)
    first = layer._prepared
    layer(x[:3])
    assert layer._prepared is first


@torch.no_grad()
def test_copies_and_pickles_prepare_anew(way):
    layer, x = projection(), torch.randn(9, 48)
    layer.int8 = way is int8
    expected = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin._prepared is None and twin.int8 == layer.int8
        assert all(map(torch.equal, twin(x), expected))


def test_reasons():
    for way in (onednn, int8):
        assert "not a CPU" in way.why_not(torch.device("cuda"), torch.bfloat16)
        assert "float16" in way.why_not(CPU, torch.float16)


@DTYPES
@settings(max_examples=50)
@given(exponent=st.integers(-30, 30), rows=st.sampled_from([1, 3, 513]))
def test_tokens_are_within_half_a_step(dtype, exponent, rows):
    x = (torch.randn(rows, 40) * 2.0**exponent).to(dtype)
    x[0] = 0
    whole, scale = int8.quantize_tokens(x)
    back = (whole.double() - int8.ZERO) * scale.double()
    assert not back[0].any()
    # Half a step, and what the rounding of the scale may push beyond 127.
    assert ((back - x.double()).abs() <= 0.51 * scale.double() + 1e-30).all()
    assert int(whole.min()) >= 1


def test_what_is_not_finite_shows():
    if reason := int8.why_not(CPU, torch.float32):
        pytest.skip(reason)
    layer, x = projection(), torch.randn(3, 48)
    layer.int8 = True
    x[1, 7] = float("nan")
    with torch.no_grad():
        got = torch.cat(layer(x), 1)
    assert got[1].isnan().all() and got[[0, 2]].isfinite().all()
