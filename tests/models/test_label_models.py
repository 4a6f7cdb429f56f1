"""Classifier, Tagger and Scorer: the predictions of transformers, on the engine and on torch."""

import json
import logging
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from motherbird import Classifier, Embedder, InputError, MaskedLM, Scorer, Tagger, nn
from motherbird.core.hf_config import HeadConfig, write_head
from motherbird.core.spans import spans as spans_of
from motherbird.core.words import split_words
from motherbird.errors import HeadError
from motherbird.nn import checkpoint

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("no_type_checker")

BACKENDS = ["float32", "stored"]  # the engine, and torch
TEXTS = [
    "A short text.",
    "def f(x):\n    return x + 1\n",
    "  leading and trailing space  ",
    "Another text, longer than the others by some words, so that lengths differ. " * 3,
    "Ada Lovelace lived in London, and wrote the first program.",
]
PAIRS = [(a, b) for a in TEXTS[:3] for b in (*TEXTS[2:], "")]
LONG = "many words " * 400
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@pytest.fixture
def save(toy, small_tokenizer, tmp_path):
    """Write a model with random weights whose predictions differ from text to text."""

    def write(cls, labels, head=None, name="model", **changes):
        module = cls(replace(toy, initializer_range=0.3, **changes), labels)
        directory = tmp_path / name
        more = (lambda fresh: write_head(fresh, head)) if head else (lambda fresh: None)
        checkpoint.save(module, directory, tokenizer=small_tokenizer, write_more=more)
        return directory

    return write


def theirs(kind, directory, *texts):
    """Return the logits of transformers for each text, or pair of texts."""
    model = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(directory).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    with torch.no_grad():
        batches = [[[text] for text in row] for row in zip(*texts, strict=True)]  # "" is a text
        rows = [model(**tokenizer(*each, return_tensors="pt")).logits[0] for each in batches]
    return model.config, rows


# --- texts to labels


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("dtype", BACKENDS)
def test_a_classifier_equals_transformers(dtype, pooling, save):
    directory = save(nn.SequenceClassifier, ("no", "yes", "maybe"), classifier_pooling=pooling)
    config, rows = theirs("SequenceClassification", directory, TEXTS)
    classifier = Classifier.load(directory, dtype=dtype)
    wanted = torch.stack(rows).softmax(-1).numpy()
    found = classifier.probabilities(TEXTS)
    assert found.dtype == np.float32 and wanted.std(0).max() > 1e-2
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    assert classifier.labels == tuple(config.id2label[n] for n in range(3))
    for prediction, row in zip(classifier.predict(TEXTS), wanted, strict=True):
        assert prediction.label == config.id2label[int(row.argmax())]
        assert prediction.labels == (prediction.label,)
        assert prediction.probability == pytest.approx(row.max(), abs=1e-4)


@pytest.mark.parametrize("dtype", BACKENDS)
def test_any_number_of_labels(dtype, save):
    head = HeadConfig(("a", "b", "c", "d"), "multi", 2.0, {"a": 0.0, "b": 1.0})
    directory = save(nn.SequenceClassifier, head.labels, head)
    config, rows = theirs("SequenceClassification", directory, TEXTS)
    assert config.problem_type == "multi_label_classification"
    classifier = Classifier.load(directory, dtype=dtype)
    wanted = (torch.stack(rows) / 2).sigmoid().numpy()
    np.testing.assert_allclose(classifier.probabilities(TEXTS), wanted, atol=1e-4)
    for prediction, row in zip(classifier.predict(TEXTS), wanted, strict=True):
        reached = {"a"} | {name for name, p in zip("cd", row[2:], strict=True) if p >= 0.5}
        assert set(prediction.labels) == reached
        assert prediction.label == "abcd"[row.argmax()]
        order = [row["abcd".index(label)] for label in prediction.labels]
        assert order == sorted(order, reverse=True)


