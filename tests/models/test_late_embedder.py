"""LateEmbedder: vectors of tokens, windows, expansion of queries, three kinds of directories."""

import json
import logging
import string
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from motherbird import Dense, Embedder, InputError, LateEmbedder, Tokenizer
from motherbird.errors import DamagedError, HeadError
from motherbird.models.late_embedder import windows
from motherbird.nn import Encoder, MaskedLM, pack

pytestmark = pytest.mark.usefixtures("no_type_checker")

TEXTS = [
    "A short text.",
    "def f(x):\n    return x + 1\n",
    "  leading and trailing space  ",
    "Another text, longer than the others by some words, so that lengths differ. " * 3,
    "x",
]
LONG = "".join(f"The number {n} is followed by {n + 1}. " for n in range(60))


@pytest.fixture
def tokenizer(small_tokenizer):
    """That of the tests, which reads special tokens in texts as loaded ones do."""
    return Tokenizer(
        tokenizers.Tokenizer.from_str(small_tokenizer.backend.to_str()), small_tokenizer.special
    )


@pytest.fixture
def encoder(toy, tokenizer):
    encoder = Encoder(replace(toy, initializer_range=0.1)).eval()
    encoder.tokenizer = tokenizer
    return encoder


def layer(outputs=8, inputs=32, **more):
    return Dense(np.random.default_rng(0).normal(size=(outputs, inputs)), **more)


@pytest.fixture
def make(encoder):
    def make(**more):
        return LateEmbedder(encoder, [layer()], add_prefixes=True, **more)

    return make


@torch.no_grad()
def expected(encoder, ids):
    rows = encoder(pack([ids])).numpy() @ layer().weight.T
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize(("kind", "unused"), [("query", "[unused0]"), ("document", "[unused1]")])
def test_vectors_of_tokens(kind, unused, make, encoder, tokenizer):
    model = make()
    found = model.embed_tokens(TEXTS, kind)
    marker = tokenizer.backend.token_to_id(unused)  # the prefix has taken its id
    for vectors, text in zip(found, TEXTS, strict=True):
        cls, *body = tokenizer.encode(text)
        assert vectors.dtype == np.float32 and vectors.shape == (len(body) + 2, model.size)
        np.testing.assert_allclose(vectors, expected(encoder, [cls, marker, *body]), atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert model.embed_tokens([], kind) == []
    again = model.embed_tokens(TEXTS, kind, batch_tokens=20)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_first_dimensions_of_a_vector(make):
    model = make()
    short = model.embed_tokens(TEXTS, truncate_dim=3)
    for vectors, own in zip(model.embed_tokens(TEXTS), short, strict=True):
        first = vectors[:, :3] / np.linalg.norm(vectors[:, :3], axis=1, keepdims=True)
        assert model.size > 3 and own.shape == first.shape
        np.testing.assert_allclose(own, first, atol=1e-5)


def test_several_layers_and_no_prefix(encoder, tokenizer):
    chain = [layer(16, activation="tanh"), layer(4, 16, bias=np.ones(4))]
    model = LateEmbedder(encoder, chain, query_prefix="", document_prefix="")
    [vectors] = model.embed_tokens(["some words"])
    with torch.no_grad():
        rows = encoder(pack([tokenizer.encode("some words")])).numpy()
    rows = np.tanh(rows @ chain[0].weight.T) @ chain[1].weight.T + 1
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, rows, atol=1e-5)


@given(length=st.integers(1, 60), size=st.integers(1, 20), overlap=st.integers(0, 19))
def test_every_token_is_in_the_window_whose_end_is_farther_away(length, size, overlap):
    overlap %= size
    found = windows(length, size, overlap)
    given = [n for _, first, last in found for n in range(first, last)]
    assert given == list(range(length))
    starts = [start for start, _, _ in found]
    assert starts[0] == 0 and len(set(starts)) == len(starts)
    assert max(starts) + size >= length
    assert all(a + size - b >= overlap for a, b in zip(starts, starts[1:], strict=False))

    def distance(token, start):  # to the nearest end that is not one of the text
        left = token - start if start else length
        right = start + size - 1 - token if start + size < length else length
        return min(left, right) if start <= token < start + size else -1

    for start, first, last in found:
        for token in range(first, last):
            assert distance(token, start) == max(distance(token, other) for other in starts)


