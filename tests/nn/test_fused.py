"""The fused layer against the same layer in torch operations, forward and backward."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from motherbird import EncoderConfig
from motherbird.engine import library
from motherbird.nn import Encoder, fused, pack

CONFIG = EncoderConfig(vocab_size=64, hidden_size=64, intermediate_size=48, num_hidden_layers=4,
                       num_attention_heads=2, max_position_embeddings=512, local_attention=16,
                       pad_token_id=0, bos_token_id=1, cls_token_id=1, sep_token_id=2,
                       eos_token_id=2)  # fmt: skip
GEOMETRIES = {
    "plain": CONFIG,
    "one head of 64": replace(CONFIG, num_attention_heads=1),
    "biases of norms": replace(CONFIG, norm_bias=True),
    **{kind: replace(CONFIG, hidden_activation=kind) for kind in ("gelu_new", "silu", "relu")},
}
LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=6)


def encoder_of(config: EncoderConfig, attention: str = "auto") -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(config, attention)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return encoder


def batch_of(lengths):
    torch.manual_seed(1)
    return pack([torch.randint(0, 64, (n,)).tolist() for n in lengths])


def gradients(encoder, batch, dtype=torch.float32):
    """Return the vectors of a batch and the gradient of each parameter, for a fixed loss."""
    encoder.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        states = encoder(batch)
    torch.manual_seed(2)
    (states * torch.randn(states.shape).to(states.dtype)).sum().backward()
    return [states.detach(), *(p.grad.clone() for p in encoder.parameters() if p.requires_grad)]


def errors(found, expected):
    """Return relative errors; some gradients of documents of one token are 0."""
    least = 1e-3 * max(float(b.norm()) for b in expected)
    return [
        float((a - b).norm() / max(least, b.norm())) for a, b in zip(found, expected, strict=True)
    ]


@given(st.integers(1, 5_000))
@settings(max_examples=50)
def test_products_of_similar_batches_have_few_shapes(tokens):
    rows = fused.padded_rows(tokens)
    assert tokens <= rows <= tokens + max(15, tokens // 16) and rows % 16 == 0
    assert fused.padded_rows(rows) == rows
    if tokens >= 256:
        assert len({fused.padded_rows(n) for n in range(tokens, 2 * tokens)}) <= 18


def is_fused(states: torch.Tensor) -> bool:
    """Return whether a layer of a result's graph is fused."""
    waiting, seen = [states.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "_LayerBackward":
            return True
        waiting += [other for other, _ in node.next_functions]
    return False


@pytest.mark.parametrize("geometry", GEOMETRIES)
@settings(max_examples=10, deadline=None)
@given(lengths=LENGTHS)
def test_it_equals_torch_in_double_precision(geometry, lengths):
    config, batch = GEOMETRIES[geometry], batch_of(lengths)
    encoder = encoder_of(config)
    assert is_fused(encoder(batch))
    expected = gradients(encoder_of(config, "oracle").double(), batch)
    # Rounding decides on which side of the kink of ReLU a value is.
    limit = 3e-4 if geometry == "relu" else 3e-5
    assert max(errors(gradients(encoder, batch), expected)) < limit


@pytest.mark.parametrize("variant", ["portable", "avx2", "avx512", "amx"])
def test_every_variant_of_this_cpu(variant, monkeypatch):
    monkeypatch.setenv(library.VARIABLE, variant)
    library.variant.cache_clear()
    try:
        library.variant()
    except Exception:
        library.variant.cache_clear()
        pytest.skip(f"this CPU cannot run {variant}")
    try:
        batch = batch_of([1, 100, 17, 33])
        expected = gradients(encoder_of(CONFIG, "oracle").double(), batch)
        assert max(errors(gradients(encoder_of(CONFIG), batch), expected)) < 3e-5
    finally:
        library.variant.cache_clear()


@pytest.mark.skipif(not library.variant().has_bf16, reason="this CPU does not compute in bfloat16")
def test_bfloat16_is_as_near_as_torch_operations():
    batch = batch_of([1, 100, 17, 33, 64])
    expected = gradients(encoder_of(CONFIG, "oracle").double(), batch)
    ours = gradients(encoder_of(CONFIG), batch, torch.bfloat16)
    theirs = gradients(encoder_of(CONFIG, "tiled"), batch, torch.bfloat16)
    assert sum(errors(ours, expected)) < 1.1 * sum(errors(theirs, expected))


@pytest.mark.skipif(not library.variant().has_bf16, reason="this CPU does not compute in bfloat16")
def test_weights_that_were_rounded_once_give_the_same_bits():
    batch, encoder = batch_of([5, 30]), encoder_of(CONFIG)
    expected = gradients(encoder, batch, torch.bfloat16)
    rounded = fused.Rounded(encoder, torch.bfloat16)
    for _ in range(2):  # also after the weights have changed
        with rounded:
            found = gradients(encoder, batch, torch.bfloat16)
        assert all(map(torch.equal, found, expected))
        with torch.no_grad():
            encoder.layers[0].mlp.Wi.weight += 1
        expected = gradients(encoder, batch, torch.bfloat16)


def test_frozen_weights_get_no_gradient_and_change_no_other():
    batch, encoder = batch_of([5, 30]), encoder_of(CONFIG)
    every = dict(zip(dict(encoder.named_parameters()), gradients(encoder, batch)[1:], strict=True))
    encoder.embeddings.requires_grad_(False)
    encoder.layers[0].requires_grad_(False)
    encoder.layers[1].attn.Wo.requires_grad_(False)
    some = gradients(encoder, batch)[1:]
    names = [name for name, p in encoder.named_parameters() if p.requires_grad]
    assert len(names) < len(every)
    assert all(torch.equal(every[name], grad) for name, grad in zip(names, some, strict=True))


def test_recomputing_layers_gives_the_same_bits():
    batch, encoder = batch_of([5, 30]), encoder_of(CONFIG).train()
    expected = gradients(encoder, batch)
    encoder.gradient_checkpointing = True
    assert all(map(torch.equal, gradients(encoder, batch), expected))


def test_second_derivatives_are_refused():
    encoder = encoder_of(CONFIG)
    [grad] = torch.autograd.grad(
        encoder(batch_of([5])).sum(), encoder.layers[0].mlp.Wi.weight, retain_graph=True
    )
    assert grad.abs().sum() > 0
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(
            encoder(batch_of([5])).sum(), encoder.layers[0].mlp.Wi.weight, create_graph=True
        )


class Wrapped(nn.Module):
    """Stands for what LoRA puts in place of a linear layer."""

    def __init__(self, inside: nn.Linear) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.inside(x)


def test_what_is_not_fused():
    batch = batch_of([5])
    for change in (
        {"attention_bias": True}, {"mlp_bias": True}, {"hidden_size": 40},
        {"intermediate_size": 50}, {"num_attention_heads": 4}, {"mlp_dropout": 0.1},
        {"attention_dropout": 0.1},
    ):  # fmt: skip
        assert not is_fused(Encoder(replace(CONFIG, **change)).train()(batch)), change
    assert is_fused(Encoder(replace(CONFIG, mlp_dropout=0.1)).eval()(batch))
    assert not is_fused(Encoder(CONFIG, "tiled")(batch))
    assert not is_fused(Encoder(CONFIG).double()(batch))
    replaced = Encoder(CONFIG)
    replaced.layers[2].mlp.Wo = Wrapped(replaced.layers[2].mlp.Wo)
    assert not is_fused(replaced(batch))
    with torch.no_grad():
        assert Encoder(CONFIG)(batch).grad_fn is None


def test_without_a_compiled_engine_torch_operations_are_used(monkeypatch, tmp_path):
    monkeypatch.setattr(library, "LIBRARY", tmp_path / "missing.so")
    library.variant.cache_clear()
    try:
        assert not is_fused(encoder_of(CONFIG)(batch_of([5])))
    finally:
        library.variant.cache_clear()
