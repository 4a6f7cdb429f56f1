"""The native engine against the attention oracle in torch, in every variant that this CPU has."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motherbird import Embedder, EncoderConfig, InputError
from motherbird.core.batching import concatenate
from motherbird.engine import library
from motherbird.engine.model import NativeModel
from motherbird.nn import Encoder, pack

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