@pytest.mark.parametrize("overlap", [None, 0, 40])
def test_a_long_document_has_windows(overlap, make, encoder, tokenizer):
    model = make(document_length=64)
    [vectors, short] = model.embed_tokens([LONG, "short"], overlap=overlap)
    cls, *body, sep = tokenizer.encode(LONG)
    head = [cls, model.tokenizer.backend.token_to_id("[D] ")]
    assert len(vectors) == len(body) + 3 and len(short) < 10
    room = 64 - 3
    for start, first, last in windows(len(body), room, 15 if overlap is None else overlap):
        own = expected(encoder, [*head, *body[start : start + room], sep])
        rows = slice(2 + first, 2 + last)
        np.testing.assert_allclose(vectors[rows], own[2 + first - start : 2 + last - start],
                                   atol=1e-5)  # fmt: skip
        if first == 0:
            np.testing.assert_allclose(vectors[:2], own[:2], atol=1e-5)
    np.testing.assert_allclose(vectors[-1], own[-1], atol=1e-5)


def test_truncation_on_request(make, encoder, tokenizer, caplog):
    model = make(document_length=64, query_length=16)
    cls, *body, sep = tokenizer.encode(LONG)
    with caplog.at_level(logging.WARNING, logger="motherbird"):
        [vectors, _] = model.embed_tokens([LONG, "short"], max_length=30)
    assert [r.getMessage() for r in caplog.records] == ["truncated 1 of 2 documents to 30 tokens"]
    head = [cls, model.tokenizer.backend.token_to_id("[D] ")]
    np.testing.assert_allclose(vectors, expected(encoder, [*head, *body[:27], sep]), atol=1e-5)
    with pytest.raises(InputError, match=r"the query has \d+ tokens, the limit is 16: text 1"):
        model.embed_tokens(["short", LONG], "query")
    assert len(model.embed_tokens([LONG], "query", max_length=16)[0]) == 16


def test_a_prompt_without_room_for_text(make):
    model = make(prompts={"document": "a prompt of several words: "})
    assert len(model.embed_tokens(["x"])[0]) > 8
    with pytest.raises(InputError, match="the prompt leaves no room for text within 8 tokens"):
        model.embed_tokens(["x"], max_length=8)


def test_the_skiplist_is_for_documents(make, tokenizer, caplog):
    text = "a, b. c!"
    plain, model = make(), make(skiplist=[*string.punctuation, "no token"])
    assert "words of the skiplist are not tokens: 'no token'" in caplog.text
    for kind in ("query", "document"):
        whole, some = (each.embed_tokens([text], kind)[0] for each in (plain, model))
        tokens = [tokenizer.backend.id_to_token(i) for i in tokenizer.encode(text)]
        tokens.insert(1, "prefix")
        kept = [t not in string.punctuation or kind == "query" for t in tokens]
        assert sum(kept) == len(tokens) - 3 * (kind == "document")
        np.testing.assert_array_equal(some, whole[kept])


