"""Rotary positions, against numbers worked out in float64 elsewhere."""

import pytest
import torch
from torch import Tensor

from motherbird.nn import Encoder, pack
from motherbird.nn.attention import AttentionPlan
from motherbird.nn.rope import pairs_together, rotate, tables

# theta ** (-k / 32) for a head of 64, by k
INVERSE_FREQUENCIES = {
    10_000.0: {
        0: 1,
        1: 7.498942093e-01,
        2: 5.623413252e-01,
        8: 1.0e-01,
        16: 1.0e-02,
        24: 1.0e-03,
        31: 1.333521432e-04,
    },
    160_000.0: {
        0: 1,
        1: 6.876560219e-01,
        2: 4.728708045e-01,
        8: 5.0e-02,
        16: 2.5e-03,
        24: 1.25e-04,
        31: 9.088846459e-06,
    },
}
SUMS = {10_000.0: 3.997908234, 160_000.0: 3.201578453}


@pytest.mark.parametrize("theta", INVERSE_FREQUENCIES)
def test_angles_of_one_step(theta):
    start, step = tables(torch.tensor([0, 1]), theta, 64)[:, 0]
    angles = step.to(torch.complex128).angle()
    for k, expected in INVERSE_FREQUENCIES[theta].items():
        assert angles[k].item() == pytest.approx(expected, rel=3e-7)
    assert angles.sum().item() == pytest.approx(SUMS[theta], rel=1e-7)
    assert torch.equal(start, torch.ones(32, dtype=torch.complex64))


@pytest.mark.parametrize("theta", INVERSE_FREQUENCIES)
@pytest.mark.parametrize("position", [7, 1000, 8191])
def test_tables_at_a_position(theta, position):
    [table] = tables(torch.tensor([position]), theta, 64)[:, 0]
    exact = position * theta ** (-torch.arange(32, dtype=torch.float64) / 32)
    # A float32 angle of thousands is exact to half a unit in its last place.
    tolerance = 1e-6 + position * 2**-23
    torch.testing.assert_close(table.real.double(), exact.cos(), atol=tolerance, rtol=0)
    torch.testing.assert_close(table.imag.double(), exact.sin(), atol=tolerance, rtol=0)


def test_half_rotation_not_interleaved():
    v = torch.arange(1.0, 9.0, dtype=torch.float64)
    pairs = pairs_together(v, 8)
    assert pairs.tolist() == [1, 5, 2, 6, 3, 7, 4, 8]
    rotated = rotate(pairs.view(1, 1, 8), tables(torch.tensor([3]), 10_000.0, 8)).flatten()
    rotated = rotated.unflatten(0, (4, 2)).T.flatten()  # the pairs apart again
    half = [-1.695592537, 0.137551738, 2.788681600, 3.975982036,
            -4.808842475, 6.323059348, 7.086836737, 8.011963982]  # fmt: skip
    assert rotated.tolist() == pytest.approx(half, abs=2e-6)


def test_rotation_depends_on_the_distance_alone():
    torch.manual_seed(1)
    q, k = torch.randn(2, 1, 3, 64, dtype=torch.float64)

    def product(i, j):
        turned = [rotate(x, tables(torch.tensor([n]), 10_000.0, 64)) for x, n in ((q, i), (k, j))]
        return (turned[0] * turned[1]).sum(-1)

    torch.testing.assert_close(product(5, 2), product(105, 102), atol=1e-4, rtol=0)
    assert (product(5, 2) - product(5, 4)).abs().max() > 1e-2


def test_rotation_in_bfloat16_is_that_in_float32_rounded_once():
    x = torch.randn(5, 2, 64).bfloat16()
    rotary = tables(torch.arange(5) * 100, 160_000.0, 64)
    assert torch.equal(rotate(x, rotary), rotate(x.float(), rotary).bfloat16())


def test_pairs_of_every_head_together():
    weight = torch.arange(16.0)[:, None] * torch.tensor([1.0, 100.0])  # two heads of 8, D = 2
    got = pairs_together(weight, 8)
    assert got[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert torch.equal(got[:, 1], got[:, 0] * 100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rotation_is_the_same_with_and_without_gradients(dtype):
    x = torch.randn(600, 3, 16).to(dtype)  # more rows than are turned at a time
    rotary = tables(torch.arange(600), 10_000.0, 16)
    with_gradients = rotate(x.clone().requires_grad_(), rotary)
    assert torch.equal(rotate(x, rotary), with_gradients.detach())


def test_positions_restart_with_every_document():
    packed = pack([[1] * 4, [1] * 6])
    together = tables(packed.positions, 10_000.0, 8)
    first, second = (tables(torch.arange(n), 10_000.0, 8) for n in (4, 6))
    assert torch.equal(together, torch.cat([first, second]))


def test_tables_stay_float32_in_a_bfloat16_model(toy):
    seen: list[Tensor] = []

    def remember(attention, arguments):
        plan: AttentionPlan = arguments[1]
        seen.append(plan.rotary(attention.theta, attention.head_dim))

    model = Encoder(toy).to(torch.bfloat16)
    for layer in model.layers:
        layer.attn.register_forward_pre_hook(remember)
    packed = pack([list(range(300))])
    assert model(packed).dtype == torch.bfloat16
    for kind, table in zip(toy.layers, seen, strict=True):
        theta = toy.global_rope_theta if kind == "full_attention" else toy.local_rope_theta
        expected = tables(packed.positions, theta, toy.head_dim)
        assert table.dtype == torch.complex64 and torch.equal(table, expected)
