"""The native engine against the attention oracle in torch, in every variant that this CPU has."""

import copy
import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motherbird import Embedder, EncoderConfig, InputError, nn
from motherbird import MaskedLM as FillMask
from motherbird.core import hub
from motherbird.core.batching import concatenate
from motherbird.core.weights import Stored, shapes
from motherbird.engine import library
from motherbird.engine.heads import Linear
from motherbird.engine.model import NativeModel
from motherbird.nn import Encoder, MaskedLM, SequenceClassifier, TokenClassifier, pack

TOY = EncoderConfig(vocab_size=1024, hidden_size=32, intermediate_size=48, num_hidden_layers=4,
                    num_attention_heads=2, max_position_embeddings=1024, local_attention=16,
                    pad_token_id=0, bos_token_id=1, cls_token_id=1, sep_token_id=2,
                    eos_token_id=2)  # fmt: skip
GEOMETRIES = {
    "toy": TOY,
    "heads of 64": replace(TOY, hidden_size=128, intermediate_size=200, local_attention=128),
    "odd sizes": replace(TOY, hidden_size=60, intermediate_size=37, num_attention_heads=3),
    "biases": replace(TOY, norm_bias=True, attention_bias=True, mlp_bias=True),
    "heads of 12": replace(TOY, hidden_size=24, local_attention=2),
}
VARIANTS = ("portable", "avx2", "avx512", "amx")


def has(name: str) -> bool:
    try:
        library.variant(name)
    except InputError:
        return False
    return True


@pytest.fixture(scope="module", params=GEOMETRIES)
def models(request, tmp_path_factory):
    """An encoder in torch, and the same one in every variant of the engine."""
    torch.manual_seed(0)
    encoder = Encoder(GEOMETRIES[request.param], attention="oracle").eval()
    for parameter in encoder.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    directory = tmp_path_factory.mktemp("model")
    encoder.save(directory)
    native = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in filter(has, VARIANTS):
            patch.setenv(library.VARIABLE, name)
            library.variant.cache_clear()
            native[name] = NativeModel.load(directory, "float32")
    library.variant.cache_clear()
    return encoder, native, directory


def states(encoder, documents):
    with torch.no_grad():
        return encoder(pack(documents)).numpy()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(1, 80), min_size=1, max_size=6), seed=st.integers(0, 9))
def test_any_batch(models, lengths, seed):
    encoder, native, _ = models
    draw = np.random.default_rng(seed)
    documents = [draw.integers(0, 1024, length).tolist() for length in lengths]
    expected = states(encoder, documents)
    for name, model in native.items():
        got = model.run(*concatenate(documents), "tokens")
        np.testing.assert_allclose(got, expected, atol=5e-5, err_msg=name)


@pytest.mark.parametrize("length", [1, 2, 13, 14, 15, 31, 32, 33, 111, 112, 113, 129, 500, 1000])
def test_lengths_around_blocks(models, length):
    encoder, native, _ = models
    document = np.random.default_rng(length).integers(0, 1024, length).tolist()
    expected = states(encoder, [document])
    for name, model in native.items():
        got = model.run(*concatenate([document]), "tokens")
        np.testing.assert_allclose(got, expected, atol=5e-5, err_msg=name)


def test_a_document_does_not_depend_on_others(models):
    _, native, _ = models
    documents = [
        np.random.default_rng(n).integers(0, 1024, n).tolist() for n in (3, 70, 1, 200, 33)
    ]
    for model in native.values():
        together = np.split(
            model.run(*concatenate(documents), "tokens"), np.cumsum([3, 70, 1, 200])
        )
        for document, rows in zip(documents, together, strict=True):
            alone = model.run(*concatenate([document]), "tokens")
            np.testing.assert_array_equal(alone, rows)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_lower_precisions_are_near(models, dtype):
    encoder, _, directory = models
    try:
        model = NativeModel.load(directory, dtype)
    except InputError:
        pytest.skip(f"this CPU has no {dtype}")
    documents = [np.random.default_rng(n).integers(0, 1024, n).tolist() for n in (3, 70, 1, 200)]
    got, expected = model.run(*concatenate(documents), "tokens"), states(encoder, documents)
    cosines = (
        (got * expected).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(expected, axis=1)
    )
    assert cosines.min() > 0.995


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_it_embeds_as_torch_does(models, pooling):
    encoder, native, _ = models
    documents = [
        np.random.default_rng(n).integers(0, 1024, n).tolist() for n in (3, 70, 1, 200, 33)
    ]
    expected = Embedder(encoder, pooling).embed_ids(documents)
    for model in native.values():
        got = Embedder(model, pooling).embed_ids(documents, batch_tokens=80)
        np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("cls", [Embedder, FillMask])