def test_attended_expansion_is_more_tokens(make, encoder, tokenizer):
    model = make(query_length=20, expand_to=20, attend_to_expansion=True)
    cls, *body = tokenizer.encode("some words")
    ids = [cls, model.tokenizer.backend.token_to_id("[Q] "), *body]
    ids += [tokenizer.mask_id] * (20 - len(ids))
    np.testing.assert_allclose(model.embed_tokens(["some words"], "query")[0],
                               expected(encoder, ids), atol=1e-5)  # fmt: skip
    assert len(model.embed_tokens(["some words"])[0]) < 10


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_unattended_expansion_changes_no_other_token(dtype, make, tmp_path):
    """On the engine too, which has no such attention: torch computes these queries."""
    plain, model = make(), make(query_length=32, expand_to=32)
    before, after = (each.embed_tokens(TEXTS[:3], "query") for each in (plain, model))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(other[: len(one)], one, atol=1e-5)
        assert len(other) == 32 and abs(other[len(one) :] - one[-1]).max() > 1e-2
    model.save(tmp_path / "model")
    again = LateEmbedder.load(tmp_path / "model", dtype=dtype).embed_tokens(TEXTS[:3], "query")
    for one, other in zip(after, again, strict=True):
        assert (one * other).sum(1).min() > (0.9999 if dtype == "float32" else 0.99)


# --- directories


def settings_of(folder, name):
    return json.loads((folder / name).read_text())


def change(folder, name, **more):
    (folder / "motherbird.json").unlink(missing_ok=True)
    file = folder / name
    file.write_text(json.dumps((settings_of(folder, name) if file.exists() else {}) | more))


@pytest.fixture
def saved(make, tmp_path):
    make(query_length=24, document_length=100, skiplist=["."]).save(tmp_path / "model")
    return tmp_path / "model"


def same(one, other, atol=1e-4):
    for kind in ("query", "document"):
        for a, b in zip(one.embed_tokens(TEXTS[:3], kind), other.embed_tokens(TEXTS[:3], kind),
                        strict=True):  # fmt: skip
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, atol=atol)


def test_the_layout_of_pylate(saved, make, toy, tmp_path):
    modules = settings_of(saved, "modules.json")
    assert [(m["path"], m["type"]) for m in modules] == [
        ("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense")
    ]  # fmt: skip
    found = settings_of(saved, "config_sentence_transformers.json")
    assert found.pop("__version__")["sentence_transformers"] == "5.3.0"
    assert found == {
        "model_type": "ColBERT", "prompts": {}, "default_prompt_name": None,
        "similarity_fn_name": "MaxSim", "query_prefix": "[Q] ", "document_prefix": "[D] ",
        "query_length": 24, "document_length": 100, "attend_to_expansion_tokens": False,
        "do_query_expansion": False, "skiplist_words": ["."],
    }  # fmt: skip
    assert settings_of(saved, "1_Dense/config.json") == {
        "in_features": 32, "out_features": 8, "bias": False, "use_residual": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }  # fmt: skip
    assert load_file(saved / "1_Dense/model.safetensors")["linear.weight"].shape == (8, 32)
    assert settings_of(saved, "config.json")["colbert_dim"] == 8
    stored = load_file(saved / "model.safetensors")
    assert stored["embeddings.tok_embeddings.weight"].shape == (toy.vocab_size, 32)
    added = {t["content"]: t for t in settings_of(saved, "tokenizer.json")["added_tokens"]}
    assert not added["[Q] "]["special"] and "[unused0]" not in added and "[unused2]" in added
    loaded = LateEmbedder.load(saved, dtype="float32")
    assert loaded.lengths == {"query": 24, "document": 100} and loaded.skiplist == ["."]
    same(loaded, make(query_length=24, document_length=100, skiplist=["."]))
    loaded.save(tmp_path / "again")
    for name in settings_of(saved, "motherbird.json")["sha256"].keys() - {"README.md"}:
        assert (tmp_path / "again" / name).read_bytes() == (saved / name).read_bytes(), name


def test_what_pylate_does_by_default(saved):
    """Files of its earlier versions state less."""
    (saved / "config_sentence_transformers.json").write_text('{"model_type": "ColBERT"}')
    model = LateEmbedder.load(saved)
    assert model.lengths == {"query": 32, "document": 180} and model.expand_to == 32
    assert model.skiplist == list(string.punctuation) and not model.attend_to_expansion


