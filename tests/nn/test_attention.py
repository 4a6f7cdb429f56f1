"""Every backend against the dense statement of the truth, and that against worked numbers."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from motherbird import EncoderConfig, InputError
from motherbird.nn import Encoder, attention, pack
from motherbird.nn.attention import KERNELS, AttentionPlan, oracle, tiled
from motherbird.nn.encoder import Layer

CPU = torch.device("cpu")
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
# Every backend but the truth itself, on every device here that it runs on. All that can are
# compared in float32: it shows the smallest mistake.
COMPARED = [
    pytest.param(name, device, id=f"{name}-{device}")
    for name in KERNELS
    for device in DEVICES
    if name != "oracle" and not KERNELS[name].why_not(torch.device(device), torch.bfloat16)
]
ON_CPU = [name for name in KERNELS if not KERNELS[name].why_not(CPU, torch.float32)]
EDGES = [1, 2, 63, 64, 65, 66, 127, 128, 129, 130, 200]


def plan_of(lengths: list[int]) -> AttentionPlan:
    return AttentionPlan(pack([[0] * n for n in lengths]))


def rows(packed, window) -> str:
    return " ".join("".join(map(str, row)) for row in oracle.visible(packed, window).int().tolist())


# --- who sees whom


def test_one_document_within_a_window_of_two():
    expected = (
        "1110000000 1111000000 1111100000 0111110000 0011111000 "
        "0001111100 0000111110 0000011111 0000001111 0000000111"
    )
    packed = pack([[0] * 10])
    assert rows(packed, 2) == expected
    assert oracle.visible(packed, 2).sum(1).tolist() == [3, 4, 5, 5, 5, 5, 5, 5, 4, 3]
    assert oracle.visible(packed, None).all()


def test_two_documents_never_see_each_other():
    expected = (
        "1110000000 1111000000 1111000000 0111000000 0000111000 "
        "0000111100 0000111110 0000011111 0000001111 0000000111"
    )
    packed = pack([[0] * 4, [0] * 6])
    assert rows(packed, 2) == expected
    assert oracle.visible(packed, 2).sum() == 38
    assert rows(packed, None) == " ".join(["1111000000"] * 4 + ["0000111111"] * 6)


@pytest.mark.parametrize(("n", "pairs"), [(128, 12_352), (1024, 127_936), (8192, 1_052_608)])
def test_pairs_within_the_published_window(n, pairs):
    packed = pack([[0] * n])
    assert int((AttentionPlan(packed).band(64, torch.float32) == 0).sum()) == pairs
    if n < 8192:  # the oracle's T by T is too much there
        seen = oracle.visible(packed, 64)
        assert int(seen.sum()) == pairs
        assert int(seen[n // 2].sum()) == min(129, n)


# --- every backend against the oracle


def outputs(
    attend, qkv: Tensor, towards: Tensor, plan: AttentionPlan, window: int | None
) -> list[Tensor]:
    """What a backend gives: the result, and the gradients of q, k and v towards a direction."""
    leaves = [x.clone().requires_grad_() for x in qkv]
    y = attend(*leaves, plan, window)
    return [y.detach(), *torch.autograd.grad(y, leaves, towards)]


def random_inputs(plan: AttentionPlan, heads: int, head_dim: int, dtype=torch.float32):
    torch.manual_seed(sum(plan.packed.lengths))
    *qkv, towards = torch.randn(4, len(plan.packed.ids), heads, head_dim).to(dtype)
    return torch.stack(qkv), towards


def compare(name, device, lengths, window, heads, head_dim, dtype=torch.float32):
    """A backend's result and gradients against the oracle's, worked out in float32 on the CPU.

    In bfloat16 the truth is about the inputs as they were rounded.
    """
    if KERNELS[name].why_not(torch.device(device), dtype):  # flash knows no float32
        dtype = torch.bfloat16
    atol = 2e-5 if dtype == torch.float32 else 3e-2
    plan = plan_of(lengths)
    qkv, towards = random_inputs(plan, heads, head_dim, dtype)
    expected = outputs(oracle.attend, qkv.float(), towards.float(), plan, window)
    there = AttentionPlan(plan.packed.to(device))
    got = outputs(KERNELS[name].attend, qkv.to(device), towards.to(device), there, window)
    for mine, truth in zip(got, expected, strict=True):
        assert mine.dtype == dtype
        rtol = 2 * torch.finfo(dtype).eps
        torch.testing.assert_close(mine.float().cpu(), truth, atol=atol, rtol=rtol)


@pytest.mark.parametrize(("name", "device"), COMPARED)
@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=7),
    window=st.none() | st.integers(1, 70),
    heads=st.integers(1, 3),
)
def test_any_pack(name, device, lengths, window, heads):
    compare(name, device, lengths, window, heads, 8)


@pytest.mark.parametrize(("name", "device"), COMPARED)
@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_window_edges(name, device, window, dtype):
    compare(name, device, EDGES, window, 2, 64, dtype)


@pytest.mark.parametrize(("name", "device"), COMPARED)
@pytest.mark.parametrize("length", EDGES)
def test_every_edge_alone(name, device, length):
    compare(name, device, [length], 64, 1, 16)


@pytest.mark.parametrize(("name", "device"), COMPARED)
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_whose_powers_leave_the_range(name, device, sign):
    # Scores of 256 and 254 in turn, or minus that: exact in bfloat16, e ** 256 in no dtype of it.
    plan = plan_of([70, 130])
    v = random_inputs(plan, 2, 64, torch.bfloat16)[1]
    q = torch.full(v.shape, 8, dtype=v.dtype)
    k = sign * (4 - (torch.arange(len(v)) % 2) / 32).to(v.dtype)[:, None, None].expand(q.shape)
    expected = oracle.attend(q.float(), k.float(), v.float(), plan, 64)
    there = AttentionPlan(plan.packed.to(device))
    got = KERNELS[name].attend(*(x.to(device) for x in (q, k, v)), there, 64).float().cpu()
    torch.testing.assert_close(got, expected, atol=3e-2, rtol=0)


def in_chunks(lengths: list[int], window: int | None) -> Iterator[tuple[slice, slice, Tensor]]:
    """Queries, the keys that they could see, and which they do see; never T by T."""
    start = 0
    for length in lengths:
        for first in range(0, length, 256):
            last = min(first + 256, length)
            near = 0 if window is None else max(0, first - window)
            far = length if window is None else min(length, last + window)
            distance = torch.arange(first, last)[:, None] - torch.arange(near, far)
            seen = distance.abs() <= (length if window is None else window)
            yield slice(start + first, start + last), slice(start + near, start + far), seen
        start += length


def long_oracle(qkv: Tensor, towards: Tensor, lengths: list[int], window: int | None):
    """`outputs` of dense attention with its backward written out, for rows that fit no T by T."""
    q, k, v = qkv.transpose(1, 2)  # (N, T, H) each
    g = towards.transpose(0, 1)
    y, dq, dk, dv = (torch.zeros_like(q) for _ in range(4))
    scale = q.shape[-1] ** -0.5
    for queries, keys, seen in in_chunks(lengths, window):
        scores = q[:, queries] @ k[:, keys].mT * scale
        p = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        y[:, queries] = p @ v[:, keys]
        dp = g[:, queries] @ v[:, keys].mT
        ds = p * (dp - (p * dp).sum(-1, keepdim=True)) * scale
        dq[:, queries] = ds @ k[:, keys]
        dk[:, keys] += ds.mT @ q[:, queries]
        dv[:, keys] += p.mT @ g[:, queries]
    return [x.transpose(0, 1) for x in (y, dq, dk, dv)]


@pytest.mark.parametrize("window", [None, 64])
@pytest.mark.parametrize("name", ["banded", "tiled"])
def test_base_geometry_at_8192_tokens(name, window):
    lengths = [1, 64, 129, 130, 500, 1000, 1000, 1368, 4000]
    assert sum(lengths) == 8192
    plan = plan_of(lengths)
    qkv, towards = random_inputs(plan, 12, 64)
    got = outputs(KERNELS[name].attend, qkv, towards, plan, window)
    some = [0, 5, 11]  # heads know nothing of each other, and the oracle is slow
    expected = long_oracle(qkv[:, :, some], towards[:, some], lengths, window)
    for mine, truth in zip(got, expected, strict=True):
        torch.testing.assert_close(mine[:, some], truth, atol=2e-5, rtol=1e-5)


def test_the_long_oracle_is_the_oracle():
    lengths = [300, 7, 513]
    plan = plan_of(lengths)
    qkv, towards = random_inputs(plan, 2, 8)
    for window in (None, 64):
        for got, want in zip(
            long_oracle(qkv, towards, lengths, window),
            outputs(oracle.attend, qkv, towards, plan, window),
            strict=True,
        ):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 2])
@pytest.mark.parametrize("name", ["banded", "tiled"])
def test_gradients_are_derivatives(name, window):
    plan = plan_of([4, 1, 3])
    q, k, v = torch.randn(3, 8, 1, 2, dtype=torch.float64, requires_grad=True)
    attend = KERNELS[name].attend
    assert torch.autograd.gradcheck(lambda *qkv: attend(*qkv, plan, window), (q, k, v))


@pytest.mark.parametrize("window", [None, 8])
def test_the_backward_pass_does_not_ask_for_the_number_of_threads_again(window, monkeypatch):
    monkeypatch.setattr(tiled, "SCORES", 2**10)  # so that tiles and chunks depend on the number
    plan = plan_of([90, 200, 300])
    made = []
    for threads in (2, 1):
        torch.set_num_threads(2)
        torch.manual_seed(0)
        q, k, v = (torch.randn(590, 4, 8, requires_grad=True) for _ in range(3))
        y = tiled.attend(q, k, v, plan, window)
        torch.set_num_threads(threads)
        y.square().sum().backward()
        made.append([x.grad for x in (q, k, v)])
    for first, second in zip(*made, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("layer", [0, 1], ids=["global", "local"])
def test_a_double_backward_is_refused_rather_than_wrong(layer, toy):
    encoder = Encoder(toy, attention="tiled")
    x = torch.randn(100, 32, requires_grad=True)
    plan, kernel = plan_of([100]), KERNELS["tiled"]
    y = encoder.layers[layer].attn(x, plan, kernel)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


@pytest.mark.parametrize("number", [0, 1], ids=["global", "local"])
def test_gradients_of_a_whole_layer_are_derivatives(number):
    config = EncoderConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        local_attention=4,
    )  # fmt: skip
    layer = Layer(config, number).double()
    plan = plan_of([5, 63])  # a block of queries ends inside the second document
    x = torch.randn(68, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x: layer(x, plan, KERNELS["banded"]), (x,), fast_mode=True
    )


# --- through the whole encoder


@pytest.fixture
def encoder(toy):
    return Encoder(toy).eval()


def documents(lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(900, (n,), generator=generator).tolist() for n in lengths]


@torch.no_grad()
def test_packed_equals_one_by_one(encoder):
    docs = documents([40, 1, 17, 200, 40, 9, 8, 63])
    together = encoder(pack(docs))
    for got, doc in zip(together.split([len(d) for d in docs]), docs, strict=True):
        torch.testing.assert_close(got, encoder(pack([doc])), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_order_of_documents_changes_nothing(encoder):
    docs = documents([40, 1, 17, 200, 40, 9, 8, 63])
    lengths = [len(d) for d in docs]
    expected = encoder(pack(docs)).split(lengths)
    for order in ([7, 6, 5, 4, 3, 2, 1, 0], [4, 3, 1, 0, 2, 7, 5, 6]):
        got = encoder(pack([docs[i] for i in order])).split([lengths[i] for i in order])
        for i, x in zip(order, got, strict=True):
            torch.testing.assert_close(x, expected[i], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_document_is_blind_to_what_lies_beside_it(encoder):
    doc, *others = documents([50, 30, 30])
    with_one, with_other = (encoder(pack([other, doc]))[30:] for other in others)
    assert torch.equal(with_one, with_other)


@torch.no_grad()
def test_backends_agree_through_the_encoder(toy, encoder):
    packed = pack(documents([40, 1, 17, 200]))
    weights = encoder.state_dict()
    for name in ON_CPU:
        other = Encoder(toy, attention=name).eval()
        other.load_state_dict(weights)
        torch.testing.assert_close(other(packed), encoder(packed), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_local_layer_reaches_no_further_than_its_window(toy):
    config = EncoderConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=2, local_attention=16, layer_types=("sliding_attention",),
        pad_token_id=0, bos_token_id=0, eos_token_id=0, cls_token_id=0, sep_token_id=0,
    )  # fmt: skip
    model = Encoder(config).eval()
    ids = [1] * 100
    changed = [*ids[:50], 2, *ids[51:]]
    difference = (model(pack([ids])) - model(pack([changed]))).abs().amax(1)
    assert difference.nonzero().flatten().tolist() == list(range(50 - 8, 50 + 8 + 1))


# --- choosing


def test_choice_is_logged_once(caplog):
    attention.choose.cache_clear()
    with caplog.at_level(logging.INFO, logger="motherbird"):
        for _ in range(3):
            assert attention.choose("auto", CPU, torch.float32) is KERNELS["tiled"]
    assert len(caplog.records) == 1
    assert "tiled" in caplog.text and "cpu float32" in caplog.text


def test_choice_by_name():
    for name in ON_CPU:
        assert attention.choose(name, CPU, torch.float32) is KERNELS[name]


def test_a_choice_that_cannot_run_here_says_why():
    with pytest.raises(InputError, match="flash: the device is cpu, not a CUDA GPU"):
        attention.choose("flash", CPU, torch.bfloat16)


@pytest.mark.skipif("cuda" not in DEVICES, reason="there is no CUDA GPU")
def test_the_choice_on_a_gpu():
    there = torch.device("cuda")
    assert attention.choose("auto", there, torch.bfloat16) is KERNELS["flash"]
    assert attention.choose("auto", there, torch.float32) is KERNELS["banded"]


@pytest.mark.parametrize(
    ("lengths", "wanted"),
    [
        ([3, 3000, 2048, 1], [([0, 3], 3), ([0, 3000], 3000), ([0, 2048], 2048), ([0, 1], 1)]),
        ([2047, 1, 7], [([0, 2047, 2048, 2055], 2047)]),
        ([2048], [([0, 2048], 2048)]),
    ],
)  # fmt: skip
def test_a_long_document_is_a_span_of_its_own(lengths, wanted):
    found = plan_of(lengths).spans
    assert [(starts.tolist(), longest) for _, starts, longest in found] == wanted
    assert [size for size, _, _ in found] == [starts[-1] for starts, _ in wanted]


@pytest.mark.skipif("cuda" not in DEVICES, reason="there is no CUDA GPU")
@pytest.mark.parametrize("width", [12, 264])
def test_flash_with_heads_that_its_kernel_does_not_know(width):
    compare("flash", "cuda", [70, 130], 64, 2, width)


@pytest.mark.skipif("cuda" not in DEVICES, reason="there is no CUDA GPU")
@pytest.mark.parametrize("in_fixed_order", [False, True])
@pytest.mark.parametrize("window", [None, 64])
def test_flash_at_base_geometry_and_8192_tokens(window, in_fixed_order):
    lengths = [4000, 64, 1000, 130, 500, 129, 1000, 1, 1368]
    qkv, towards = random_inputs(plan_of(lengths), 12, 64, torch.bfloat16)
    there = AttentionPlan(plan_of(lengths).packed.to("cuda"))
    torch.use_deterministic_algorithms(in_fixed_order)
    try:
        got = outputs(KERNELS["flash"].attend, qkv.cuda(), towards.cuda(), there, window)
    finally:
        torch.use_deterministic_algorithms(False)
    some = [0, 5, 11]
    expected = long_oracle(qkv[:, :, some].float(), towards[:, some].float(), lengths, window)
    for mine, truth in zip(got, expected, strict=True):
        torch.testing.assert_close(mine[:, some].float().cpu(), truth, atol=5e-2, rtol=2e-2)


@pytest.mark.parametrize("name", ["fast", "", "AUTO"])
def test_unknown_names_are_refused(name, toy):
    with pytest.raises(InputError, match="auto, flash, tiled, banded or oracle"):
        attention.choose(name, CPU, torch.float32)
    with pytest.raises(InputError, match="auto, flash, tiled, banded or oracle"):
        Encoder(toy, attention=name)


# --- machines with less


def test_the_same_on_a_machine_with_avx2_only():
    limits = {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
    command = [
        sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__,
        "-k", "test_window_edges or packed_equals_one_by_one",
    ]  # fmt: skip
    done = subprocess.run(command, env=os.environ | limits, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert f"{4 * len(COMPARED) + 1} passed" in done.stdout
