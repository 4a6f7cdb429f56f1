"""Initial weights: the table of deviations, and a larger model from a smaller one."""

import math
from dataclasses import replace

import pytest
import torch

from motherbird import EncoderConfig, InputError, presets
from motherbird.nn import MaskedLM, SequenceClassifier
from motherbird.nn.init import _wrap, layer_map, tile

# What is left of a deviation of 1 when a normal distribution is cut at 2.
CUT_AT_2 = 0.8796


@pytest.fixture
def wide():
    """Few layers, but matrices large enough to measure a deviation."""
    return EncoderConfig(
        vocab_size=1024, hidden_size=192, intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=3, pad_token_id=None, bos_token_id=None, eos_token_id=None,
        cls_token_id=None, sep_token_id=None, norm_bias=True, attention_bias=True,
        mlp_bias=True, classifier_bias=True,
    )  # fmt: skip


# --- from chance


@pytest.mark.parametrize(
    ("name", "layers", "expected"),
    [("base", 22, 0.0030151), ("large", 28, 0.0026726)],
)
def test_what_writes_to_the_residual_stream_shrinks_with_depth(name, layers, expected):
    config = getattr(presets, name)()
    assert config.num_hidden_layers == layers
    assert config.initializer_range / math.sqrt(2 * layers) == pytest.approx(expected, rel=1e-4)
    # Measured on a model of that depth that fits into a test.
    nothing = dict.fromkeys(f"{role}_token_id" for role in ("pad", "bos", "eos", "cls", "sep"))
    small = replace(
        config,
        vocab_size=64,
        hidden_size=64,
        intermediate_size=64,
        num_attention_heads=2,
        **nothing,
    )
    state = MaskedLM(small).state_dict()
    for matrix in ("attn.Wo", "mlp.Wo"):
        weights = torch.cat(
            [state[f"model.layers.{i}.{matrix}.weight"].flatten() for i in range(layers)]
        )
        assert weights.std().item() == pytest.approx(CUT_AT_2 * expected, rel=0.02)


def test_the_table(wide):
    model = MaskedLM(replace(wide, tie_word_embeddings=False))
    residual, final = 0.02 / math.sqrt(2 * 2), 192**-0.5
    deviations = {
        "model.embeddings.tok_embeddings.weight": 0.02,
        "head.dense.weight": 0.02,
        "decoder.weight": final,
    }
    for i in range(2):
        deviations |= {
            f"model.layers.{i}.attn.Wqkv.weight": 0.02,
            f"model.layers.{i}.attn.Wo.weight": residual,
            f"model.layers.{i}.mlp.Wi.weight": 0.02,
            f"model.layers.{i}.mlp.Wo.weight": residual,
        }
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            std = deviations.pop(name)
            assert parameter.std().item() == pytest.approx(CUT_AT_2 * std, rel=0.02), name
            assert parameter.mean().abs() < 0.02 * std, name
            assert 1.9 * std < parameter.abs().max() <= 2 * std, name
        else:
            expected = 1.0 if name.endswith("norm.weight") else 0.0
            assert (parameter == expected).all(), name
    assert not deviations


def test_a_classifier_starts_small_too(wide):
    weight = SequenceClassifier(wide, tuple(map(str, range(300)))).classifier.weight
    assert weight.std().item() == pytest.approx(CUT_AT_2 * 192**-0.5, rel=0.02)


def test_the_seed_decides(wide):
    torch.manual_seed(7)
    first = MaskedLM(wide).state_dict()
    torch.manual_seed(7)
    second = MaskedLM(wide).state_dict()
    third = MaskedLM(wide).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    name = "model.layers.1.mlp.Wi.weight"
    assert not torch.equal(first[name], third[name])


# --- from a smaller model


def test_layer_map_from_base_to_large():
    base, large = presets.base(), presets.large()
    sources = layer_map(base, large)
    for kind, expected in (
        ("full_attention", [0, 1, 2, 2, 3, 4, 5, 6, 6, 7]),
        ("sliding_attention", [0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 9, 9, 10, 11, 12, 12, 13]),
    ):
        of_kind = [i for i, k in enumerate(base.layers) if k == kind]
        assert [
            of_kind.index(s) for s, k in zip(sources, large.layers, strict=True) if k == kind
        ] == expected


def test_layer_map_to_itself_is_the_identity():
    assert layer_map(presets.large(), presets.large()) == list(range(28))


def test_layer_map_needs_every_kind(toy):
    only_global = replace(toy, global_attn_every_n_layers=1)
    with pytest.raises(InputError, match="sliding_attention"):
        layer_map(only_global, toy)


def test_spread_keeps_the_old_one_in_the_centre():
    old = torch.arange(12).view(3, 4)
    assert _wrap(_wrap(old, 0, 5, 1), 1, 7, 1).tolist() == [
        [11, 8, 9, 10, 11, 8, 9],
        [3, 0, 1, 2, 3, 0, 1],
        [7, 4, 5, 6, 7, 4, 5],
        [11, 8, 9, 10, 11, 8, 9],
        [3, 0, 1, 2, 3, 0, 1],
    ]
    assert _wrap(torch.arange(4), 0, 7, 1).tolist() == [3, 0, 1, 2, 3, 0, 1]


