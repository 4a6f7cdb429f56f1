"""Configurations: ours, and every dialect of config.json that the family is published in."""

import inspect
import json
import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from motherbird import EncoderConfig, presets
from motherbird.core import hf_config
from motherbird.core.config import FIELDS, every_nth_global
from motherbird.errors import InputError
from motherbird.nn import Encoder, MaskedLM

FULL, LOCAL = "full_attention", "sliding_attention"
MIXED = (FULL, LOCAL, FULL, FULL, LOCAL)  # no "every n-th layer" gives this


@pytest.fixture(autouse=True)
def _no_type_checker_before_ours(monkeypatch):
    # A user has none: EncoderConfig has to refuse wrong types itself, and takes an int as a float.
    monkeypatch.setattr(EncoderConfig, "__init__", inspect.unwrap(EncoderConfig.__init__))


def parameters(cls, config) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in cls(config).parameters())


# --- presets


@pytest.mark.parametrize("name", ["base", "large", "mini", "nano"])
def test_last_layer_of_every_preset_is_global(name):
    config = getattr(presets, name)()
    assert (config.num_hidden_layers - 1) % 3 == 0
    assert config.layers[-1] == FULL
    assert config.head_dim == 64
    assert config.vocab_size % 64 == 0
    assert config.half_window == 64


@pytest.mark.parametrize(
    ("name", "shape", "global_layers"),
    [
        ("base", (768, 1152, 22, 12), [0, 3, 6, 9, 12, 15, 18, 21]),
        ("large", (1024, 2624, 28, 16), [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]),
    ],
)
def test_published_shapes(name, shape, global_layers):
    config = getattr(presets, name)()
    assert shape == (
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        config.num_attention_heads,
    )
    assert [i for i, kind in enumerate(config.layers) if kind == FULL] == global_layers
    assert (config.global_rope_theta, config.local_rope_theta) == (160_000, 10_000)
    assert (config.vocab_size, config.max_position_embeddings) == (50_368, 8_192)
    assert (config.cls_token_id, config.sep_token_id, config.pad_token_id) == (50281, 50282, 50283)
    assert config.classifier_pooling == "mean"


@pytest.mark.parametrize(
    ("name", "encoder", "masked_lm"),
    [("base", 149_014_272, 149_655_232), ("large", 394_781_696, 395_881_664)],
)
def test_published_parameter_counts(name, encoder, masked_lm):
    config = getattr(presets, name)()
    assert parameters(Encoder, config) == encoder
    assert parameters(MaskedLM, config) == masked_lm


@pytest.mark.parametrize(("name", "millions"), [("mini", 36), ("nano", 17)])
def test_our_presets_have_the_size_that_they_state(name, millions):
    assert round(parameters(Encoder, getattr(presets, name)()) / 1e6) == millions


