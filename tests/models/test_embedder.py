"""Embedder: what it computes, in which order, and directories of sentence-transformers."""

import copy
import json
import logging
import pickle

import numpy as np
import pytest
import tokenizers
import torch

from motherbird import Embedder, InputError, Tokenizer
from motherbird.errors import OutputExistsError
from motherbird.nn import Encoder, MaskedLM, pack

pytestmark = pytest.mark.usefixtures("no_type_checker")

TEXTS = [
    "A short text.",
    "def f(x):\n    return x + 1\n",
    "  leading and trailing space  ",
    "Another text, longer than the others by some words, so that lengths differ. " * 3,
    "x",
]


@pytest.fixture
def encoder(toy, small_tokenizer):
    encoder = Encoder(toy).eval()
    encoder.tokenizer = small_tokenizer
    return encoder


@pytest.fixture
def embedder(encoder):
    return Embedder(encoder, prompts={"query": "question: ", "document": ""})


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_embeddings_are_pooled_and_normalised(pooling, encoder):
    vectors = Embedder(encoder, pooling).embed(TEXTS)
    assert vectors.dtype == np.float32 and vectors.shape == (len(TEXTS), 32)
    for vector, text in zip(vectors, TEXTS, strict=True):
        x = encoder(pack([encoder.tokenizer.encode(text)]))
        x = x[0] if pooling == "cls" else x.mean(0)
        np.testing.assert_allclose(vector, (x / x.norm()).numpy(), atol=1e-5)
        raw = Embedder(encoder, pooling).embed([text], normalize=False)[0]
        np.testing.assert_allclose(raw, x.numpy(), atol=1e-5)


def test_an_empty_list_gives_no_vectors(embedder):
    assert embedder.embed([]).shape == (0, 32)
    assert embedder.embed([], truncate_dim=8).shape == (0, 8)


