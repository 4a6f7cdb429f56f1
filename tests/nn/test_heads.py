"""What stands on the encoder: pooling, masked LM, classifiers, and the embedder."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from motherbird import (
    Embedder,
    Encoder,
    InputError,
    MaskedLM,
    SequenceClassifier,
    TokenClassifier,
    pack,
)
from motherbird.nn.heads import pool

DOCUMENTS = [[937, 5, 6, 7, 938], [937, 100, 938], [937, *range(60), 938]]
TEXTS = [
    "A short text.",
    "def f(x):\n    return x + 1\n",
    "  leading and trailing space  ",
    "Another text, longer than the others by some words, so that lengths differ. " * 3,
    "x",
]


# --- pooling


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    how=st.sampled_from(["cls", "mean"]),
)
def test_pooling_is_a_loop_over_documents(lengths, how):
    packed = pack([[0] * n for n in lengths])
    x = torch.randn(sum(lengths), 5)
    rows = [d[0] if how == "cls" else d.mean(0) for d in x.split(lengths)]
    torch.testing.assert_close(pool(x, packed, how), torch.stack(rows))


def test_pooling_in_bfloat16_sums_in_float32():
    packed = pack([[0] * 4000])
    x = torch.ones(4000, 3, dtype=torch.bfloat16)
    x[1::2] = 2
    pooled = pool(x, packed, "mean")
    assert pooled.dtype == torch.bfloat16
    assert (pooled == 1.5).all()  # a sum in bfloat16 would stick at 512


def test_pooling_has_a_gradient():
    packed = pack([[0] * 3, [0]])
    x = torch.randn(4, 2, requires_grad=True)
    pool(x, packed, "mean").sum().backward()
    torch.testing.assert_close(x.grad[:, 0], torch.tensor([1 / 3, 1 / 3, 1 / 3, 1]))


# --- masked LM


@pytest.fixture
def masked_lm(toy, small_tokenizer):
    model = MaskedLM(toy).eval()
    model.model.tokenizer = small_tokenizer
    return model


@torch.no_grad()
def test_positions_are_rows_of_the_full_logits(masked_lm):
    packed = pack(DOCUMENTS)
    full = masked_lm(packed)
    assert full.shape == (len(packed.ids), 1024)
    for rows in ([0], [3, 1, 3], list(range(len(packed.ids)))):
        torch.testing.assert_close(masked_lm(packed, torch.tensor(rows)), full[rows])
    assert masked_lm(packed, torch.tensor([], dtype=torch.int64)).shape == (0, 1024)


@torch.no_grad()
def test_logits_are_the_head_written_out(masked_lm):
    state = masked_lm.state_dict()
    state["decoder.bias"].uniform_()
    packed = pack(DOCUMENTS)
    x = masked_lm.model(packed) @ state["head.dense.weight"].T
    x = x * 0.5 * (1 + torch.erf(x / 2**0.5))
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    x = x * state["head.norm.weight"]
    expected = x @ state["model.embeddings.tok_embeddings.weight"].T + state["decoder.bias"]
    torch.testing.assert_close(masked_lm(packed), expected, atol=1e-5, rtol=1e-4)


def test_an_untied_decoder_has_a_weight_of_its_own(toy):
    model = MaskedLM(replace(toy, tie_word_embeddings=False, decoder_bias=False))
    names = dict(model.named_parameters()).keys()
    assert "decoder.weight" in names and "decoder.bias" not in names
    model(pack(DOCUMENTS)).sum().backward()
    assert model.decoder.weight.grad is not None
    tied = dict(MaskedLM(toy).named_parameters()).keys()
    assert "decoder.weight" not in tied and "decoder.bias" in tied


def test_fill(masked_lm):
    text = "The [MASK] of the parser is [MASK]."
    answers = masked_lm.fill(text, top_k=7)
    assert [len(candidates) for candidates in answers] == [7, 7]
    ids = masked_lm.model.tokenizer.encode_masked(text)
    places = [i for i, token in enumerate(ids) if token == 940]
    with torch.no_grad():
        probabilities = masked_lm(pack([ids])).softmax(-1)[places]
    for candidates, truth in zip(answers, probabilities, strict=True):
        given_ = [c.probability for c in candidates]
        assert given_ == sorted(given_, reverse=True)
        assert {c.token_id for c in candidates} == set(truth.topk(7).indices.tolist())
        for c in candidates:
            assert c.probability == pytest.approx(truth[c.token_id].item(), rel=1e-4)
            assert c.text == masked_lm.model.tokenizer.decode([c.token_id]).strip()


def test_fill_puts_a_model_that_is_being_trained_to_rest(toy, small_tokenizer):
    model = MaskedLM(replace(toy, mlp_dropout=0.5, embedding_dropout=0.5)).train()
    model.model.tokenizer = small_tokenizer
    assert model.fill("a [MASK]") == model.fill("a [MASK]")


@pytest.mark.parametrize(
    ("text", "top_k", "says"),
    [
        ("no mask", 5, "no \\[MASK\\]"),
        ("a [MASK]", 0, "top_k = 0"),
        ("a [MASK]", 1025, "1 to 1024"),
        ("word " * 600 + "[MASK]", 5, "longer than the model's 512"),
    ],
)
def test_fill_refuses(text, top_k, says, masked_lm):
    with pytest.raises(InputError, match=says):
        masked_lm.fill(text, top_k)


def test_ids_outside_the_vocabulary_are_refused(masked_lm):
    with pytest.raises(InputError, match="id 1024 .*document 1, token 2"):
        masked_lm(pack([[1], [2, 3, 1024]]))


def test_documents_beyond_the_limit_are_refused(masked_lm):
    with pytest.raises(InputError, match="513 tokens is longer than the model's 512.*document 1"):
        masked_lm(pack([[1], [2] * 513]))
    with torch.no_grad():
        assert masked_lm(pack([[2] * 512])).shape == (512, 1024)


# --- classifiers


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_sequence_classifier_pools_before_its_head(pooling, toy):
    model = SequenceClassifier(replace(toy, classifier_pooling=pooling), ("a", "b", "c")).eval()
    packed = pack(DOCUMENTS)
    logits = model(packed)
    assert logits.shape == (3, 3)
    for row, document in zip(logits, DOCUMENTS, strict=True):
        x = model.model(pack([document]))
        x = x[:1] if pooling == "cls" else x.mean(0, keepdim=True)
        torch.testing.assert_close(row, model.classifier(model.head(x))[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_token_classifier_answers_every_token(toy):
    model = TokenClassifier(toy, ("O", "B", "I")).eval()
    packed = pack(DOCUMENTS)
    expected = model.classifier(model.head(model.model(packed)))
    assert torch.equal(model(packed), expected)
    assert model(packed).shape == (len(packed.ids), 3)


def test_dropout_is_for_training_only(toy):
    model = SequenceClassifier(replace(toy, classifier_dropout=0.5), ("a", "b"))
    packed = pack(DOCUMENTS)
    assert not torch.equal(model.train()(packed), model(packed))
    assert torch.equal(model.eval()(packed), model(packed))


@pytest.mark.parametrize("cls", [MaskedLM, SequenceClassifier, TokenClassifier])
def test_every_parameter_of_a_model_is_trained(cls, toy):
    model = cls(toy) if cls is MaskedLM else cls(toy, ("a", "b"))
    model(pack(DOCUMENTS)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


# --- embedder


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
    assert (embedder.embed(TEXTS, prompt="query") == written_out).all()
    assert (embedder.embed(TEXTS, prompt="question: ") == written_out).all()
    plain = embedder.embed(TEXTS)
    assert not np.allclose(written_out, plain)
    assert (embedder.embed(TEXTS, prompt="document") == plain).all()
    assert (embedder.embed(TEXTS, prompt="") == plain).all()


def test_the_default_prompt(encoder, embedder):
    other = Embedder(encoder, prompts=embedder.prompts, default_prompt="query")
    assert (other.embed(TEXTS) == embedder.embed(TEXTS, prompt="query")).all()
    assert (other.embed(TEXTS, prompt="document") == embedder.embed(TEXTS)).all()


def test_special_tokens_in_a_text_are_text(embedder):
    a, b = embedder.embed(["a [SEP] b", "a  b"])
    assert not np.allclose(a, b)
    assert 938 not in embedder.tokenizer.encode("a [SEP] b")[1:-1]


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u3000"])
def test_an_empty_text_is_refused(text, embedder):
    with pytest.raises(InputError, match="empty text.*text 1"):
        embedder.embed(["something", text, "else"])
    with pytest.raises(InputError, match="empty text"):
        embedder.embed([text], prompt="query")


LONG = "many words " * 400


def test_a_text_beyond_the_limit_is_refused(embedder):
    with pytest.raises(InputError, match=r"more than the limit of 512: text 1 and 1 others"):
        embedder.embed(["short", LONG, LONG])
    with pytest.raises(InputError, match=r"more than the limit of 10: text 3"):
        embedder.embed(TEXTS[:1] + ["x", "y"] + TEXTS[3:], max_length=10)


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
    with pytest.raises(InputError, match="limit of 10"):
        short.embed([TEXTS[3]])
    assert short.embed([TEXTS[3]], max_length=512).shape == (1, 32)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"truncate_dim": 0}, "1..32"),
        ({"truncate_dim": 33}, "1..32"),
        ({"max_length": 0}, "1 to 512"),
        ({"max_length": 513}, "1 to 512"),
        ({"max_length": 2, "truncate": True}, "fits into 2"),
        ({"batch_tokens": 0}, "budget of 0"),
    ],
    ids=str,
)
def test_impossible_arguments(arguments, says, embedder):
    with pytest.raises(InputError, match=says):
        embedder.embed(TEXTS, **arguments)


def test_one_string_is_no_list(embedder):
    with pytest.raises(InputError, match="one string"):
        embedder.embed("a text")


def test_an_embedder_without_tokenizer(toy):
    with pytest.raises(InputError, match="without a tokenizer"):
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
    again = Embedder.load(saved)
    assert (again.pooling, again.max_length) == ("cls", 512)
    assert (again.embed(TEXTS) == Embedder(embedder.encoder, "cls").embed(TEXTS)).all()


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("modules.json", "{", "modules.json"),
        ("modules.json", {"0": "Transformer"}, "modules.json"),
        ("modules.json", ["Transformer"], "modules.json"),
        ("modules.json", [{"type": "sentence_transformers.models.Dense"}], "module 'Dense'"),
        ("1_Pooling/config.json", [], "1_Pooling"),
        ("1_Pooling/config.json", {}, "1_Pooling"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "'max_tokens'"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "not supported",
        ),
        ("1_Pooling/config.json", {"pooling_mode": ["mean"]}, "1_Pooling"),
        ("1_Pooling/config.json", {"pooling_mode": "mean", "include_prompt": False}, "prompt"),
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
        Embedder.load(saved)