# --- what is impossible


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vocab_size": 0}, "vocab_size"),
        ({"vocab_size": "many"}, "vocab_size = 'many' is not a whole number"),
        ({"vocab_size": True}, "vocab_size"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ({"num_hidden_layers": -1}, "num_hidden_layers"),
        ({"hidden_size": 770}, "not divisible by num_attention_heads = 12"),
        ({"hidden_size": 36}, "head dimension 3 is odd"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"local_attention": 127}, "use 126 or 128"),
        ({"local_attention": 0}, "local_attention"),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers"),
        ({"layer_types": (FULL,)}, "layer_types has 1 entries"),
        ({"layer_types": ("linear",) * 22}, "layer_types"),
        ({"layer_types": ["linear"] * 22}, "layer_types.0 = 'linear' is not one of"),
        ({"hidden_activation": "swish"}, "hidden_activation"),
        ({"classifier_pooling": "max"}, "one of cls, mean"),
        ({"mlp_dropout": 1.0}, "mlp_dropout"),
        ({"mlp_dropout": math.nan}, "mlp_dropout"),
        ({"global_rope_theta": 0.0}, "global_rope_theta"),
        ({"local_rope_theta": -1}, "local_rope_theta"),
        ({"norm_eps": math.inf}, "norm_eps"),
        ({"norm_eps": 10**400}, "norm_eps"),  # valid JSON, and no float
        ({"norm_bias": 1}, "norm_bias"),
        ({"pad_token_id": 50_368}, "pad_token_id = 50368 is outside"),
        ({"cls_token_id": -1}, "cls_token_id"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_impossible_values_are_refused(changes, says):
    with pytest.raises(InputError, match=says):
        EncoderConfig(**changes)


def test_all_impossible_values_are_named_at_once():
    with pytest.raises(InputError) as caught:
        EncoderConfig(vocab_size=0, hidden_size=770, local_attention=5, mlp_dropout=2.0)
    for name in ("vocab_size", "hidden_size", "local_attention", "mlp_dropout", "pad_token_id"):
        assert name in str(caught.value)


# --- layer types


@given(st.integers(1, 30), st.integers(1, 30))
def test_every_nth_global(layers, n):
    kinds = every_nth_global(layers, n)
    assert [i for i, kind in enumerate(kinds) if kind == FULL] == list(range(0, layers, n))


def test_layer_types_have_one_spelling():
    spelt = EncoderConfig(num_hidden_layers=4, layer_types=(FULL, LOCAL, LOCAL, FULL))
    assert spelt == EncoderConfig(num_hidden_layers=4)
    assert spelt.layer_types is None
    assert spelt.layers == (FULL, LOCAL, LOCAL, FULL)


def test_layer_types_may_be_a_list():
    assert EncoderConfig(layer_types=[FULL] * 22) == EncoderConfig(layer_types=(FULL,) * 22)


def test_layer_types_of_another_rhythm_have_that_spelling_too():
    spelt = EncoderConfig(num_hidden_layers=4, layer_types=(FULL, LOCAL, FULL, LOCAL))
    assert spelt == EncoderConfig(num_hidden_layers=4, global_attn_every_n_layers=2)


def test_layer_types_without_a_rhythm_stay():
    config = EncoderConfig(num_hidden_layers=5, layer_types=MIXED)
    assert config.layer_types == config.layers == MIXED


# --- config.json

NEUTRAL = {
    "architectures": ["ModernBertForMaskedLM"],
    "model_type": "modernbert",
    "vocab_size": 1024,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "local_attention": 16,
    "classifier_pooling": "mean",
    "pad_token_id": 3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
OLD = {
    "global_attn_every_n_layers": 2,
    "global_rope_theta": 80000.0,
    "local_rope_theta": 5000.0,
    "reference_compile": None,
    "repad_logits_with_grad": False,
    "position_embedding_type": "absolute",
    "torch_dtype": "float32",
}
NEW = {
    "layer_types": [FULL, LOCAL, FULL, LOCAL, FULL],
    "rope_parameters": {
        FULL: {"rope_type": "default", "rope_theta": 80000.0},
        LOCAL: {"rope_type": "default", "rope_theta": 5000.0},
    },
    "dtype": "float32",
}


def read(*parts, **changes) -> EncoderConfig:
    raw = {}
    for part in (*parts, changes):
        raw |= part
    return hf_config.read(json.loads(json.dumps(raw)), "config.json")


def test_the_three_dialects_agree():
    old, new, both = read(NEUTRAL, OLD), read(NEUTRAL, NEW), read(NEUTRAL, OLD, NEW)
    assert old == new == both
    assert old.layers == tuple(NEW["layer_types"])
    assert (old.global_rope_theta, old.local_rope_theta) == (80_000, 5_000)
    assert (old.hidden_size, old.half_window, old.pad_token_id) == (32, 8, 3)


def test_what_a_file_does_not_say_is_what_transformers_assumes():
    config = hf_config.read({"model_type": "modernbert", "num_hidden_layers": 4}, "config.json")
    assert config.classifier_pooling == "cls"  # although the published models say "mean"
    assert (config.global_rope_theta, config.local_rope_theta) == (160_000, 10_000)
    assert config.layers == (FULL, LOCAL, LOCAL, FULL)
    assert config.pad_token_id == 50_283


def test_token_ids():
    config = read(NEUTRAL, OLD, bos_token_id=None, eos_token_id=[7, 2])
    assert config.bos_token_id is None
    assert config.eos_token_id == 7  # of several the first


drawn = {
    "num_attention_heads": st.integers(1, 4),
    "head_dim": st.integers(1, 8).map(lambda half: 2 * half),
    "layer_types": st.lists(st.sampled_from([FULL, LOCAL]), min_size=1, max_size=7),
    "global_attn_every_n_layers": st.integers(1, 5),
    "local_attention": st.integers(1, 200).map(lambda half: 2 * half),
    "global_rope_theta": st.floats(1.0, 1e6),
    "local_rope_theta": st.floats(1.0, 1e6),
    "classifier_pooling": st.sampled_from(["cls", "mean"]),
    "tie_word_embeddings": st.booleans(),
    "norm_bias": st.booleans(),
    "decoder_bias": st.booleans(),
    "mlp_dropout": st.floats(0, 0.5),
    "norm_eps": st.sampled_from([1e-5, 1e-12]),
    "pad_token_id": st.none() | st.integers(0, 50_367),
}


def built(head_dim, layer_types, **values) -> EncoderConfig:
    return EncoderConfig(
        hidden_size=head_dim * values["num_attention_heads"],
        num_hidden_layers=len(layer_types),
        layer_types=tuple(layer_types),
        **values,
    )


def written_and_read(config: EncoderConfig) -> EncoderConfig:
    raw = hf_config.write(config, "ModernBertModel", "float32", ())
    return hf_config.read(json.loads(json.dumps(raw)), "config.json")


@settings(deadline=None)
@given(st.fixed_dictionaries(drawn))
def test_write_then_read_gives_the_same_model(values):
    config = built(**values)
    again = written_and_read(config)
    assert again.layers == config.layers
    rhythm = ("layer_types", "global_attn_every_n_layers")  # together they are `layers`
    for name in set(FIELDS) - set(rhythm):
        assert getattr(again, name) == getattr(config, name), name


@settings(deadline=None)
@given(st.fixed_dictionaries(drawn))
def test_write_then_read_gives_an_equal_config(values):
    assert written_and_read(built(**values)) == built(**values)


def test_what_is_written_is_the_superset():
    config = read(NEUTRAL, OLD)
    raw = hf_config.write(config, "ModernBertForMaskedLM", "bfloat16", ())
    for key in (*OLD.keys() - {"repad_logits_with_grad", "position_embedding_type"}, *NEW):
        assert key in raw
    assert raw["rope_parameters"] == NEW["rope_parameters"]
    assert raw["layer_types"] == NEW["layer_types"]
    assert raw["global_attn_every_n_layers"] == 2
    assert raw["layer_norm_eps"] == raw["norm_eps"] == 1e-5
    assert raw["torch_dtype"] == raw["dtype"] == "bfloat16"
    assert raw["reference_compile"] is False
    assert "id2label" not in raw and "num_labels" not in raw


def test_transformers_reads_what_we_write(tmp_path):
    from transformers import AutoConfig

    config = read(NEUTRAL, OLD)
    raw = hf_config.write(config, "ModernBertModel", "float32", ())
    (tmp_path / "config.json").write_text(json.dumps(raw))
    theirs = AutoConfig.from_pretrained(tmp_path)
    assert tuple(theirs.layer_types) == config.layers
    assert theirs.rope_parameters[FULL]["rope_theta"] == config.global_rope_theta
    assert theirs.rope_parameters[LOCAL]["rope_theta"] == config.local_rope_theta
    assert hf_config.read(theirs.to_dict(), "theirs") == config


def test_inexpressible_layer_types_are_written_without_the_old_key_and_with_one_warning(caplog):
    config = EncoderConfig(num_hidden_layers=5, layer_types=MIXED)
    with caplog.at_level(logging.WARNING, logger="motherbird"):
        raw = hf_config.write(config, "ModernBertModel", "float32", ())
    assert "global_attn_every_n_layers" not in raw
    assert raw["layer_types"] == list(MIXED)
    assert len(caplog.records) == 1 and "layer_types" in caplog.text
    assert hf_config.read(raw, "config.json").layers == MIXED


def test_expressible_layer_types_are_written_with_the_old_key_and_without_warning(caplog):
    config = EncoderConfig(num_hidden_layers=4, layer_types=(FULL, LOCAL, FULL, LOCAL))
    with caplog.at_level(logging.WARNING, logger="motherbird"):
        raw = hf_config.write(config, "ModernBertModel", "float32", ())
    assert raw["global_attn_every_n_layers"] == 2
    assert not caplog.records


@pytest.mark.parametrize("nothing", [-1, None, -1.0])
def test_no_local_theta_means_that_of_the_global_layers(nothing):
    config = read(NEUTRAL, OLD, local_rope_theta=nothing)
    assert config.local_rope_theta == config.global_rope_theta == 80_000
    same = {kind: {"rope_type": "default", "rope_theta": 80000.0} for kind in (FULL, LOCAL)}
    both = read(NEUTRAL, OLD, NEW, local_rope_theta=nothing, rope_parameters=same)
    assert both == config


def test_research_keys():
    research = {
        **{key: value for key, value in NEUTRAL.items() if key != "local_attention"},
        "architectures": ["FlexBertForMaskedLM"],
        "model_type": "flex_bert",
        "sliding_window": 16,
        "rotary_emb_base": 80000.0,
        "local_attn_rotary_emb_base": -1,
        "global_attn_every_n_layers": 2,
    }
    config = read(research)
    assert config == read(NEUTRAL, OLD, local_rope_theta=80000.0)
    assert read(research, local_attn_rotary_emb_base=5000.0) == read(NEUTRAL, OLD)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"global_rope_theta": 10000.0}, "global_rope_theta = 10000.0 .* disagree"),
        ({"local_rope_theta": 80000.0}, "local_rope_theta = 80000.0 .* disagree"),
        ({"global_attn_every_n_layers": 3}, "global_attn_every_n_layers = 3 .* disagree"),
        ({"auto_map": {"AutoModel": "modeling.Mine"}}, "auto_map"),
        ({"model_type": "bert"}, "'bert'"),
        ({"model_type": None}, "config.json states no model_type"),
        ({"model_type": ["modernbert"]}, "is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantiz"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        (
            {"rope_parameters": {FULL: {"rope_type": "yarn", "rope_theta": 80000.0}}},
            "'yarn' of full_attention",
        ),
        ({"rope_parameters": {LOCAL: [10000.0]}}, "rope_parameters"),
        # One flat object, as other architectures write it, says nothing about our two kinds.
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, "rope_parameters"),
        ({"rope_parameters": "default"}, "rope_parameters"),
        ({"layer_types": FULL}, "layer_types"),
        ({"layer_types": [FULL]}, "layer_types|num_hidden_layers"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers"),
        ({"num_hidden_layers": "22"}, "num_hidden_layers"),
        ({"hidden_size": -32}, "hidden_size"),
        ({"norm_eps": "1e-5"}, "norm_eps"),
        ({"hidden_activation": "mish"}, "hidden_activation"),
        ({"eos_token_id": []}, "eos_token_id"),
        ({"eos_token_id": ["2"]}, "eos_token_id"),
        ({"architectures": 5}, "architectures"),
        ({"architectures": {"0": "ModernBertModel"}}, "architectures"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_cannot_be_or_disagrees_is_refused(changes, says):
    with pytest.raises(InputError, match=says) as caught:
        read(NEUTRAL, OLD, NEW, **changes)
    assert "config.json" in str(caught.value)