@pytest.mark.parametrize("batch_tokens", [1, 7, 60, 100_000])
def test_batches_change_nothing(batch_tokens, embedder):
    expected = np.stack([embedder.embed([text])[0] for text in TEXTS])
    got = embedder.embed(TEXTS, batch_tokens=batch_tokens)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_truncated_dimensions_are_cut_before_normalising(embedder):
    raw = embedder.embed(TEXTS, normalize=False)
    cut = embedder.embed(TEXTS, truncate_dim=8)
    expected = raw[:, :8] / np.linalg.norm(raw[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(cut, axis=1), 1, atol=1e-5)
    assert (embedder.embed(TEXTS, truncate_dim=32) == embedder.embed(TEXTS)).all()


def test_prompts_by_name_and_by_text(embedder):
    written_out = embedder.embed(["question: " + text for text in TEXTS])
    assert (embedder.embed(TEXTS, prompt_name="query") == written_out).all()
    assert (embedder.embed(TEXTS, prompt="question: ") == written_out).all()
    plain = embedder.embed(TEXTS)
    assert not np.allclose(written_out, plain)
    assert (embedder.embed(TEXTS, prompt_name="document") == plain).all()
    assert (embedder.embed(TEXTS, prompt="") == plain).all()


def test_a_prompt_that_cannot_be_used(embedder, encoder):
    with pytest.raises(InputError, match="no prompt called 'qurey': the model has 'query', 'docu"):
        embedder.embed(TEXTS, prompt_name="qurey")
    with pytest.raises(InputError, match="no prompt called 'query': the model has no prompts"):
        Embedder(encoder).embed(TEXTS, prompt_name="query")
    with pytest.raises(InputError, match="exclude each other"):
        embedder.embed(TEXTS, prompt_name="query", prompt="question: ")
    with pytest.raises(InputError, match="of type int, not str: the prompt"):
        embedder.embed(TEXTS, prompt=5)


def test_the_default_prompt(encoder, embedder):
    other = Embedder(encoder, prompts=embedder.prompts, default_prompt="query")
    assert (other.embed(TEXTS) == embedder.embed(TEXTS, prompt_name="query")).all()
    assert (other.embed(TEXTS, prompt_name="document") == embedder.embed(TEXTS)).all()


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_prompts_that_are_not_pooled(pooling, encoder, tmp_path):
    prompts = {"query": "question:", "document": ""}
    embedder = Embedder(encoder, pooling, prompts=prompts, normalize=False, include_prompt=False)
    used = len(encoder.tokenizer.encode("question:")) - 1  # without [SEP]
    found = embedder.embed(TEXTS, prompt_name="query")
    for vector, text in zip(found, TEXTS, strict=True):
        x = encoder(pack([encoder.tokenizer.encode("question:" + text)]))[used:]
        x = x[0] if pooling == "cls" else x.mean(0)
        np.testing.assert_allclose(vector, x.numpy(), atol=1e-5)
    plain = Embedder(encoder, pooling, normalize=False)
    for options in ({}, {"prompt_name": "document"}, {"prompt": ""}):
        assert (embedder.embed(TEXTS, **options) == plain.embed(TEXTS)).all()
    embedder.save(tmp_path / "model")
    again = Embedder.load(tmp_path / "model", dtype="float32")
    assert not again.include_prompt
    np.testing.assert_allclose(again.embed(TEXTS, prompt_name="query"), found, atol=1e-4)


def test_special_tokens_in_a_text(encoder, small_tokenizer):
    ids = Embedder(encoder).tokenize(["a [SEP] b [MASK]"])[0][0]
    assert small_tokenizer.split_special_tokens and not {938, 940} & set(ids[1:-1])
    encoder.tokenizer = Tokenizer(
        tokenizers.Tokenizer.from_str(small_tokenizer.backend.to_str()), small_tokenizer.special
    )
    assert {938, 940} <= set(Embedder(encoder).tokenize(["a [SEP] b [MASK]"])[0][0][1:-1])


def test_loading_decides_on_special_tokens(embedder, tmp_path):
    embedder.save(tmp_path / "model")
    text = ["a [SEP] b"]
    parsed = Embedder.load(tmp_path / "model", dtype="stored")
    split = Embedder.load(tmp_path / "model", dtype="stored", split_special_tokens=True)
    assert (split.embed(text) == embedder.embed(text)).all()
    assert not np.allclose(parsed.embed(text), split.embed(text))


def test_texts_from_any_iterable(embedder):
    expected = embedder.embed(TEXTS)
    for texts in (tuple(TEXTS), iter(TEXTS), (t for t in TEXTS), np.array(TEXTS)):
        assert (embedder.embed(texts) == expected).all()
    ids = [embedder.tokenizer.encode(text) for text in TEXTS]
    for given in (iter(ids), [np.array(i) for i in ids], [torch.tensor(i) for i in ids]):
        assert (embedder.embed_ids(given) == expected).all()


@pytest.mark.parametrize("wrong", [None, 5, b"a", ["a"], "\ud800"], ids=ascii)
def test_what_is_not_a_text_is_refused(wrong, embedder):
    with pytest.raises(InputError, match="text 1"):
        embedder.embed(["a", wrong])


def test_normalization_is_the_directory_s(embedder, encoder, tmp_path):
    raw = embedder.embed(TEXTS, normalize=False)
    Embedder(encoder, normalize=False).save(tmp_path / "raw")
    embedder.save(tmp_path / "unit")
    encoder.save(tmp_path / "plain")
    for name, expected in (("raw", raw), ("plain", raw), ("unit", embedder.embed(TEXTS))):
        loaded = Embedder.load(tmp_path / name, dtype="stored")
        assert (loaded.embed(TEXTS) == expected).all(), name
        assert (loaded.embed(TEXTS, normalize=False) == raw).all()
        np.testing.assert_allclose(
            np.linalg.norm(loaded.embed(TEXTS, normalize=True), axis=1), 1, atol=1e-5
        )


def test_a_masked_lm_is_embedded_with_one_warning(toy, small_tokenizer, tmp_path, caplog):
    masked_lm = MaskedLM(toy)
    masked_lm.save(tmp_path / "masked", tokenizer=small_tokenizer)
    masked_lm.model.save(tmp_path / "bare", tokenizer=small_tokenizer)
    with caplog.at_level(logging.WARNING, logger="motherbird"):
        Embedder.load(tmp_path / "bare", dtype="stored")
        assert not caplog.records
        Embedder.load(tmp_path / "masked", dtype="stored")
        Embedder.load(tmp_path / "masked", dtype="stored")
    [record] = caplog.records
    assert "masked language model that was not trained for embeddings" in record.getMessage()


def test_saving_never_loses_a_head(toy, small_tokenizer, tmp_path):
    MaskedLM(toy).save(tmp_path / "model", tokenizer=small_tokenizer)
    before = {p: p.read_bytes() for p in (tmp_path / "model").iterdir()}
    embedder = Embedder.load(tmp_path / "model", dtype="stored")
    for save in (embedder.save, embedder.encoder.save):
        with pytest.raises(OutputExistsError, match=r"head that would be lost \(decoder.bias"):
            save(tmp_path / "model")
    assert {p: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before
    embedder.save(tmp_path / "other")
    embedder.save(tmp_path / "other")


def test_rounded_weights_are_saved_with_a_warning(embedder, tmp_path, caplog):
    embedder.save(tmp_path / "model")
    for dtype, says in (("bfloat16", "loaded from float32, rounded to bfloat16"), ("stored", "")):
        caplog.clear()
        Embedder(Encoder.load(tmp_path / "model", dtype=dtype)).save(tmp_path / dtype)
        messages = [r.getMessage() for r in caplog.records if "saved so" in r.getMessage()]
        assert len(messages) == bool(says) and says in "".join(messages)


@pytest.mark.parametrize("dtype", ["auto", "float32", "int8"])
def test_the_engine_saves_weights_as_they_were(dtype, embedder, tmp_path):
    embedder.save(tmp_path / "model")
    Embedder.load(tmp_path / "model", dtype=dtype).save(tmp_path / "again")
    for name in ("config.json", "model.safetensors", "tokenizer.json", "modules.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u3000"])
def test_an_empty_text_is_refused(text, embedder):
    with pytest.raises(InputError, match="text is empty.*text 1"):
        embedder.embed(["something", text, "else"])
    with pytest.raises(InputError, match="text is empty"):
        embedder.embed([text], prompt_name="query")


LONG = "many words " * 400


def test_a_text_beyond_the_limit_is_refused(embedder):
    with pytest.raises(InputError, match=r"the limit is 512: text 1 and 1 more"):
        embedder.embed(["short", LONG, LONG])
    with pytest.raises(InputError, match=r"the limit is 10: text 3"):
        embedder.embed(TEXTS[:1] + ["x", "y"] + TEXTS[3:], max_length=10)


@pytest.mark.parametrize("truncate", [True, False])
def test_a_prompt_without_room_for_text(truncate, embedder):
    """The text would be truncated to nothing, and all vectors would be equal."""
    prompt = "a prompt of several words: "
    used = len(embedder.tokenizer.encode(prompt.rstrip()))
    says = rf"prompt has {used} tokens and leaves no room for text within {used}: use a shorter p"
    arguments = {"prompt": prompt, "truncate": truncate}
    with pytest.raises(InputError, match=says):
        embedder.embed(TEXTS, max_length=used, **arguments)
    assert len(embedder.embed(["x"], prompt="question: ", truncate=truncate)) == 1
    if truncate:
        one, two = embedder.tokenize(["x y z", "y z x"], max_length=used + 1, **arguments)[0]
        assert len(one) == len(two) == used + 1 and one != two


def test_the_prompt_counts(embedder):
    text = "some words"
    size = len(embedder.tokenizer.encode("question: " + text))
    says = rf"the text has {size} tokens with the prompt, the limit is {size - 1}: text 0: split"
    with pytest.raises(InputError, match=says):
        embedder.embed([text], prompt_name="query", max_length=size - 1)


def test_truncation_on_request_warns_once(embedder, caplog):
    with caplog.at_level(logging.WARNING, logger="motherbird"):
        got = embedder.embed(["short", LONG, LONG], max_length=50, truncate=True)
    assert [r.getMessage() for r in caplog.records] == ["truncated 2 of 3 texts to 50 tokens"]
    ids = embedder.tokenizer.encode(LONG)
    with torch.no_grad():
        x = embedder.encoder(pack([[*ids[:49], 938]])).mean(0)
    np.testing.assert_allclose(got[1], (x / x.norm()).numpy(), atol=1e-5)
    caplog.clear()
    embedder.embed(["short"], truncate=True)
    assert not caplog.records


def test_the_limit_of_an_embedder(encoder):
    assert Embedder(encoder).max_length == 512
    assert Embedder(encoder, max_length=10_000).max_length == 512
    short = Embedder(encoder, max_length=10)
    with pytest.raises(InputError, match="limit is 10"):
        short.embed([TEXTS[3]])
    assert short.embed([TEXTS[3]], max_length=512).shape == (1, 32)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"truncate_dim": 0}, "use 1 to 32"),
        ({"truncate_dim": 33}, "use 1 to 32"),
        ({"max_length": 0}, "1 to 512"),
        ({"max_length": 513}, "1 to 512"),
        ({"max_length": 2, "truncate": True}, "fits into 2"),
        ({"batch_tokens": 0}, "invalid batch_tokens 0"),
        ({"batch_tokens": 5.5}, "batch_tokens is of type float"),
        ({"truncate_dim": "16"}, "truncate_dim is of type str"),
        ({"max_length": "16"}, "max_length is of type str"),
    ],
    ids=str,
)
def test_impossible_arguments(arguments, says, embedder):
    with pytest.raises(InputError, match=says):
        embedder.embed(TEXTS, **arguments)


