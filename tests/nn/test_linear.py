"""Every linear kernel against torch's own, and that it follows the weight."""

import copy
import gc
import pickle
import weakref
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import linear

from motherbird.nn import Encoder, pack
from motherbird.nn import linear as linear_kernels
from motherbird.nn.linear import Projection, int8, onednn

CPU = torch.device("cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 8e-3}  # relative, in the Frobenius norm
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


def backwards(rows):
    return rows.flip(0)


def relative(got, exact):
    return float((torch.cat(list(got), 1).double() - exact).norm() / exact.norm())


def projection(bias=True, dtype=torch.float32, permute_rows=None):
    layer = Projection(48, (64, 32), bias, permute_rows).to(dtype).eval()
    return layer


def exact(layer, x):
    bias = None if layer.bias is None else layer.bias.detach().double()
    return linear(x.double(), layer.weight.detach().double(), bias)


@pytest.fixture(params=[onednn, int8], ids=["onednn", "int8"])
def kernel(request):
    if reason := request.param.why_not(CPU, torch.float32):
        pytest.skip(reason)
    return request.param


@DTYPES
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 16, 700])
@torch.no_grad()
def test_a_packed_product_is_linear(kernel, dtype, bias, rows):
    if reason := kernel.why_not(CPU, dtype):
        pytest.skip(reason)
    layer, x = projection(bias, dtype), torch.randn(rows, 48).to(dtype)
    layer.int8 = kernel is int8
    given = x.clone()
    got = layer(x, kernel)
    assert torch.equal(x, given)
    assert [part.shape for part in got] == [(rows, 64), (rows, 32)]
    assert all(part.dtype == dtype for part in got) and isinstance(
        layer._packed, kernel.PackedLinear
    )
    assert relative(got, exact(layer, x)) < (0.02 if kernel is int8 else TOLERANCE[dtype])


@torch.no_grad()
def test_rows_in_another_order(kernel):
    layer, x = projection(permute_rows=backwards), torch.randn(5, 48)
    layer.int8 = kernel is int8
    expected = exact(layer, x).flip(1)
    assert relative(layer(x, kernel), expected) < 0.02
    layer.train()
    assert relative(layer(x), expected) < 1e-5


def test_without_a_kernel_it_is_torch():
    layer, x = projection(), torch.randn(5, 48)
    torch.cat(layer(x), 1).sum().backward()
    assert layer._packed is None
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(96, 48))


def encoder(toy, **options):
    return Encoder(replace(toy, **options)).eval()


def test_a_kernel_is_chosen_for_inference_alone(toy):
    model = encoder(toy)
    packed = pack([[1, 2, 3]])

    def is_packed():
        return model.layers[0].mlp.Wi._packed is not None

    model(packed)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(packed)
    with torch.no_grad():
        model.train()(packed)
        model.eval()
        copy.deepcopy(model).double().kernels()
    assert not is_packed()
    assert model.kernels().linear is None
    with torch.no_grad():
        assert model.kernels().linear is linear_kernels.choose(CPU, torch.float32)
        model(packed)
    assert is_packed() is (onednn.why_not(CPU, torch.float32) is None)
    for parameter in model.requires_grad_(False).parameters():
        assert not parameter.requires_grad
    assert model.kernels().linear is linear_kernels.choose(CPU, torch.float32)  # no gradient


@pytest.mark.parametrize("int8", [False, True])
def test_a_frozen_encoder_has_gradients_of_its_embeddings(toy, int8):
    """As attribution methods compute them: with a hook, in evaluation mode."""
    model, packed = encoder(toy), pack([[5, 1, 2, 3], [7] * 40])

    def gradient():
        found = []

        def keep(module, arguments, output):
            found.append(output.detach().requires_grad_())
            return found[0]

        hook = model.embeddings.register_forward_hook(keep)
        model(packed).pow(2).sum().backward()
        hook.remove()
        return found[0].grad

    expected = gradient()  # with weights that need gradients, so without packed weights
    model.requires_grad_(False)
    for module in model.modules():
        module.int8 = int8
    assert model.kernels().linear is linear_kernels.choose(CPU, torch.float32)
    torch.testing.assert_close(gradient(), expected)


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
def test_it_follows_the_weight(kernel, change):
    layer, x = projection(), torch.randn(9, 48)
    layer.int8 = kernel is int8
    before = torch.cat(layer(x, kernel), 1)
    change(layer)
    assert relative(layer(x, kernel), exact(layer, x)) < 0.02
    if change is not CHANGES["dtype"]:
        assert (before - torch.cat(layer(x, kernel), 1)).norm() > 0.1 * before.norm()


@torch.no_grad()
def test_a_new_weight_at_an_old_address_is_new():
    """The allocator gives a block that was just freed to the next of its size."""
    if reason := onednn.why_not(CPU, torch.float32):
        pytest.skip(reason)
    layer, x = projection(bias=False), torch.randn(9, 48)
    for _ in range(50):
        layer(x, onednn)
        layer.weight = None
        layer.weight = torch.nn.Parameter(torch.randn(96, 48))
        assert relative(layer(x, onednn), exact(layer, x)) < 1e-5


@torch.no_grad()
def test_an_unchanged_weight_is_packed_once(kernel):
    layer, x = projection(), torch.randn(9, 48)
    layer.int8 = kernel is int8
    layer(x, kernel)
    first = layer._packed
    layer(x[:3], kernel)
    assert layer._packed is first


@torch.no_grad()
def test_copies_and_pickles_prepare_anew(kernel):
    layer, x = projection(), torch.randn(9, 48)
    layer.int8 = kernel is int8
    expected = layer(x, kernel)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert twin._packed is None and twin.int8 == layer.int8
        assert all(map(torch.equal, twin(x, kernel), expected))


def test_reasons():
    for kernel in (onednn, int8):
        assert "not a CPU" in kernel.why_not(torch.device("cuda"), torch.bfloat16)
        assert "float16" in kernel.why_not(CPU, torch.float16)


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
        got = torch.cat(layer(x, int8), 1)
    assert got[1].isnan().all() and got[[0, 2]].isfinite().all()


def test_a_model_is_freed_with_its_last_reference(toy):
    model = encoder(toy)
    with torch.no_grad():
        model(pack([[1, 2, 3]]))
    weight = weakref.ref(model.layers[0].attn.Wqkv.weight)
    gc.disable()
    try:
        del model
        assert weight() is None
    finally:
        gc.enable()


REMEDIES = {
    "a counted write": lambda layer: layer.weight.mul_(-1),
    "training mode": lambda layer: (layer.weight.data.mul_(-1), layer.train(), layer.eval()),
}


@pytest.mark.parametrize("write", REMEDIES.values(), ids=REMEDIES)
@torch.no_grad()
def test_remedies_for_writes_to_data(kernel, write):
    """As the docstring of Projection says: torch does not count a write to ``weight.data``."""
    layer, x = projection(), torch.randn(9, 48)
    layer.int8 = kernel is int8
    layer(x, kernel)
    write(layer)
    assert relative(layer(x, kernel), exact(layer, x)) < 0.02