@pytest.fixture
def native(saved):
    """The same model as sentence-transformers 6 writes it."""
    kinds = ("base.modules.transformer.Transformer", "base.modules.dense.Dense",
             "multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask",
             "base.modules.normalize.Normalize")  # fmt: skip
    paths = ("", "1_Dense", "2_MultiVectorMask", "3_Normalize")
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.{kind}"}
        for n, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    (saved / "modules.json").write_text(json.dumps(modules))
    (saved / "config_sentence_transformers.json").write_text(json.dumps({
        "model_type": "MultiVectorEncoder", "prompts": {"query": "[Q] ", "document": "[D] "},
    }))  # fmt: skip
    (saved / "sentence_bert_config.json").write_text(json.dumps({
        "module_output_name": "token_embeddings", "document_length": 100, "query_length": 24,
    }))  # fmt: skip
    for place, content in (
        (paths[2], {"skiplist_words": ["."], "skiplist_tasks": ["document"]}),
        (paths[3], {"module_input_name": "token_embeddings"}),
    ):
        (saved / place).mkdir()
        (saved / place / "config.json").write_text(json.dumps(content))
    return saved


def test_the_layout_of_version_6(native, make):
    model = LateEmbedder.load(native, dtype="float32")
    same(model, make(query_length=24, document_length=100, skiplist=["."]))
    assert model.prefixes == {"query": "[Q] ", "document": "[D] "} and model.expand_to is None


def test_prompts_of_version_6_that_are_texts(native, encoder, tokenizer, tmp_path):
    change(native, "config_sentence_transformers.json", prompts={"query": "q: ", "passage": "p "})
    model = LateEmbedder.load(native, dtype="float32")
    assert model.prefixes == {"query": "", "document": ""}
    [vectors] = model.embed_tokens(["some words"], "query")
    np.testing.assert_allclose(
        vectors, expected(encoder, tokenizer.encode("q: some words")), atol=1e-4
    )
    assert model.prompts == {"query": "q: ", "document": "p "}
    model.save(tmp_path / "again")
    same(LateEmbedder.load(tmp_path / "again", dtype="float32"), model)


@pytest.mark.parametrize("strategy", ["fixed", "min"])
def test_expansion_of_version_6(strategy, native, tmp_path):
    expansion = {"strategy": strategy, "attend": True, "length": 16, "token": None}
    length = 64 if strategy == "min" else None
    change(native, "sentence_bert_config.json", query_length=length, query_expansion=expansion)
    model = LateEmbedder.load(native)
    assert model.expand_to == 16 and model.attend_to_expansion
    assert model.lengths["query"] == (64 if strategy == "min" else 16)
    if strategy == "min":
        with pytest.raises(InputError, match="expand_to 16 is not query_length 64"):
            model.save(tmp_path / "again")