@pytest.mark.parametrize(("name", "fastest"), [("avx2", "float32"), ("avx512", "bfloat16")])
def test_auto_is_the_fastest_dtype_and_none_is_emulated(
    name, fastest, cls, stored, small_tokenizer, tmp_path, monkeypatch, caplog
):
    if not has(name):
        pytest.skip(f"this CPU cannot run {name}")
    MaskedLM(TOY).to(stored).save(tmp_path / "model", tokenizer=small_tokenizer)
    monkeypatch.setenv(library.VARIABLE, name)
    library.variant.cache_clear()
    try:
        for model in (cls.load(tmp_path / "model"), cls.load(tmp_path / "model", dtype="auto")):
            assert model.model.dtype == fastest
    finally:
        library.variant.cache_clear()
    assert "emulates" not in caplog.text


HEADS = {MaskedLM: (), TokenClassifier: (("a", "b", "c"),), SequenceClassifier: (("a", "b"),)}


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("cls", HEADS, ids=lambda cls: cls.__name__)
def test_logits_of_every_head(cls, pooling, tmp_path):
    torch.manual_seed(0)
    module = cls(replace(TOY, classifier_pooling=pooling), *HEADS[cls]).eval()
    for parameter in module.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    module.save(tmp_path / "model")
    documents = [np.random.default_rng(n).integers(0, 1024, n).tolist() for n in (3, 70, 1, 40)]
    ids, cu_seqlens = concatenate(documents)
    with torch.no_grad():
        expected = module(pack(documents)).numpy()
    model = NativeModel.load(tmp_path / "model", "float32", head=cls.__name__)
    np.testing.assert_allclose(model.run(ids, cu_seqlens, "logits"), expected, atol=5e-5)
    if cls is MaskedLM:
        some = np.array([0, 5, 72])
        found = model.run(ids, cu_seqlens, "logits", some)
        np.testing.assert_allclose(found, expected[some], atol=5e-5)


@pytest.mark.parametrize("head", [None, *(cls.__name__ for cls in HEADS)])
def test_names_and_shapes_are_those_of_torch(head):
    for name, config in GEOMETRIES.items():
        model = getattr(nn, head or "Encoder")
        module = model(config, *HEADS.get(model, ()))
        prefix = "" if head else "model."
        expected = {prefix + n: tuple(t.shape) for n, t in module.state_dict().items()}
        labels = len(HEADS.get(model, ((),))[0]) if HEADS.get(model) else 0
        assert shapes(config, head, labels) == expected, name


@pytest.mark.parametrize("activation", ["gelu", "gelu_pytorch_tanh", "gelu_new", "silu", "relu"])
def test_activations(activation, tmp_path):
    torch.manual_seed(0)
    encoder = Encoder(replace(TOY, hidden_activation=activation)).eval()
    for parameter in encoder.parameters():
        parameter.data *= 3
    encoder.save(tmp_path / "model")
    document = list(range(50))
    found = NativeModel.load(tmp_path / "model", "float32").run(*concatenate([document]), "tokens")
    np.testing.assert_allclose(found, states(encoder, [document]), atol=5e-5)


def test_wrong_ids_and_long_documents_are_refused(models):
    _, native, _ = models
    for model in native.values():
        with pytest.raises(InputError, match="token id 1024 is outside.*document 1, token 2"):
            model.run(*concatenate([[1, 2], [3, 4, 1024]]), "tokens")
        with pytest.raises(InputError, match="has 1025 tokens, more than.*1024: document 0"):
            model.run(*concatenate([[1] * 1025]), "tokens")


