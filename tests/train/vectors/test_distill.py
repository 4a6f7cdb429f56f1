"""Distillation of vectors: the start from static vectors, what is learned, exact resume."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from motherbird import Embedder, StaticEmbedder
from motherbird.core import presets
from motherbird.errors import InputError, StoppedError
from motherbird.files import sha256
from motherbird.nn import Encoder
from motherbird.nn.heads import pool
from motherbird.nn.packed import pack
from motherbird.train.tuning_run import Caller
from motherbird.train.vectors.distill import distill_dense, linear_fit, rotation_fit
from motherbird.train.vectors.initial import begin_as, to_static
from motherbird.train.vectors.recipe import Distillation


@pytest.fixture
def table(small_tokenizer):
    """A vector of 24 dimensions for each token, of different lengths."""
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(small_tokenizer.vocab_size, 24))
    return (rows * draw.uniform(0.1, 1, size=(len(rows), 1))).astype(np.float32)


def one_layer(tokenizer):
    """A configuration of nano's width, without special tokens."""
    return replace(
        presets.nano(), vocab_size=tokenizer.vocab_size, num_hidden_layers=1, pad_token_id=None,
        cls_token_id=None, sep_token_id=None, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


@torch.no_grad()
def test_a_new_encoder_computes_static_vectors(small_tokenizer, table):
    """Without its layers, its mean vector is a linear map of the mean of the static vectors."""
    config = one_layer(small_tokenizer)
    encoder = Encoder(config).eval()
    begin_as(encoder, table, seed=0)
    encoder.layers = torch.nn.ModuleList()
    draw = np.random.default_rng(1)
    ids = [draw.integers(5, small_tokenizer.vocab_size, n).tolist() for n in range(2, 60)]
    packed = pack(ids)
    found = pool(encoder(packed), packed, "mean").numpy()
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    shorter = table * np.minimum(1, np.quantile(lengths, 0.9) / lengths)
    static = np.stack([shorter[own].mean(axis=0) for own in ids])
    cosines = (static @ static.T) / np.outer(*[np.linalg.norm(static, axis=1)] * 2)
    mapped = found @ to_static(config.hidden_size, 24, seed=0).T
    own = (mapped @ mapped.T) / np.outer(*[np.linalg.norm(mapped, axis=1)] * 2)
    assert np.abs(own - cosines).max() < 1e-3


def test_its_embeddings_are_the_static_vectors(small_tokenizer, table, tmp_path):
    config = one_layer(small_tokenizer)
    encoder = Encoder(config).eval()
    encoder.tokenizer = small_tokenizer
    begin_as(encoder, table, seed=0)
    Embedder(encoder).save(tmp_path / "model")
    whole = StaticEmbedder.from_encoder(tmp_path / "model")
    assert whole.table.shape == (small_tokenizer.vocab_size, config.hidden_size)
    lengths = np.linalg.norm(table, axis=1, keepdims=True)
    shorter = table * np.minimum(1, np.quantile(lengths, 0.9) / lengths)
    texts = ["a file of numbers", "def open(path):", "the"]
    wanted = StaticEmbedder(whole.tokenizer, shorter).embed(texts)
    few = StaticEmbedder.from_encoder(tmp_path / "model")  # reads rows, not the whole table
    other = pickle.loads(pickle.dumps(whole))  # in another process
    for found in (whole.embed(texts), few.embed(texts), other.embed(texts)):
        np.testing.assert_allclose(found @ found.T, wanted @ wanted.T, atol=1e-3)


def test_embeddings_of_another_encoder_are_refused(base):
    with pytest.raises(InputError, match="did not begin as static vectors"):
        StaticEmbedder.from_encoder(base)


def test_linear_fit():
    draw = np.random.default_rng(0)
    x, weight = draw.normal(size=(500, 20)), draw.normal(size=(7, 20))
    found = linear_fit(x.astype(np.float32), (x @ weight.T).astype(np.float32)).numpy()
    np.testing.assert_allclose(found, weight, atol=0.02)


@pytest.mark.parametrize("size", [7, 20, 30])
def test_rotation_fit(size):
    """Targets are the same vectors rotated, into fewer or more dimensions."""
    draw = np.random.default_rng(0)
    whole = np.linalg.qr(draw.normal(size=(30, 30)))[0]
    basis, constant = whole[:20], whole[20]
    u, _, vt = np.linalg.svd(draw.normal(size=(size, 20)), full_matrices=False)
    part = draw.normal(size=(4000, 20))
    x = part @ basis + 3 * constant
    found = rotation_fit(*(each.astype(np.float32) for each in (x, part @ (u @ vt).T, basis)))
    atol = 1e-5 if size >= 20 else 0.1  # fewer dimensions do not determine it
    np.testing.assert_allclose(found.numpy(), u @ vt @ basis, atol=atol)


@pytest.fixture
def teacher(base, tmp_path):
    pytest.importorskip("sentence_transformers")
    Embedder(Encoder.load(base, dtype="float32")).save(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.fixture
def data(tmp_path, prose):
    words = prose[0].split()
    path = tmp_path / "texts.jsonl"
    rows = [{"text": " ".join(words[n : n + 3 + n % 20])} for n in range(0, 3000, 10)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(path)]


@pytest.fixture
def recipe(base, teacher):
    return Distillation(
        model=str(base), teacher=str(teacher), texts=300, epochs=2, batch_size=32, lr=1e-3,
        dtype="float32", save_every=2,
    )  # fmt: skip


def test_a_student_learns_its_teacher(recipe, data, small_tokenizer, table, tmp_path):
    """The teacher has the same encoder, so that the first linear map is nearly right."""
    found = distill_dense(recipe, data, tmp_path / "same")
    assert found["dev"]["cosine"] > 0.95 and found["documents"]["dev"] == 6
    static = tmp_path / "static"
    StaticEmbedder(small_tokenizer.backend, table).save(static)
    other = replace(recipe, model=str(static), preset="nano", epochs=3, texts=120)
    found = distill_dense(other, data, tmp_path / "out")
    assert found["curve"][-1] > found["curve"][0] and len(found["curve"]) == 3
    student = Embedder.load(tmp_path / "out", dtype="float32")
    card = (tmp_path / "out/README.md").read_text()
    assert "Distilled with motherbird from teacher" in card and "| cosine | 0." in card
    assert student.size == 32 and student.model.config.hidden_size == 320
    vectors = student.embed(["a text", "another one"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_the_pooling_of_the_model_and_a_limit_are_kept(recipe, data, base, tmp_path):
    Embedder(Encoder.load(base, dtype="float32"), "cls").save(tmp_path / "cls")
    short = replace(recipe, model=str(tmp_path / "cls"), epochs=1, max_length=16)
    found = distill_dense(short, data, tmp_path / "out")
    student = Embedder.load(tmp_path / "out")
    assert (student.pooling, student.max_length) == ("cls", 16)
    assert found["truncated"] > 0 and "cosine" in found["dev"]


def test_it_resumes_with_the_same_result_and_keeps_vectors(recipe, data, tmp_path, monkeypatch):
    kept = tmp_path / "vectors"
    whole = distill_dense(recipe, data, tmp_path / "whole", vectors=kept)
    from motherbird.train.vectors import teacher

    def fail(self, texts):
        assert len(texts) == 1, "the vectors are computed again"
        return np.ones((1, 32), np.float32)

    monkeypatch.setattr(teacher.Teacher, "embed", fail)
    stops = 0
    while not (tmp_path / "out").exists():
        try:
            found = distill_dense(
                recipe, data, tmp_path / "out", vectors=kept, caller=Caller(max_steps=7)
            )
        except StoppedError:
            stops += 1
    assert stops == 2 and found["curve"] == whole["curve"]
    for name in ("model.safetensors", "2_Dense/model.safetensors"):
        assert sha256(tmp_path / "whole" / name) == sha256(tmp_path / "out" / name)


def test_mistakes(recipe, data, tmp_path):
    with pytest.raises(InputError, match="preset is for an encoder that begins as static"):
        distill_dense(replace(recipe, preset="nano"), data, tmp_path / "out")
    with pytest.raises(InputError, match="no such directory"):
        distill_dense(replace(recipe, teacher="nowhere-1"), data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