@pytest.fixture
def stanford(encoder, tmp_path):
    """The layout of ColBERT's own library, with the encoder of the other fixtures."""
    folder = tmp_path / "stanford"
    encoder.save(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors = {f"model.{name}": tensor for name, tensor in tensors.items()}
    save_file(tensors | {"linear.weight": layer().weight}, folder / "model.safetensors")
    change(folder, "config.json", architectures=["HF_ColBERT"])
    change(
        folder, "artifact.metadata", query_maxlen=16, doc_maxlen=90, attend_to_mask_tokens=True,
        query_token_id="[unused2]", doc_token_id="[unused3]", mask_punctuation=False,
    )  # fmt: skip
    return folder


def test_the_layout_of_stanford(stanford, encoder, tokenizer, tmp_path):
    model = LateEmbedder.load(stanford, dtype="float32")
    assert model.lengths == {"query": 16, "document": 90} and model.expand_to == 16
    assert model.prefixes == {"query": "[unused2]", "document": "[unused3]"}
    cls, *body = tokenizer.encode(" some words")
    ids = [cls, tokenizer.backend.token_to_id("[unused3]"), *body]
    np.testing.assert_allclose(
        model.embed_tokens(["some words"])[0], expected(encoder, ids), atol=1e-4
    )
    model.save(tmp_path / "again")
    same(LateEmbedder.load(tmp_path / "again", dtype="float32"), model)


def test_a_stanford_checkpoint_without_its_matrix(stanford, encoder):
    encoder.save(stanford.parent / "bare")
    (stanford / "model.safetensors").write_bytes(
        (stanford.parent / "bare" / "model.safetensors").read_bytes()
    )
    with pytest.raises(DamagedError, match="there is no matrix linear.weight"):
        LateEmbedder.load(stanford)


def test_the_linear_layer_of_a_dense_model_gives_vectors_of_tokens(encoder, tmp_path):
    """As in MultiVectorEncoder, which says that it converts the model."""
    library = pytest.importorskip("sentence_transformers")
    width = encoder.config.hidden_size
    weight = np.random.default_rng(0).normal(size=(7, width)).astype(np.float32)
    prompts = {"query": "search: "}
    dense = Embedder(encoder, prompts=prompts, dense=[Dense(weight)])
    dense.save(tmp_path / "dense")
    model = LateEmbedder.load(tmp_path / "dense", dtype="float32")
    assert model.size == 7 and model.prefixes == {"query": "", "document": ""}
    theirs = library.MultiVectorEncoder(str(tmp_path / "dense"), device="cpu")
    texts = ["some words", "a longer text of some other words"]
    for kind, encode in (("query", theirs.encode_query), ("document", theirs.encode_document)):
        for own, their in zip(model.embed_tokens(texts, kind), encode(texts), strict=True):
            np.testing.assert_allclose(own, their.float().numpy(), atol=1e-4)


def test_other_models_are_refused(toy, tokenizer, encoder, saved, stanford, tmp_path):
    MaskedLM(toy).save(tmp_path / "masked", tokenizer=tokenizer)
    with pytest.raises(HeadError, match="not a late-interaction model.*use a ColBERT model") as e:
        LateEmbedder.load(tmp_path / "masked")
    assert "\n" not in str(e.value)
    Embedder(encoder).save(tmp_path / "dense")
    with pytest.raises(HeadError, match="not a late-interaction model.*load it with Embedder"):
        LateEmbedder.load(tmp_path / "dense")
    for folder in (saved, stanford):
        with pytest.raises(InputError, match="a vector for each token.*with LateEmbedder"):
            Embedder.load(folder)


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("config_sentence_transformers.json", {"query_prefix": "[Z] "}, r"'\[Z\] ' is not a token"),
        ("config_sentence_transformers.json", {"query_length": 0}, "query_length = 0 is not a num"),
        ("config_sentence_transformers.json", {"document_prefix": 5}, "document_prefix = 5"),
        ("config_sentence_transformers.json", {"do_query_expansion": "no"}, "'no' is not true or"),
        ("config_sentence_transformers.json", {"skiplist_words": [5]}, "skiplist_words is not a"),
        ("config_sentence_transformers.json", {"prompts": {"query": 5}}, "prompts is not an obj"),
        ("1_Dense/config.json", {"use_residual": True}, "use_residual = true"),
        ("1_Dense/config.json", {"module_input_name": "sentence_embedding"}, "module_input_name"),
        ("1_Dense/config.json", {"in_features": 16, "out_features": 8}, "linear.weight is"),
    ],
    ids=str,
)  # fmt: skip
def test_files_of_pylate_that_cannot_be_used(file, changes, says, saved):
    change(saved, file, **changes)
    with pytest.raises((InputError, DamagedError), match=says):
        LateEmbedder.load(saved)


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        ("sentence_bert_config.json", {"query_expansion": {"strategy": "x"}}, "query_expansion ="),
        ("sentence_bert_config.json", {"query_expansion": {"strategy": "fixed"}}, "has no length"),
        (
            "sentence_bert_config.json",
            {"query_expansion": {"strategy": "fixed", "length": 9, "token": "[SEP]"}},
            r"token = '\[SEP\]' is not supported",
        ),
        ("sentence_bert_config.json", {"module_output_name": "scores"}, "'scores' is not supp"),
        ("2_MultiVectorMask/config.json", {"skiplist_tasks": ["query"]}, "skiplist_tasks"),
        ("2_MultiVectorMask/config.json", {"keep_only_token_ids": [3]}, "keep_only_token_ids"),
        ("3_Normalize/config.json", {"module_input_name": "x"}, "no Normalize of token_embed"),
    ],
    ids=str,
)
def test_files_of_version_6_that_cannot_be_used(file, changes, says, native):
    change(native, file, **changes)
    with pytest.raises(InputError, match=says):
        LateEmbedder.load(native)