def test_a_label_that_reaches_no_threshold(save):
    head = HeadConfig(("a", "b"), "multi", thresholds={"a": 1.0, "b": 1.0})
    [prediction] = Classifier.load(save(nn.SequenceClassifier, ("a", "b"), head)).predict(["x"])
    assert prediction.labels == () and prediction.label in ("a", "b")


def test_the_temperature_changes_probabilities_alone(save):
    plain = Classifier.load(save(nn.SequenceClassifier, ("a", "b", "c")))
    head = HeadConfig(("a", "b", "c"), temperature=3.0)
    cooler = Classifier(plain.model, head)
    before, after = plain.probabilities(TEXTS), cooler.probabilities(TEXTS)
    np.testing.assert_allclose(after.sum(1), 1, atol=1e-6)
    spread = [np.ptp(np.log(p), axis=1) for p in (before, after)]
    np.testing.assert_allclose(spread[0], 3 * spread[1], rtol=1e-3)
    assert [p.label for p in plain.predict(TEXTS)] == [p.label for p in cooler.predict(TEXTS)]


def test_batches_and_order_change_nothing(save):
    classifier = Classifier.load(save(nn.SequenceClassifier, ("a", "b")), dtype="float32")
    expected = classifier.probabilities(TEXTS)
    for batch_tokens in (1, 30, 10_000):
        found = classifier.probabilities(TEXTS, batch_tokens=batch_tokens)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert classifier.probabilities([]).shape == (0, 2) and classifier.predict([]) == []


def test_a_model_that_was_just_trained(toy, small_tokenizer, tmp_path):
    module = nn.SequenceClassifier(toy, ("a", "b"))
    module.model.tokenizer = small_tokenizer
    classifier = Classifier(module, HeadConfig(("a", "b"), temperature=1.5))
    assert Classifier(module).head_config == HeadConfig(("a", "b"))
    classifier.save(tmp_path / "model")
    again = Classifier.load(tmp_path / "model", dtype="float32")
    assert again.head_config == classifier.head_config
    np.testing.assert_allclose(
        again.probabilities(TEXTS), classifier.probabilities(TEXTS), atol=1e-4
    )


# --- saving


@pytest.mark.parametrize("dtype", ["float32", "auto", "int8"])
def test_the_engine_saves_what_was_loaded(dtype, save, tmp_path):
    head = HeadConfig(("a", "b"), "multi", thresholds={"a": 0.25})
    directory = save(nn.SequenceClassifier, ("a", "b"), head)
    classifier = Classifier.load(directory, dtype=dtype)
    classifier.save(tmp_path / "again")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (directory / name).read_bytes()
    found = Classifier.load(tmp_path / "again", dtype=dtype)
    assert found.predict(TEXTS) == classifier.predict(TEXTS)
    other = HeadConfig(("a", "b"), "multi", thresholds={"a": 0.75})
    Classifier(classifier.model, other).save(tmp_path / "other")
    assert Classifier.load(tmp_path / "other").head_config == other
    copied = pickle.loads(pickle.dumps(classifier))
    assert copied.predict(TEXTS) == classifier.predict(TEXTS)


@pytest.mark.parametrize("cls", [Tagger, MaskedLM])
def test_every_model_saves(cls, save, toy, small_tokenizer, tmp_path):
    if cls is Tagger:
        directory = save(nn.TokenClassifier, TAGS)
    else:
        nn.MaskedLM(toy).save(directory := tmp_path / "masked", tokenizer=small_tokenizer)
    for dtype in BACKENDS:
        cls.load(directory, dtype=dtype).save(tmp_path / dtype)
        saved = (tmp_path / dtype / "model.safetensors").read_bytes()
        assert saved == (directory / "model.safetensors").read_bytes()
        cls.load(tmp_path / dtype)


# --- pairs


