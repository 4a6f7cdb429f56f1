"""Floating-point operations against counting, and the roofline."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from motherbird import EncoderConfig, presets
from motherbird.core import flops
from motherbird.nn import pack, roofline
from motherbird.nn.attention.oracle import visible


@given(st.integers(1, 60), st.one_of(st.none(), st.integers(1, 40)))
def test_keys_seen_are_those_of_the_oracle(length, window):
    assert flops.keys_seen(length, window) == int(visible(pack([[1] * length]), window).sum())


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_flops_are_what_counting_gives(lengths):
    config = EncoderConfig(
        vocab_size=64, hidden_size=8, intermediate_size=12, num_hidden_layers=4,
        num_attention_heads=2, local_attention=16, pad_token_id=0, cls_token_id=1,
        bos_token_id=1, sep_token_id=2, eos_token_id=2,
    )  # fmt: skip
    packed = pack([[1] * n for n in lengths])
    count = 0
    for kind in config.layers:
        pairs = int(visible(packed, None if kind == "full_attention" else 8).sum())
        count += 4 * 8 * pairs
        count += 2 * sum(lengths) * (24 * 8 + 8 * 8 + 24 * 8 + 8 * 12)
    assert flops.flops(config, lengths) == count


def test_flops_of_base():
    """By hand: 22 layers of 5,013,504 weights; 8 global layers see 512 keys, 14 at most 129."""
    weights = 2 * 22 * (4 * 768 * 768 + 3 * 768 * 1152)
    local = 512 * 129 - 64 * 65
    keys = 4 * 768 * (8 * 512 * 512 + 14 * local)
    assert flops.flops(presets.base(), [512]) == 512 * weights + keys
    assert flops.flops(presets.base(), [512] * 3) == 3 * flops.flops(presets.base(), [512])


def test_the_weights_are_those_of_the_products(toy):
    from motherbird.nn import Encoder

    layer = Encoder(toy).layers[1]
    shapes = {tuple(module.weight.shape) for module in layer.modules()
              if isinstance(module, torch.nn.Linear)}  # fmt: skip
    assert set(flops.matmul_shapes(toy)) == shapes and len(flops.matmul_shapes(toy)) == 4


@pytest.mark.parametrize("dtype", roofline.DTYPES)
def test_the_roofline(dtype, monkeypatch):
    """Operations of the four matmuls over the sum of their shortest times."""
    config = presets.nano()
    times = {(960, 320): 4.0, (320, 320): 1.0, (320, 480): 2.0}
    seen = []

    def best_time(kernel, of, outputs, inputs, seconds):
        assert of == dtype
        seen.append((outputs, inputs))
        return None if kernel is roofline.KERNELS[dtype][0] else times[outputs, inputs]

    monkeypatch.setattr(roofline, "_best_time", best_time)
    flops = 2 * 4096 * 320 * (960 + 320 + 960 + 480)
    assert roofline.roofline(config, dtype, 0.0) == pytest.approx(flops / (4 + 1 + 4 + 2) / 1e12)
    assert len(seen) == 4 * len(roofline.KERNELS[dtype])


def test_no_kernel_no_roofline(monkeypatch):
    def broken(weight, x):
        raise NotImplementedError

    def endless(weight, x):
        return lambda: times.append(1)

    times = []
    monkeypatch.setitem(roofline.KERNELS, "int8", (broken,))
    assert roofline.roofline(presets.nano(), "int8", 0.0) is None
    monkeypatch.setitem(roofline.KERNELS, "int8", (endless,))
    monkeypatch.setattr(roofline, "TOO_SLOW", 0.0)
    assert roofline.roofline(presets.nano(), "int8", 0.0) is None
    assert len(times) == 2  # on few rows, of the first product


@pytest.mark.parametrize(
    ("dtype", "kernel"),
    [(d, kernel) for d in ("float32", "bfloat16") for kernel in roofline.KERNELS[d]],
)  # fmt: skip
def test_a_kernel_computes_the_product(dtype, kernel):
    """What is timed is the product, and not less."""
    weight, x = torch.randn(48, 32), torch.randn(64, 32)
    with torch.inference_mode():
        try:
            y = kernel(*(t.to(getattr(torch, dtype)) for t in (weight, x)))()
        except RuntimeError as error:
            pytest.skip(f"not on this CPU: {error}")
    torch.testing.assert_close(y.float(), x @ weight.T, atol=0.3, rtol=0.05)


@pytest.mark.parametrize("kernel", roofline.KERNELS["int8"], ids=lambda kernel: kernel.__name__)
def test_an_int8_kernel_is_proportional_to_the_product(kernel):
    weight, x = torch.randn(48, 32), torch.randn(64, 32)
    with torch.inference_mode():
        try:
            y = kernel(weight, x)().float().flatten()
        except RuntimeError as error:
            pytest.skip(f"not on this CPU: {error}")
    assert torch.cosine_similarity(y, (x @ weight.T).flatten(), dim=0) > 0.995