def test_modules_in_another_order(native, saved):
    modules = settings_of(native, "modules.json")
    (native / "modules.json").write_text(json.dumps([*modules[:1], *modules[2:]]))
    with pytest.raises(InputError, match="the modules are Transformer, MultiVectorMask, Normalize"):
        LateEmbedder.load(native)


def test_a_module_without_files(saved):
    (saved / "1_Dense/model.safetensors").unlink()
    with pytest.raises(DamagedError, match="the file is missing: .*1_Dense/model.safetensors"):
        LateEmbedder.load(saved)


# --- arguments


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"projection": []}, "there is no projection"),
        ({"projection": [layer(8, 31)]}, "takes rows of 31"),
        ({}, r"query_prefix '\[Q\] ' is not a token of the tokenizer.*add_prefixes=True"),
        ({"query_prefix": 5}, "of type int, not str: query_prefix"),
        ({"add_prefixes": True, "prompts": {"other": "x"}}, "a prompt called 'other'"),
        ({"add_prefixes": True, "query_length": 0}, "invalid query_length 0"),
        ({"add_prefixes": True, "query_length": 8, "expand_to": 9}, "invalid expand_to 9"),
        ({"add_prefixes": True, "expand_to": True}, "expand_to is of type bool"),
        ({"add_prefixes": True, "attend_to_expansion": "no"}, "attend_to_expansion is of type"),
        ({"add_prefixes": True, "skiplist": "."}, "skiplist is a string"),
    ],
    ids=str,
)
def test_a_model_that_cannot_be_made(arguments, says, encoder):
    with pytest.raises(InputError, match=says):
        LateEmbedder(encoder, **({"projection": [layer()]} | arguments))


@pytest.mark.parametrize(
    ("texts", "arguments", "says"),
    [
        (["a", " "], {}, "the text is empty: text 1"),
        (["a", None], {}, "the text is missing .*text 1"),
        ("a text", {}, "texts is a string"),
        (["a"], {"kind": "passage"}, "unknown kind 'passage': use query or document"),
        (["a"], {"max_length": 3}, "no text fits into 3 tokens: use 4 or more"),
        (["a"], {"max_length": 513}, "use 1 to 512"),
        (["a"], {"overlap": -1}, "invalid overlap -1"),
        (["a"], {"overlap": 509}, "invalid overlap 509: use 0 to 508"),
        (["a"], {"batch_tokens": 0}, "invalid batch_tokens 0"),
        (["a"], {"truncate_dim": 0}, "invalid truncate_dim 0"),
        (["a"], {"truncate_dim": 999}, "invalid truncate_dim 999"),
    ],
    ids=str,
)
def test_impossible_arguments(texts, arguments, says, make):
    with pytest.raises(InputError, match=says):
        make().embed_tokens(texts, **arguments)


def test_a_model_without_tokenizer(toy):
    with pytest.raises(InputError, match="has no tokenizer"):
        LateEmbedder(Encoder(toy), [layer()])