@pytest.mark.parametrize("dtype", BACKENDS)
@pytest.mark.parametrize("activation", ["sigmoid", "identity"])
def test_a_number_equals_sentence_transformers(activation, dtype, save):
    st_ = pytest.importorskip("sentence_transformers")
    head = HeadConfig(("score",), "number", activation=activation)
    directory = save(nn.SequenceClassifier, ("score",), head)
    _, rows = theirs("SequenceClassification", directory, *zip(*PAIRS, strict=True))
    reranker = st_.CrossEncoder(str(directory), device="cpu", local_files_only=True)
    scorer = Scorer.load(directory, dtype=dtype)
    found = scorer.score(PAIRS)
    logits = torch.cat(rows)
    wanted = logits.sigmoid() if activation == "sigmoid" else logits
    assert found.dtype == np.float32 and found.shape == (len(PAIRS),)
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(found, reranker.predict(PAIRS), atol=1e-4)
    ranked = scorer.rank(TEXTS[0], TEXTS, top_k=3)
    wanted = reranker.rank(TEXTS[0], TEXTS, top_k=3)
    assert [r.index for r in ranked] == [each["corpus_id"] for each in wanted]
    assert [r.score for r in ranked] == pytest.approx([e["score"] for e in wanted], abs=1e-4)
    assert len(scorer.rank(TEXTS[0], TEXTS)) == len(TEXTS)


@pytest.mark.parametrize("function", ["Sigmoid", "Identity"])
def test_a_directory_of_cross_encoder(function, save, tmp_path):
    """Without a problem_type, and as sentence-transformers itself writes it."""
    st_ = pytest.importorskip("sentence_transformers")
    directory = save(nn.SequenceClassifier, ("LABEL_0",))
    reranker = st_.CrossEncoder(
        str(directory), device="cpu", local_files_only=True,
        activation_fn=getattr(torch.nn, function)(),
    )  # fmt: skip
    reranker.save_pretrained(str(tmp_path / "written"))
    found = Scorer.load(tmp_path / "written", dtype="float32")
    np.testing.assert_allclose(found.score(PAIRS), reranker.predict(PAIRS), atol=1e-4)
    found.save(tmp_path / "again")
    again = st_.CrossEncoder(str(tmp_path / "again"), device="cpu", local_files_only=True)
    np.testing.assert_allclose(found.score(PAIRS), again.predict(PAIRS), atol=1e-4)
    if function == "Sigmoid":  # the default of sentence-transformers
        np.testing.assert_allclose(
            Scorer.load(directory, dtype="float32").score(PAIRS), found.score(PAIRS), atol=1e-6
        )


@pytest.mark.parametrize("dtype", BACKENDS)
def test_labels_of_pairs(dtype, save):
    directory = save(nn.SequenceClassifier, ("entailment", "neutral", "contradiction"))
    config, rows = theirs("SequenceClassification", directory, *zip(*PAIRS, strict=True))
    scorer = Scorer.load(directory, dtype=dtype)
    wanted = torch.stack(rows).softmax(-1).numpy()
    np.testing.assert_allclose(scorer.probabilities(PAIRS), wanted, atol=1e-4)
    labels = [config.id2label[n] for n in wanted.argmax(1).tolist()]
    assert [p.label for p in scorer.predict(PAIRS)] == labels
    with pytest.raises(InputError, match="predicts 3 labels, not a number: use predict"):
        scorer.score(PAIRS)


def test_pairs_beyond_the_limit(save, caplog):
    scorer = Scorer.load(save(nn.SequenceClassifier, ("score",)))
    pairs = [("short", "text"), (LONG, "b"), ("a", LONG), ("a", "b")]
    with pytest.raises(InputError, match=r"the limit is 512: pair 1 and 1 more: split the pair"):
        scorer.score(pairs)
    with caplog.at_level(logging.WARNING, logger="motherbird"):
        found = scorer.score(pairs, truncate=True)
    assert [r.getMessage() for r in caplog.records] == ["truncated 2 of 4 pairs to 512 tokens"]
    ids, truncated = scorer.tokenizer.encode_pairs(pairs, 512)
    assert truncated == 2 and (scorer.scores_of_ids(ids) == found).all()
    with pytest.raises(InputError, match="computes a number, not probabilities: use score"):
        scorer.predict(pairs, truncate=True)


