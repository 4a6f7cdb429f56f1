"""Which class a folder holds, and the checkpoint around an export."""

import json

import numpy as np
import pytest
import torch

from motherbird import Embedder, InputError, LateEmbedder
from motherbird.export import models
from motherbird.models.dense import Dense
from motherbird.nn import Encoder, MaskedLM, SequenceClassifier, TokenClassifier, checkpoint

KINDS = {
    "encoder": lambda toy: Encoder(toy),
    "masked-lm": lambda toy: MaskedLM(toy),
    "sequence": lambda toy: SequenceClassifier(toy, ("no", "yes")),
    "token": lambda toy: TokenClassifier(toy, ("O", "B", "I")),
    "embedder": lambda toy: Embedder(Encoder(toy), pooling="cls", prompts={"query": "q: "}),
    "dense": lambda toy: Embedder(Encoder(toy), dense=[Dense(np.ones((3, 32), np.float32))]),
}


def kind_of(exported):
    return Embedder if isinstance(exported, models.ExportableEmbedder) else type(exported.model)


@pytest.fixture
def folder(toy, tmp_path):
    """The folder of a model of a kind."""

    def make(kind):
        KINDS[kind](toy).save(tmp_path / kind)
        return tmp_path / kind

    return make


@pytest.mark.parametrize(
    ("kind", "head", "wanted", "name"),
    [
        ("encoder", "auto", Encoder, "none"),
        ("encoder", "none", Encoder, "none"),
        ("encoder", "pooling", Embedder, "pooling"),
        ("masked-lm", "auto", MaskedLM, "logits"),
        ("masked-lm", "logits", MaskedLM, "logits"),
        ("masked-lm", "none", Encoder, "none"),
        ("masked-lm", "pooling", Embedder, "pooling"),
        ("sequence", "auto", SequenceClassifier, "logits"),
        ("token", "auto", TokenClassifier, "logits"),
        ("embedder", "auto", Embedder, "pooling"),
        ("embedder", "none", Encoder, "none"),
    ],
)
def test_class(kind, head, wanted, name, folder):
    exported, found = models.load(folder(kind), head, "stored")
    assert (kind_of(exported), found) == (wanted, name)
    assert isinstance(exported.model.encoder, Encoder)


def test_late_interaction_is_only_an_encoder(toy, small_tokenizer, tmp_path):
    encoder, projection = Encoder(toy), [Dense(np.ones((3, 32), np.float32))]
    encoder.tokenizer = small_tokenizer
    LateEmbedder(encoder, projection, add_prefixes=True).save(tmp_path / "late")
    for head in ("auto", "pooling"):
        with pytest.raises(InputError, match="cannot be exported with its projection.*head none"):
            models.load(tmp_path / "late", head, "stored")
    assert kind_of(models.load(tmp_path / "late", "none", "stored")[0]) is Encoder


def test_prompts_that_are_not_pooled(toy, tmp_path):
    Embedder(Encoder(toy), include_prompt=False).save(tmp_path / "model")
    with pytest.raises(InputError, match="include_prompt = false.*--head none"):
        models.load(tmp_path / "model", "auto", "stored")


def rename(place, architectures):
    raw = json.loads((place / "config.json").read_text())
    raw["architectures"] = architectures
    (place / "config.json").write_text(json.dumps(raw))


@pytest.mark.parametrize("architectures", [None, [], ["ModernBertModel"]])
def test_without_a_head_it_is_the_encoder(architectures, folder):
    place = folder("encoder")
    rename(place, architectures)
    assert kind_of(models.load(place, "auto", "stored")[0]) is Encoder
    with pytest.raises(InputError, match="no logits for .*config.json.*--head none"):
        models.load(place, "logits", "stored")


def test_a_head_that_we_do_not_have(folder):
    place = folder("masked-lm")
    rename(place, ["ModernBertForQuestionAnswering"])
    for head in ("auto", "logits"):
        with pytest.raises(InputError, match="no logits for ModernBertForQuestionAnswering"):
            models.load(place, head, "stored")
    assert kind_of(models.load(place, "none", "stored")[0]) is Encoder


def test_the_demo_has_two_models(toy, tmp_path):
    """A masked LM, and the encoder for search in a folder of its own."""
    masked_lm, embedder = MaskedLM(toy), Embedder(Encoder(toy))
    checkpoint.save(masked_lm, tmp_path / "demo", write_more=lambda place: (
        (place / "search").mkdir(),
        checkpoint.write(embedder.encoder, place / "search"),
        embedder.write_modules(place, at="search"),
    ))  # fmt: skip

    def weights(head):
        exported, _ = models.load(tmp_path / "demo", head, "stored")
        return exported.model.encoder.layers[0].mlp.Wi.weight

    for head, encoder in (
        ("auto", embedder.encoder),
        ("pooling", embedder.encoder),
        ("logits", masked_lm.model),
        ("none", masked_lm.model),
    ):
        assert torch.equal(weights(head), encoder.layers[0].mlp.Wi.weight)
    (tmp_path / "demo" / "config.json").unlink()
    assert torch.equal(weights("none"), embedder.encoder.layers[0].mlp.Wi.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_reads_back(kind, folder, tmp_path):
    exported, _ = models.load(folder(kind), "auto", "stored")
    (tmp_path / "out").mkdir()
    exported.write(tmp_path / "out")
    again, _ = models.load(tmp_path / "out", "auto", "stored")
    assert kind_of(again) is kind_of(exported) and again.outputs == exported.outputs
    state = again.model.state_dict()
    for name, tensor in exported.model.state_dict().items():
        assert torch.equal(state[name], tensor)
    assert again.model.labels == exported.model.labels
    if kind == "embedder":
        found = again.embedder
        assert (found.pooling, found.prompts, found.normalize) == ("cls", {"query": "q: "}, True)
    if kind == "dense":
        assert again.outputs["sentence_embedding"] == ("documents", 3)


def test_a_model_that_does_not_normalise_stays_one(toy, tmp_path):
    Embedder(Encoder(toy), normalize=False).save(tmp_path / "model")
    kinds = [m["type"] for m in json.loads((tmp_path / "model" / "modules.json").read_text())]
    assert [kind.rpartition(".")[2] for kind in kinds] == ["Transformer", "Pooling"]
    assert not (tmp_path / "model" / "2_Normalize").exists()
    assert Embedder.load(tmp_path / "model", dtype="stored").normalize is False
