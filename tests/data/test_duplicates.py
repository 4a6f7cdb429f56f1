"""Near-duplicates: pairs above the threshold are found, pairs below it are kept."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird.data.duplicates import MISSED, PERMUTATIONS, Duplicates, bands_of, shingles

pytest.importorskip("rensa")

CHINESE = "".join(random.Random(0).choices([chr(0x4E00 + i) for i in range(3000)], k=600))
THAI = "".join(random.Random(0).choices([chr(0x0E01 + i) for i in range(46)], k=600))


def jaccard(a: str, b: str) -> float:
    """By definition, of sets of five-word sequences."""
    sets = []
    for text in (a, b):
        words = text.split()
        sets.append({tuple(words[i : i + 5]) for i in range(len(words) - 4)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def pairs(lowest: float, highest: float, count: int = 150):
    """Pairs of documents with a similarity in a range: changed words, or an added end."""
    rng = random.Random(0)
    found = []
    while len(found) < count:
        words = [f"w{rng.getrandbits(64):x}" for _ in range(rng.randint(100, 300))]
        other = list(words)
        changed = int(len(words) * (1 / lowest - 1))  # sequences that may differ, about
        for _ in range(rng.randint(0, changed // 10)):
            other[rng.randrange(len(other))] = f"x{rng.getrandbits(64):x}"
        other += [f"x{rng.getrandbits(64):x}" for _ in range(rng.randint(0, changed))]
        pair = " ".join(words), " ".join(other)
        if lowest <= jaccard(*pair) < highest:
            found.append(pair)
    return found


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_the_threshold_is_exact(threshold):
    duplicates = Duplicates(threshold)
    for first, second in pairs(threshold - 0.05, threshold):
        assert duplicates.find(first) is None and duplicates.find(second) is None
    duplicates = Duplicates(threshold)
    results = []
    for first, second in pairs(threshold, threshold + 0.05):
        assert duplicates.find(first) is None
        results.append(duplicates.find(second))
    assert results.count("nearly equal") >= 0.99 * len(results)


@pytest.mark.parametrize("text", [CHINESE, THAI], ids=["Chinese", "Thai"])
def test_text_without_spaces(text):
    duplicates = Duplicates(0.7)
    changed = text[:300] + ("语" if text is CHINESE else "ๆ") + text[301:]
    assert duplicates.find(text) is None
    assert duplicates.find(changed) == "nearly equal"
    assert duplicates.find(text[::-1]) is None


def test_text_of_both_kinds():
    words = " ".join(f"word{i}" for i in range(100))
    duplicates = Duplicates(0.7)
    assert duplicates.find(f"{CHINESE}\n{words}") is None
    assert duplicates.find(f"{CHINESE[:500]}\n{words}") == "nearly equal"
    assert duplicates.find(words) is None


def test_short_texts():
    duplicates = Duplicates(0.7)
    assert duplicates.find("Hello world") is None
    assert duplicates.find("Hello world") == "equal"
    assert duplicates.find("hello\nWORLD") == "nearly equal"
    assert duplicates.find("Hello word") is None
    assert duplicates.find("...") is None and duplicates.find("!!!") is None


@given(st.floats(0, 1))
def test_bands(threshold):
    bands, rows = bands_of(threshold)
    assert 1 <= bands * rows <= PERMUTATIONS
    if threshold >= 0.06:
        assert (1 - threshold**rows) ** bands <= MISSED * 1.001


def test_shingles_are_a_sorted_set_of_four_bytes_each():
    found = shingles("one two three four five six " * 50)
    assert len(found) == 6 and found.dtype.itemsize == 4 and sorted(found) == found.tolist()