# --- spans


@pytest.mark.parametrize("dtype", BACKENDS)
def test_tags_equal_transformers(dtype, save):
    """The tag of a word is that of its first token in transformers."""
    directory = save(nn.TokenClassifier, TAGS)
    config, rows = theirs("TokenClassification", directory, TEXTS)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    tagger = Tagger.load(directory, dtype=dtype)
    found = tagger.tag(TEXTS)
    assert sum(map(len, found)) > 5
    for text, logits, spans in zip(TEXTS, rows, found, strict=True):
        encoding = tokenizer(text, return_offsets_mapping=True)
        probabilities = logits.softmax(-1).numpy()
        words = split_words(text)
        tags, certain = [], []
        for first, last in words:
            token = next(
                n for n, (a, b) in enumerate(encoding["offset_mapping"]) if a < last and b > first
            )
            tags.append(config.id2label[int(probabilities[token].argmax())])
            certain.append(probabilities[token].max())
        wanted = [tuple(span) for span in spans_of(tags, "BIO")]
        assert [(s.label, s.first_word, s.end_word) for s in spans] == wanted
        for span in spans:
            assert span.text == text[span.start : span.end]
            assert (span.start, span.end) == (
                words[span.first_word][0],
                words[span.end_word - 1][1],
            )
            mean = np.mean(certain[span.first_word : span.end_word])
            assert span.probability == pytest.approx(mean, abs=1e-4)


def test_words_are_tagged_as_the_text_that_they_make(save):
    tagger = Tagger.load(save(nn.TokenClassifier, TAGS), dtype="float32")
    texts = ["Ada Lovelace lived in London with a parser", "one", "x y z " * 50]
    words = [text.split() for text in texts]
    assert tagger.tag(words) == tagger.tag([" ".join(each) for each in words])
    assert tagger.tag([tuple(words[0]), np.array(words[1])]) == tagger.tag(words)[:2]
    assert tagger.tag([]) == []


def test_bare_labels_and_long_texts(save, caplog):
    tagger = Tagger.load(save(nn.TokenClassifier, ("O", "PER", "LOC")), dtype="float32")
    text = "Ada lived in London. She wrote a program there, in 1843. " * 20
    [spans] = tagger.tag([text], max_length=512, truncate=True)
    ends = [span.end for span in spans]
    assert ends == sorted(ends) and {span.label for span in spans} <= {"PER", "LOC"}
    with pytest.raises(InputError, match="the text has .* tokens, the limit is 50: text 1: split"):
        tagger.tag(["short", text], max_length=50)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="motherbird"):
        [cut] = tagger.tag([text], max_length=50, truncate=True)
    assert [r.getMessage() for r in caplog.records] == ["truncated 1 of 1 texts to 50 tokens"]
    last = tagger.tokenizer.encode_offsets([text])[0].offsets[48][1]
    assert cut and cut[-1].start < last < len(text)


def test_tags_of_another_scheme(save):
    labels = ("O", "B-PER", "I-PER", "E-PER", "S-PER")
    tagger = Tagger.load(save(nn.TokenClassifier, labels), dtype="float32")
    found = [span for spans in tagger.tag(TEXTS) for span in spans]
    assert {span.label for span in found} == {"PER"}


# --- what is refused


