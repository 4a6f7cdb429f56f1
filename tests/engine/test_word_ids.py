"""What static vectors need of the engine: remembered token ids, sums of rows, products."""

import pickle
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from motherbird.core import hub
from motherbird.engine.words import Words, add_rows, dot_products
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
    for each in (segments, segments, pickle.loads(pickle.dumps(segments))):
        for text in texts:
            wanted = tokenizer.encode(text, add_special_tokens=False).ids
            assert each.ids(text).tolist() == wanted


def test_only_so_many_short_segments_are_remembered():
    asked = []

    def encode(segment):
        asked.append(segment)
        return [len(segment)] * len(segment)

    words = Words(encode, 2, 5)
    for _ in range(2):
        assert words.ids("bees honeycomb").tolist() == [4] * 4 + [10] * 10
        assert words.ids("ox").tolist() == [2, 2] and words.ids("a").tolist() == [1]
    assert words.ids("").tolist() == []
    assert asked == ["bees", " honeycomb", "ox", "a", " honeycomb", "a"]


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