@pytest.fixture
def pair(toy):
    """A small model, and a larger one made from it: width 32 to 64, GLU 48 to 80, 4 to 7 layers."""
    new = replace(
        toy, hidden_size=64, intermediate_size=80, num_hidden_layers=7, num_attention_heads=4
    )
    return toy, new, MaskedLM(toy), MaskedLM(new)


def center(new: int, old: int) -> torch.Tensor:
    """The old index of every new one."""
    return (torch.arange(new) - (new - old) // 2) % old


def test_every_tensor_of_a_tiled_model(pair):
    old, new, smaller, larger = pair
    with torch.no_grad():  # a mark of its own for every number of the small model
        for number, parameter in enumerate(smaller.parameters()):
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter) + number * 10**5)
    tile(smaller, larger, old, new)
    a, b = smaller.state_dict(), larger.state_dict()
    width, glu = center(64, 32), center(80, 48)
    heads = center(64, 32)  # by whole heads: one head of 16 moves in front
    assert (heads.view(4, 16) % 16 == torch.arange(16)).all()

    for name in ("model.embeddings.norm.weight", "model.final_norm.weight", "head.norm.weight"):
        assert torch.equal(b[name], a[name][width])
    embedding = "model.embeddings.tok_embeddings.weight"
    assert torch.equal(b[embedding], a[embedding][:, width])
    assert torch.equal(b["head.dense.weight"], a["head.dense.weight"][width][:, width])
    assert torch.equal(b["decoder.bias"], a["decoder.bias"])

    # Global layers 0, 3 of the small model to 0, 3, 6; local ones 1, 2 to 1, 2, 4, 5.
    sources = [0, 1, 1, 3, 2, 2, 3]
    assert sources == layer_map(old, new)
    for i, source in enumerate(sources):
        here, there = f"model.layers.{i}.", f"model.layers.{source}."
        q, k, v = b[here + "attn.Wqkv.weight"].chunk(3)
        for mine, theirs in zip((q, k, v), a[there + "attn.Wqkv.weight"].chunk(3), strict=True):
            assert torch.equal(mine, theirs[heads][:, width])
        wo = a[there + "attn.Wo.weight"]
        assert torch.equal(b[here + "attn.Wo.weight"], wo[width][:, heads])
        for mine, theirs in zip(
            b[here + "mlp.Wi.weight"].chunk(2), a[there + "mlp.Wi.weight"].chunk(2), strict=True
        ):
            assert torch.equal(mine, theirs[glu][:, width])
        # Units of the GLU stay paired with their columns of the way out.
        wo = a[there + "mlp.Wo.weight"]
        assert torch.equal(b[here + "mlp.Wo.weight"], wo[width][:, glu])
        assert torch.equal(b[here + "mlp_norm.weight"], a[there + "mlp_norm.weight"][width])


def test_a_layer_from_layer_0_gets_an_attention_norm_of_ones(toy):
    # 4 layers are global, local, local, global; 10 take their global ones from 0, 0 or 3, 3.
    new = replace(toy, num_hidden_layers=10)
    smaller, larger = MaskedLM(toy), MaskedLM(new)
    with torch.no_grad():
        for name, parameter in smaller.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(5.0)
        for name, parameter in larger.named_parameters():
            if name.endswith("norm.weight"):
                parameter.fill_(7.0)
    tile(smaller, larger, toy, new)
    from_first = [i for i, source in enumerate(layer_map(toy, new)) if source == 0 and i > 0]
    assert from_first
    state = larger.state_dict()
    for i in range(1, 10):
        expected = 1.0 if i in from_first else 5.0
        assert (state[f"model.layers.{i}.attn_norm.weight"] == expected).all()


def test_a_model_of_the_same_shape_becomes_the_same_model(toy):
    smaller, larger = MaskedLM(toy), MaskedLM(toy)
    tile(smaller, larger, toy, toy)
    for name, tensor in smaller.state_dict().items():
        assert torch.equal(larger.state_dict()[name], tensor)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 16, "num_attention_heads": 1},
        {"intermediate_size": 47},
        {"num_hidden_layers": 3},
        {"vocab_size": 2048},
        {"num_attention_heads": 4},  # heads of 8 instead of 16
        {"norm_bias": True},
        {"tie_word_embeddings": False},
    ],
    ids=str,
)
def test_what_cannot_be_tiled_is_refused_before_anything_is_written(toy, changes):
    new = replace(toy, **changes)
    larger = MaskedLM(new)
    before = {name: tensor.clone() for name, tensor in larger.state_dict().items()}
    with pytest.raises(InputError) as caught:
        tile(MaskedLM(toy), larger, toy, new)
    named = {"num_attention_heads": "head_dim"} if len(changes) == 1 else {}
    for name in changes:
        assert named.get(name, name) in str(caught.value)
    assert all(torch.equal(before[name], t) for name, t in larger.state_dict().items())