def test_a_model_for_something_else(save, toy, small_tokenizer, tmp_path):
    sequence = save(nn.SequenceClassifier, ("a", "b"))
    number = save(nn.SequenceClassifier, ("a",), name="number")
    tokens = save(nn.TokenClassifier, TAGS, name="tokens")
    nn.MaskedLM(toy).save(tmp_path / "masked", tokenizer=small_tokenizer)
    nn.Encoder(toy).save(tmp_path / "bare", tokenizer=small_tokenizer)
    for cls, directory, says in (
        (
            Classifier,
            tokens,
            r"cannot classify texts \(ModernBertForTokenCl.*: load it with Tagger",
        ),
        (Scorer, tokens, "cannot score pairs of texts .*: load it with Tagger"),
        (Tagger, sequence, "cannot tag texts .*: load it with Classifier or Scorer"),
        (Tagger, tmp_path / "masked", "cannot tag texts .*: load it with MaskedLM"),
        (Classifier, tmp_path / "bare", "cannot classify texts: .*bare: fine-tune it first"),
    ):
        with pytest.raises(HeadError, match=says):
            cls.load(directory)
    with pytest.raises(InputError, match="a number for each text, not labels: use Scorer"):
        Classifier.load(number)
    with pytest.raises(InputError, match="is of type Encoder, not SequenceClassifier: load"):
        Classifier(nn.Encoder(toy))
    with pytest.raises(InputError, match="has no head of TokenClassifier: load the model with Tag"):
        Tagger(Classifier.load(sequence).model)
    with pytest.raises(InputError, match="unknown output 'logits'"):
        next(Embedder.load(sequence).batches([[1, 2]], "logits"))


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ("a text", "texts is a string"),
        (["a", ""], "the text is empty: text 1"),
        (["a", None], r"missing \(None\)|of type NoneType, not str: text 1"),
        (["a", b"b"], "of type bytes, not str"),
        (["a", LONG], "the limit is 512: text 1"),
    ],
)
def test_what_is_not_a_text(texts, says, save):
    classifier = Classifier.load(save(nn.SequenceClassifier, ("a", "b")))
    tagger = Tagger.load(save(nn.TokenClassifier, TAGS, name="tokens"))
    for function in (classifier.predict, classifier.probabilities, tagger.tag):
        with pytest.raises(InputError, match=says):
            function(texts)


def test_what_are_not_words_or_pairs(save):
    tagger = Tagger.load(save(nn.TokenClassifier, TAGS))
    for words, says in (
        ([["a", ""]], "the word is empty: text 0, word 1"),
        ([["a", 5]], "of type int, not str: text 0, word 1"),
        ([[]], "the text is empty: text 0"),
        ([{"a"}], "of type set, not str: text 0: pass a text, or a list of words"),
    ):
        with pytest.raises(InputError, match=says):
            tagger.tag(words)
    scorer = Scorer.load(save(nn.SequenceClassifier, ("score",), name="score"))
    for pairs, says in (
        ([("a", "b"), "ab"], "not a pair of texts: pair 1"),
        ([("a", "b", "c")], "not a pair of texts: pair 0"),
        ([("a", None)], "missing.*pair 0, text 1"),
        ("ab", "pairs is a string: pass a list of pairs of texts"),
    ):
        with pytest.raises(InputError, match=says):
            scorer.score(pairs)
    with pytest.raises(InputError, match="1 name for 2 pairs"):
        scorer.tokenize_pairs([("a", "b"), ("c", "d")], names=["x"])
    with pytest.raises(InputError, match="1 name for 0 texts"):
        tagger.tokenize_words([], names=["x"])
    with pytest.raises(InputError, match="the text is empty: the query"):
        scorer.rank("", ["a"])
    with pytest.raises(InputError, match="invalid top_k 0"):
        scorer.rank("a", ["b"], top_k=0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"problem_type": "ranking"}, "unknown problem_type 'ranking': .*config.json"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label.*config.json"),
        ({"motherbird": {"temperature": -1}}, "temperature -1 .*config.json"),
    ],
)
def test_a_config_that_cannot_be_used(changes, says, save):
    directory = save(nn.SequenceClassifier, ("a", "b"))
    raw = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(raw | changes))
    (directory / "motherbird.json").unlink()
    with pytest.raises(InputError, match=says):
        Classifier.load(directory)