def test_one_string_is_no_list(embedder):
    with pytest.raises(InputError, match="is a string"):
        embedder.embed("a text")


def test_an_embedder_without_tokenizer(toy):
    with pytest.raises(InputError, match="has no tokenizer"):
        Embedder(Encoder(toy)).embed(["a"])


def test_an_encoder_in_bfloat16_gives_float32(embedder):
    expected = embedder.embed(TEXTS)
    embedder.encoder.to(torch.bfloat16)
    got = embedder.embed(TEXTS)
    assert got.dtype == np.float32
    assert (got * expected).sum(1).min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)


# --- directories of sentence-transformers


@pytest.fixture
def saved(embedder, tmp_path):
    embedder.save(tmp_path / "model")
    return tmp_path / "model"


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_the_dialect_of_version_6_is_read(saved, embedder):
    write(saved / "1_Pooling/config.json", {"embedding_dimension": 32, "pooling_mode": "cls"})
    kinds = ("base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
        for i, (path, kind) in enumerate(zip(("", "1_Pooling"), kinds, strict=True))
    ]
    write(saved / "modules.json", modules)
    write(saved / "sentence_bert_config.json", {"transformer_task": "feature-extraction"})
    again = Embedder.load(saved, dtype="stored")
    assert (again.pooling, again.max_length) == ("cls", 512)
    expected = Embedder(embedder.encoder, "cls", normalize=False).embed(TEXTS)
    assert (again.embed(TEXTS) == expected).all()


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("modules.json", "{", "modules.json"),
        ("modules.json", {"0": "Transformer"}, "modules.json"),
        ("modules.json", ["Transformer"], "modules.json"),
        ("modules.json", [{"type": "sentence_transformers.models.LSTM"}], "module 'LSTM'"),
        ("modules.json", [{"type": "custom.Dense", "path": "2_Dense"}], "module 'Dense' at '2_D"),
        (
            "modules.json",
            [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}],
            "the modules are Dense: .*Transformer, Pooling, Dense, Normalize in this order",
        ),
        ("1_Pooling/config.json", [], "1_Pooling"),
        ("1_Pooling/config.json", {}, "1_Pooling"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "'max_tokens'"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "not supported",
        ),
        ("1_Pooling/config.json", {"pooling_mode": ["mean"]}, "1_Pooling"),
        (
            "1_Pooling/config.json",
            {"pooling_mode": "mean", "include_prompt": "no"},
            "'no' is not t",
        ),
        ("sentence_bert_config.json", {"max_seq_length": "long"}, "sentence_bert_config"),
        ("sentence_bert_config.json", {"max_seq_length": -1}, "sentence_bert_config"),
        ("sentence_bert_config.json", "[]", "sentence_bert_config"),
        ("config_sentence_transformers.json", {"prompts": ["a"]}, "config_sentence_tr"),
        ("config_sentence_transformers.json", {"prompts": {"a": 5}}, "config_sentence_tr"),
        (
            "config_sentence_transformers.json",
            {"prompts": {"a": "b"}, "default_prompt_name": "c"},
            "config_sentence_tr|'c'",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_cannot_be_read_rightly_is_refused(file, content, says, saved):
    write(saved / file, content)
    with pytest.raises(InputError, match=says):
        Embedder.load(saved, dtype="stored")


@pytest.mark.parametrize("split", [False, True])
def test_copies_and_pickles_keep_how_special_tokens_are_read(split, small_tokenizer):
    backend = tokenizers.Tokenizer.from_str(small_tokenizer.backend.to_str())
    tokenizer = Tokenizer(backend, small_tokenizer.special, split_special_tokens=split)
    for other in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert other.encode("a [SEP] b") == tokenizer.encode("a [SEP] b")
        assert other.split_special_tokens is split


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"pooling": "max"}, "pooling 'max' is unknown: use mean or cls"),
        ({"max_length": 0}, "invalid max_length 0"),
        ({"max_length": "5"}, "max_length is of type str"),
    ],
    ids=str,
)
def test_an_embedder_that_cannot_be_made(arguments, says, encoder):
    with pytest.raises(InputError, match=says):
        Embedder(encoder, **arguments)


def test_a_table_of_pandas_is_not_a_list_of_texts(embedder):
    class DataFrame:
        columns = ("text", "label")

        def __iter__(self):
            return iter(self.columns)

    with pytest.raises(InputError, match="texts is a DataFrame: pass one of its columns"):
        embedder.embed(DataFrame())


def test_the_length_that_version_6_stores_with_the_tokenizer(embedder, tmp_path):
    embedder.save(tmp_path / "model")
    write(tmp_path / "model/sentence_bert_config.json", {"transformer_task": "feature-extraction"})
    settings = json.loads((tmp_path / "model/tokenizer_config.json").read_text())
    (tmp_path / "model/motherbird.json").unlink()
    write(tmp_path / "model/tokenizer_config.json", settings | {"model_max_length": 6})
    assert Embedder.load(tmp_path / "model", dtype="stored").max_length == 6
    write(tmp_path / "model/tokenizer_config.json", settings | {"model_max_length": 10**30})
    assert Embedder.load(tmp_path / "model", dtype="stored").max_length == 512
