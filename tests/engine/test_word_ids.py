"""What static vectors need of the engine: remembered token ids, sums of rows, products."""

import pickle
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tokenizers import Tokenizer, models, pre_tokenizers

from motherbird.core import hub
from motherbird.engine.words import MERGES_AFTER, Words, add_rows, dot_products
from motherbird.models.segments import Segments
from motherbird.models.static_embedder import read_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return read_tokenizer(hub.find(hub.NANO) / "encoder")


def test_more_segments_than_there_are_slots_at_first(tokenizer):
    draw = random.Random(0)
    words = ["".join(draw.choices("abcXYZ019_-'", k=draw.randint(1, 90))) for _ in range(9000)]
    texts = [" ".join(draw.choices(words, k=30)) for _ in range(600)]
    segments = Segments(tokenizer)
    assert len(set(" ".join(texts).split())) > 2 * MERGES_AFTER  # so that merges are used
    for each in (segments, segments, pickle.loads(pickle.dumps(segments))):
        for text in texts:
            wanted = tokenizer.encode(text, add_special_tokens=False).ids
            assert each.ids(text).tolist() == wanted


def test_how_many_segments_are_remembered():
    asked = []

    def encode(segment):
        asked.append(segment)
        return [len(segment)] * len(segment)

    words, long = Words(encode, 3), "honeycomb" * 15
    for _ in range(2):
        assert words.ids(f"bees {long}").tolist() == [4] * 4 + [136] * 136
        assert words.ids("ox").tolist() == [2, 2] and words.ids("a").tolist() == [1]
    assert words.ids("").tolist() == []
    assert asked == ["bees", f" {long}", "ox", "a", f" {long}"]
    words.ids("another")  # the fourth: the others are forgotten
    assert words.ids("ox").tolist() == [2, 2] and asked[-2:] == ["another", "ox"]


@pytest.mark.parametrize("most", [0, 3, 1 << 18])
@given(st.data())
def test_merges_are_those_of_the_library(most, data):
    """Also of a vocabulary in which later merges have earlier ones in their results."""
    alphabet, tokens = pre_tokenizers.ByteLevel.alphabet(), ["a", "b", "c", "Ġ"]
    merges = []
    for _ in range(data.draw(st.integers(0, 12))):
        pair = tuple(data.draw(st.sampled_from(tokens)) for _ in range(2))
        if "".join(pair) not in tokens:
            merges.append(pair)
            tokens.append("".join(pair))
    merges = data.draw(st.permutations(merges))
    vocabulary = {token: n for n, token in enumerate(sorted({*alphabet, *tokens}))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    segments = Segments(tokenizer)
    words = Words(lambda segment: pytest.fail(segment), most, segments._merges)
    words.use_merges()
    for text in data.draw(st.lists(st.text("abc \n\x7f", max_size=60), max_size=5)):
        assert words.ids(text).tolist() == tokenizer.encode(text).ids


def test_long_segments(tokenizer):
    """C merges segments of up to 128 bytes; the library encodes longer ones."""
    segments = Segments(tokenizer)
    segments._words.use_merges()
    draw = random.Random(1)
    for length in (1, 2, 63, 64, 65, 127, 128, 129, 500):
        for characters in ("abcdefghij", "0123456789", " ", " \n\t", "=-*"):
            text = "".join(draw.choices(characters, k=length))
            wanted = tokenizer.encode(text, add_special_tokens=False).ids
            assert segments.ids(text).tolist() == wanted


def test_a_tokenizer_that_does_more_than_merge_encodes_itself():
    vocabulary = {token: n for n, token in enumerate(pre_tokenizers.ByteLevel.alphabet())}
    for model in (models.BPE(vocabulary, [], ignore_merges=True), models.WordLevel(vocabulary),
                  models.BPE(vocabulary, [], continuing_subword_prefix="##"),
                  models.BPE({"a": 0}, [])):  # fmt: skip
        assert Segments(Tokenizer(model))._merges() is None


@given(st.data(), st.integers(1, 40), st.integers(1, 400))
def test_sums_and_products(data, count, width):
    draw = np.random.default_rng(data.draw(st.integers(0, 99)))
    table = draw.normal(size=(count, width)).astype(np.float32)
    ids = draw.integers(0, count, 50).astype(np.int32)
    first = data.draw(st.integers(1, width))
    out = np.ones(first, np.float32)
    add_rows(table, ids, out)
    np.testing.assert_allclose(out, 1 + table[ids, :first].sum(axis=0), rtol=1e-4, atol=1e-4)
    rows = data.draw(arrays.arrays(np.int8, (count, width)))
    found = dot_products(rows, table[0])
    np.testing.assert_allclose(found, rows.astype(np.float64) @ table[0],
                               atol=1e-4 * np.abs(rows.astype(float)).sum(axis=1).max() + 1e-6,
                               )  # fmt: skip


def test_products_of_the_largest_values():
    rows = np.full((2, 3000), -128, np.int8)
    vector = np.ones(3000, np.float32)
    np.testing.assert_allclose(dot_products(rows, vector), [-384000, -384000], rtol=1e-3)
    assert dot_products(rows[:0], vector).shape == (0,)
