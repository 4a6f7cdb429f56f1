"""Words and their first tokens, for byte-level, WordPiece and Metaspace tokenizers."""

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

from motherbird import InputError, Tokenizer
from motherbird.core.words import first_tokens, join_words, split_words

SPECIAL = {"unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]"}


def trained(model, trainer, normalizer, pre_tokenizer, prose):
    backend = tokenizers.Tokenizer(model)
    backend.normalizer, backend.pre_tokenizer = normalizer, pre_tokenizer
    trainer = trainer(vocab_size=400, special_tokens=list(SPECIAL.values()), show_progress=False)
    backend.train_from_iterator(prose[:1], trainer)
    ids = [(token, backend.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ids
    )
    return Tokenizer(backend, SPECIAL)


@pytest.fixture(scope="module")
def word_piece(prose):
    return trained(
        models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer,
        normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(), prose,
    )  # fmt: skip


@pytest.fixture(scope="module")
def metaspace(prose):
    return trained(
        models.BPE(unk_token="[UNK]"), trainers.BpeTrainer, normalizers.NFC(),
        pre_tokenizers.Metaspace(), prose,
    )  # fmt: skip


KINDS = ["small_tokenizer", "word_piece", "metaspace"]
WORDS = st.lists(st.text(min_size=1, max_size=12), max_size=8)
PLAIN = st.lists(st.from_regex(r"[a-z]{1,9}|[0-9]{1,4}|[,.!?]", fullmatch=True), max_size=9)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(words=WORDS)
def test_ids_are_those_of_the_text(kind, words, request):
    tokenizer = request.getfixturevalue(kind)
    ids, first = tokenizer.encode_words(words)
    assert ids == tokenizer.encode(" ".join(words))
    assert len(first) == len(words)
    own = [token for token in first if token >= 0]
    assert own == sorted(set(own)) and all(0 < token < len(ids) - 1 for token in own)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60)
@given(words=PLAIN)
def test_the_tokens_from_one_first_token_to_the_next_are_the_word(kind, words, request):
    tokenizer = request.getfixturevalue(kind)
    ids, first = tokenizer.encode_words(words)
    encoding = tokenizer.encode_offsets([" ".join(words)])[0]
    ends = [*first[1:], len(ids) - 1][: len(words)]
    text = " ".join(words)
    for word, start, end in zip(words, first, ends, strict=True):
        characters = text[encoding.offsets[start][0] : encoding.offsets[end - 1][1]]
        assert characters.strip() == word


def test_words_have_the_space_before_them(small_tokenizer):
    backend = small_tokenizer.backend
    words = ["The", "parser", "of", "Zürich", "(", "x", ")", "😀"]
    ids, first = small_tokenizer.encode_words(words)
    for number, (word, start) in enumerate(zip(words, first, strict=True)):
        alone = backend.encode(" " * bool(number) + word, add_special_tokens=False).ids
        alone = alone[alone[0] == backend.token_to_id("Ġ") :]  # a space that is not merged
        assert ids[start : start + len(alone)] == alone


@settings(max_examples=60)
@given(words=st.lists(st.from_regex(r"[A-Za-zé]{1,9}", fullmatch=True), min_size=1, max_size=9))
def test_first_tokens_are_those_of_the_library(words, word_piece):
    theirs = word_piece.backend.encode(words, is_pretokenized=True)
    ids, first = word_piece.encode_words(words)
    assert ids == theirs.ids
    assert first == [theirs.word_ids.index(number) for number in range(len(words))]


def test_a_word_without_a_token(word_piece, small_tokenizer):
    """BERT's normalizer removes control characters; byte-level tokenizers keep everything."""
    words = ["one", "\u200b", "two"]
    ids, first = word_piece.encode_words(words)
    assert first[1] == -1 and min(first[0], first[2]) > 0
    assert first_tokens([(0, 3), (3, 6)], [(0, 0), (0, 5), (5, 6), (0, 0)]) == [1, 2]
    assert first_tokens([(0, 1), (1, 2)], [(0, 0), (0, 2), (0, 0)]) == [1, -1]
    assert -1 not in small_tokenizer.encode_words(words)[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("a text", "words is a string"),
        (["a", ""], "the word is empty: word 1: leave it out, with its tag"),
        (["a", None], r"missing \(None\): word 1"),
        ([["a"]], "of type list, not str: word 0"),
        (["\ud800"], "not valid Unicode.*word 0"),
    ],
)
def test_what_are_not_words(words, says, small_tokenizer, no_type_checker):
    with pytest.raises(InputError, match=says):
        small_tokenizer.encode_words(words)


def test_no_words(small_tokenizer):
    assert small_tokenizer.encode_words([]) == (small_tokenizer.encode(""), [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Hello, world!", "Hello|,|world|!"),
        ("  It's 1,000.5 km\tto Weston-super-Mare\n", "It's|1,000.5|km|to|Weston-super-Mare"),
        ("mail a.b@c.org, or https://c.org/d?e=f", "mail|a.b@c.org|,|or|https://c.org/d|?|e=f"),
        ('"Yes," she said ... (no)', '"|Yes|,"|she|said|...|(|no|)'),
        ("@ada #tag $5 50% U.S. 1, 2", "@|ada|#|tag|$|5|50|%|U.S|.|1|,|2"),
        ("हिन्दी می\u200cخواهم e\u0301te\u0301", "हिन्दी|می\u200cخواهم|e\u0301te\u0301"),
        ("👩‍🚀 hi\u00a0you", "👩‍🚀|hi|you"),
        ("中国 2024年", "中国|2024年"),
    ],
)
def test_words_of_a_text(text, words):
    assert "|".join(text[start:end] for start, end in split_words(text)) == words


@given(st.text())
def test_every_visible_character_is_in_one_word(text):
    end, rest = 0, ""
    for first, last in split_words(text):
        assert end <= first < last
        rest += text[end:first]
        end = last
    rest += text[end:]
    assert all(character.isspace() for character in rest)


@given(words=st.lists(st.text(min_size=1), max_size=8))
def test_joined_words(words):
    text, offsets = join_words(words)
    assert text == " ".join(words)
    assert [text[start:end] for start, end in offsets] == words
