"""motherbird info: a model on paper and as JSON, and this machine."""

import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

import motherbird as package
from motherbird import EncoderConfig
from motherbird.core.hf_config import HeadConfig, write_head
from motherbird.nn import SequenceClassifier, TokenClassifier


def test_a_model_as_json(motherbird, model, documented, has_shape):
    of_model, _ = documented("info")
    info = motherbird("info", model, "--json").done().json
    assert has_shape(info, of_model)
    tensors = load_file(model / "model.safetensors")
    total = sum(tensor.numel() for tensor in tensors.values())
    assert info["model"] == str(model)
    assert info["architecture"] == "ModernBertForMaskedLM"
    assert info["geometry"]["hidden_size"] == 32 and info["geometry"]["local_attention"] == 16
    assert info["layers"] == ["full_attention", *["sliding_attention"] * 2, "full_attention"]
    assert info["parameters"] == {"total": total, "embedding": 1024 * 32}
    assert info["memory"]["weights"] == 4 * total
    assert info["memory"]["activations_512"] > 0 and "activations_8192" not in info["memory"]
    assert info["tokenizer"]["entries"] == 1024
    assert info["tokenizer"]["special"]["mask"] == ["[MASK]", 940]
    assert info["files"] == sorted(p.name for p in model.iterdir())
    assert info["tensors"]["count"] == len(tensors)
    assert info["tensors"]["dtypes"] == ["float32"]
    assert info["tensors"]["heads"] == ["decoder.bias", "head.dense.weight", "head.norm.weight"]


def test_a_model_on_paper(motherbird, model):
    rows = dict(line.split("  ", 1) for line in motherbird("info", model).done().out.splitlines())
    rows = {name: text.strip() for name, text in rows.items()}
    assert rows["model"] == str(model)
    assert rows["geometry"] == "4 layers, hidden size 32, 2 heads, GLU 48 (gelu)"
    assert rows["layers"] == "GllG  (2 global, 2 local)"
    assert "8 tokens on each side" in rows["local layers"]
    assert rows["max length"] == "512 tokens"
    assert "1,024 entries" in rows["tokenizer"] and "[MASK] 940" in rows["tokenizer"]
    assert "model.safetensors" in rows["files"]


def test_labels_are_those_of_a_classifier(motherbird, model, tmp_path):
    config = EncoderConfig(vocab_size=1024, hidden_size=32, intermediate_size=48,
                           num_hidden_layers=1, num_attention_heads=2, pad_token_id=0,
                           cls_token_id=1, bos_token_id=1, sep_token_id=2,
                           eos_token_id=2)  # fmt: skip
    SequenceClassifier(config, ("good", "bad")).save(tmp_path / "classifier")
    info = motherbird("info", tmp_path / "classifier", "--json").done().json
    assert info["labels"] == ["good", "bad"] and info["tokenizer"] is None
    assert "good, bad" in motherbird("info", tmp_path / "classifier").done().out
    assert info["predicts"] == {"kind": "single", "temperature": 1.0, "thresholds": {}}
    (tmp_path / "classifier" / "motherbird.json").unlink()
    write_head(tmp_path / "classifier", HeadConfig(("good", "bad"), "multi", 1.5, {"bad": 0.25}))
    says = "predicts +any number of labels, temperature 1.5, bad from 0.25\n"
    assert re.search(says, motherbird("info", tmp_path / "classifier").done().out)
    TokenClassifier(config, ("O", "PER")).save(tmp_path / "tagger")
    assert "one label for each word" in motherbird("info", tmp_path / "tagger").done().out
    # A masked LM has none, whatever transformers assumes.
    info = motherbird("info", model, "--json").done().json
    assert info["labels"] == [] and info["predicts"] is None
    assert "LABEL" not in motherbird("info", model).done().out


def test_the_machine_as_json(motherbird, documented, has_shape):
    _, of_machine = documented("info")
    info = motherbird("info", "--json").done().json
    assert has_shape(info, of_machine)
    assert (info["motherbird"], info["torch"]) == (package.__version__, torch.__version__)
    assert info["devices"][0] == "cpu" and info["threads"] >= 1
    assert list(info["fastest_dtype"]) == list(info["attention"]) == info["devices"]
    assert info["attention"]["cpu"] == {
        "flash": "the device is cpu, not a CUDA GPU",
        **dict.fromkeys(["tiled", "banded", "oracle"], "can run"),
    }


def test_the_machine_on_paper(motherbird):
    out = motherbird("info").done().out
    assert package.__version__ in out and torch.__version__ in out
    assert "banded" in out and "oracle" in out


def test_nothing_is_written(motherbird, model, tree):
    before = tree(model)
    motherbird("info", model).done()
    assert tree(model) == before


def test_models_that_are_none(motherbird, model, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "config.json").write_text("[]")
    shutil.copytree(model, tmp_path / "other")
    (tmp_path / "other" / "config.json").write_text('{"model_type": "bert"}')
    shutil.copytree(model, tmp_path / "twice")
    (tmp_path / "twice" / "config.json").write_text('{"model_type": 1, "model_type": 2}')
    shutil.copytree(model, tmp_path / "pickle")
    (tmp_path / "pickle" / "model.safetensors").rename(tmp_path / "pickle" / "model.bin")
    for name, says in {
        "nowhere": "no such directory.*nowhere",
        "file": "this is a file.*file",
        "": "config.json is missing",
        "list": "not a JSON object.*config.json",
        "other": "'bert'.*is not supported.*config.json",
        "twice": "'model_type' occurs twice.*config.json",
        "pickle": "model.bin.*can run code",
    }.items():
        assert motherbird("info", tmp_path / name).refused(says).out == ""
        error = motherbird("info", tmp_path / name, "--json").refused(says).json["error"]
        assert error["code"] == "input" and error["what"] and str(tmp_path) in error["where"]


@pytest.mark.parametrize("keep", [0, 4, 5000, -1])
def test_damaged_weights(keep, motherbird, model, tmp_path):
    shutil.copytree(model, tmp_path / "cut")
    (tmp_path / "cut" / "motherbird.json").unlink()
    weights = (model / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(weights[:keep])
    says = "not a valid safetensors file.*model.safetensors.*again"
    motherbird("info", tmp_path / "cut").refused(says, code=1)
    error = motherbird("info", tmp_path / "cut", "--json").refused(says, code=1).json["error"]
    assert error["code"] == "damaged"


def test_a_revision_needs_a_model(motherbird):
    motherbird("info", "--revision", "main").refused("--revision")


def test_the_model_is_an_argument(motherbird):
    says = "info takes MODEL without --model: see motherbird info --help"
    assert "'--model'" not in motherbird("info", "--model", "m").refused(says).err
    motherbird("info", "--model=m", "--json").refused(says)


def test_an_empty_name(motherbird):
    motherbird("info", "").refused("the model is an empty string: pass a model directory")


def test_a_link_to_itself(motherbird, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    motherbird("info", tmp_path / "loop").refused("the link leads nowhere")


def test_a_late_interaction_model(motherbird, model, tmp_path):
    import numpy as np

    from motherbird import Dense, LateEmbedder
    from motherbird.nn import Encoder

    encoder = Encoder.load(model, dtype="stored")
    late = LateEmbedder(encoder, [Dense(np.ones((4, 32)))], add_prefixes=True)
    late.save(tmp_path / "late")
    assert (
        motherbird("info", tmp_path / "late", "--json").done().json["embedding"]["pooling"] == "no"
    )
    out = motherbird("info", tmp_path / "late").done().out
    assert "no pooling (a vector for each token, see LateEmbedder)" in out