@pytest.mark.parametrize(("name", "layers"), [("avx2", "1"), ("avx512", "0")])
def test_8_bits_after_layers_that_stay_exact(name, layers, monkeypatch, caplog):
    """On the included model; docs/log.md has the neighbors that are kept."""
    if not has(name):
        pytest.skip(f"this CPU cannot run {name}")
    monkeypatch.setenv(library.VARIABLE, name)
    library.variant.cache_clear()
    try:
        with caplog.at_level("INFO", logger="motherbird"):
            NativeModel.load(hub.NANO_FOLDER, "int8")
    finally:
        library.variant.cache_clear()
    assert f"all layers but the first {layers} of 7" in caplog.text


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("sign", [1, -1])
def test_8_bits_of_the_largest_sums(sign, name, monkeypatch):
    """All weights and activations are the largest: 16-bit sums must not overflow."""
    if not has(name):
        pytest.skip(f"this CPU cannot run {name}")
    monkeypatch.setenv(library.VARIABLE, name)
    library.variant.cache_clear()
    try:
        linear = Linear(Stored("float32", np.full((16, 64), sign, np.float32)), None, "int8")
        found = linear(np.stack([np.ones(64, np.float32), -np.ones(64, np.float32)]))
    finally:
        library.variant.cache_clear()
    np.testing.assert_allclose(found, sign * np.array([[64.0], [-64.0]]).repeat(16, 1), rtol=0.01)


def test_a_variant_that_does_not_exist(monkeypatch):
    library.variant.cache_clear()
    monkeypatch.setenv(library.VARIABLE, "AVX2")
    with pytest.raises(InputError, match="there is no variant 'AVX2'.*use .*portable, or unset"):
        library.variant()
    library.variant.cache_clear()


@pytest.fixture
def directory(small_tokenizer, tmp_path):
    model = MaskedLM(TOY)
    model.save(tmp_path / "model", tokenizer=small_tokenizer)
    return tmp_path / "model"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("cls", [Embedder, FillMask])
def test_copies_and_pickles(cls, copied, directory):
    model = cls.load(directory)
    again = copied(model)
    ids = concatenate([[1, 5, 7, 2]])
    np.testing.assert_array_equal(again.model.run(*ids, "mean"), model.model.run(*ids, "mean"))


def test_files_that_change_while_the_model_is_used(directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    embedder = Embedder.load("model")
    before = embedder.embed(["a text"])
    file = directory / "model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))  # in place, as cp does
    np.testing.assert_array_equal(embedder.embed(["a text"]), before)
    os.truncate(file, 100)
    np.testing.assert_array_equal(embedder.embed(["a text"]), before)


def test_saving_from_another_working_directory(directory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    embedder = Embedder.load("model")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    embedder.save("saved")
    shutil.rmtree(directory)
    with pytest.raises(InputError, match="removed since the model was loaded: .*config.json: load"):
        embedder.save("again")
    assert not (tmp_path / "other" / "again").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
@pytest.mark.parametrize("change", ["other bytes", "truncated", "removed", "while it is copied"])
def test_changed_files_are_not_saved(name, change, directory, tmp_path, monkeypatch):
    embedder, file = Embedder.load(directory), directory / name
    data, copyfile = file.read_bytes(), shutil.copyfile
    if change == "other bytes":
        file.write_bytes(bytes(len(data)))
    elif change == "truncated":
        os.truncate(file, 100)
    elif change == "removed":
        file.unlink()
    else:
        monkeypatch.setattr(shutil, "copyfile", lambda *paths: (copyfile(*paths), file.touch()))
    says = rf"changed or removed since the model was loaded: .*{name}: load the model again"
    with pytest.raises(InputError, match=says):
        embedder.save(tmp_path / "saved")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(InputError, match=says):  # the copy would load what is there now
        copy.deepcopy(embedder)


def test_a_model_is_saved_over_itself_and_again(directory, tmp_path):
    """Its files are replaced by equal ones."""
    Embedder.load(directory).save(tmp_path / "saved")
    embedder = Embedder.load(tmp_path / "saved")
    weights = (directory / "model.safetensors").read_bytes()
    for name in ("saved", "saved", "again"):
        embedder.save(tmp_path / name)
        assert (tmp_path / name / "model.safetensors").read_bytes() == weights
    copy.deepcopy(embedder)


@pytest.mark.parametrize("dtype", ["FLOAT32", "int4", "fp16", np.float32, None])
def test_unknown_dtypes(dtype, directory):
    with pytest.raises(InputError, match="unknown dtype .*use auto, float32, bfloat16, int8"):
        Embedder.load(directory, dtype=dtype)
