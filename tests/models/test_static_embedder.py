"""StaticEmbedder beside sentence-transformers and model2vec, and its mistakes."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from motherbird import DamagedError, InputError, StaticEmbedder
from motherbird.core import hub
from motherbird.errors import OutputExistsError
from motherbird.models.static_embedder import read_tokenizer

WORDS = ["[UNK]", "bees", "make", "honey", "milk", "cheese"]
TEXTS = ["bees make honey", "honey", "milk milk cheese unknown"]


def a_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(
        models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


@pytest.fixture
def embedder() -> StaticEmbedder:
    table = np.random.default_rng(0).normal(size=(len(WORDS), 8)).astype(np.float32)
    return StaticEmbedder(a_tokenizer(), table)


def test_a_text_is_the_mean_of_its_tokens(embedder):
    found = embedder.embed(TEXTS, normalize=False)
    table = embedder.table
    expected = [table[[1, 2, 3]].mean(0), table[3], table[[4, 4, 5, 0]].mean(0)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    unit = embedder.embed(TEXTS)
    np.testing.assert_allclose(
        unit, found / np.linalg.norm(found, axis=1, keepdims=True), rtol=1e-5
    )
    np.testing.assert_allclose(np.linalg.norm(embedder.embed(TEXTS, truncate_dim=3), axis=1), 1,
                               rtol=1e-5)  # fmt: skip
    assert embedder.embed([]).shape == (0, 8) and embedder.size == 8


@pytest.fixture(scope="module")
def nano() -> StaticEmbedder:
    tokenizer = read_tokenizer(hub.find(hub.NANO) / "encoder")
    table = np.zeros((tokenizer.get_vocab_size(), 4), np.float32)
    return StaticEmbedder(tokenizer, table)


PIECES = st.sampled_from([" ", "  ", "\n", "\t", "[MASK]", "[SEP]", "it's", "é", "e\u0301", "x²",
                          "日本", "\x1c", "_a", "don't!", "\u00a0", "42", "\r\n"])  # fmt: skip


@given(st.lists(st.text(max_size=20) | PIECES, max_size=12).map("".join))
def test_ids_of_a_text_are_those_of_its_segments(nano, text):
    assert nano._segments is not None
    whole = nano.tokenizer.encode(text, add_special_tokens=False).ids
    assert nano.ids([text]) == [whole] == nano.ids([text])


def test_a_text_without_tokens_is_zero(embedder):
    embedder.tokenizer.normalizer = normalizers.Replace("?", "")
    np.testing.assert_array_equal(embedder.embed(["?"]), np.zeros((1, 8)))


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("normalize", [True, False])
def test_sentence_transformers_loads_what_is_saved(embedder, tmp_path, dtype, normalize):
    library = pytest.importorskip("sentence_transformers")
    own = StaticEmbedder(embedder.tokenizer, embedder.table.astype(dtype), normalize)
    own.save(tmp_path / "static")
    theirs = library.SentenceTransformer(str(tmp_path / "static"), device="cpu")
    atol = 2e-3 if dtype == np.float16 else 1e-6
    np.testing.assert_allclose(theirs.encode(TEXTS), own.embed(TEXTS), atol=atol)
    again = StaticEmbedder.load(tmp_path / "static")
    np.testing.assert_array_equal(again.embed(TEXTS), own.embed(TEXTS))
    assert again.normalize is normalize and again.table.dtype == dtype


def test_what_sentence_transformers_saves_is_loaded(embedder, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.models import Normalize, StaticEmbedding

    module = StaticEmbedding(embedder.tokenizer, embedding_weights=embedder.table)
    library.SentenceTransformer(modules=[module, Normalize()], device="cpu").save(
        str(tmp_path / "theirs")
    )
    found = StaticEmbedder.load(tmp_path / "theirs")
    np.testing.assert_allclose(found.embed(TEXTS), embedder.embed(TEXTS), atol=1e-6)


def test_model2vec_loads_what_is_saved(embedder, tmp_path):
    library = pytest.importorskip("model2vec")
    embedder.save(tmp_path / "static")
    theirs = library.StaticModel.from_pretrained(str(tmp_path / "static"))
    # It leaves out unknown words.
    np.testing.assert_allclose(theirs.encode(TEXTS[:2]), embedder.embed(TEXTS[:2]), atol=1e-6)


def test_mistakes(embedder, tmp_path):
    with pytest.raises(InputError, match="no row for each of the 6 tokens"):
        StaticEmbedder(a_tokenizer(), np.zeros((3, 8), np.float32))
    with pytest.raises(InputError, match="text 1"):
        embedder.embed(["milk", ""])
    with pytest.raises(InputError, match="truncate_dim"):
        embedder.embed(["milk"], truncate_dim=9)
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match="not a table of static vectors"):
        StaticEmbedder.load(tmp_path / "other")
    embedder.save(tmp_path / "static")
    embedder.save(tmp_path / "static")  # its own directory is replaced
    (tmp_path / "other/notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError):
        embedder.save(tmp_path / "other")
    modules = json.loads((tmp_path / "static/modules.json").read_text())
    weights = tmp_path / "static/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(DamagedError):
        StaticEmbedder.load(tmp_path / "static")
    assert [module["type"].rpartition(".")[2] for module in modules] == [
        "StaticEmbedding", "Normalize"
    ]  # fmt: skip
