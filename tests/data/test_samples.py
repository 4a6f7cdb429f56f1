"""Samples of short texts."""

import json
import statistics

import pytest

from motherbird import InputError
from motherbird.data.samples import SHORT, WORDS, sample_texts


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_equally_many_of_each_file_as_far_as_it_has_them(tmp_path):
    large = write(tmp_path / "large.jsonl", [{"text": f"large {n}"} for n in range(500)])
    small = write(tmp_path / "small.jsonl", [{"query": f"small {n}"} for n in range(20)])
    found = sample_texts([large, small], 100, seed=0)
    assert len(set(found)) == len(found) == 100
    assert sum(text.startswith("small") for text in found) == 20
    assert found == sample_texts([large, small], 100, seed=0)
    other = sample_texts([large, small], 100, seed=1)
    assert {*other} != {*found} and other != sorted(other)
    assert len(sample_texts([large, small], 10_000, seed=0)) == 520


def test_one_large_file_among_many(tmp_path):
    paths = [
        write(tmp_path / f"{n}.jsonl", [{"text": f"{n} {row}"} for row in range(rows)])
        for n, rows in enumerate([2000] + [20] * 9)
    ]
    found = sample_texts(paths, 1000, seed=0)
    assert len({*found}) == len(found) == 1000
    assert sum(not text.startswith("0 ") for text in found) == 180


def test_texts_that_occur_often_count_once(tmp_path):
    """In a file, and in several."""
    rows = [{"query": f"query {n % 100}", "positive": f"answer {n}"} for n in range(2000)]
    path = write(tmp_path / "a.jsonl", rows)
    found = sample_texts([path], 1500, seed=0)
    assert len({*found}) == len(found) == 1500
    assert found == sample_texts([path], 1500, seed=0)
    other = write(tmp_path / "b.jsonl", rows[:1500])
    for count, wanted in ((300, 300), (2050, 2050), (9000, 2100)):
        found = sample_texts([path, other], count, seed=0)
        assert len({*found}) == len(found) == wanted


def test_long_texts_are_divided(tmp_path):
    words = [f"w{n}" for n in range(20_000)]
    text = "  ".join(words)
    found = sample_texts([write(tmp_path / "a.jsonl", [{"text": text}])], 10_000, seed=0)
    lengths = [len(passage.split()) for passage in found]
    assert all(passage in text for passage in found)
    assert min(lengths) >= SHORT[0] and max(lengths) <= WORDS[1]
    short = sum(length < WORDS[0] for length in lengths) / len(lengths)
    assert 0.04 < short < 0.14  # half of the shortened ones
    starts = sorted(int(passage.split()[0][1:]) for passage in found)
    assert starts[0] == 0 and max(b - a for a, b in zip(starts, starts[1:], strict=False)) <= 200
    assert 28 < statistics.median(lengths) < 40 < 48 < statistics.mean(lengths) < 62


def test_columns(tmp_path):
    rows = [{"anchor": "one", "positive": "two", "other": "three"}, {"anchor": None}]
    path = write(tmp_path / "a.jsonl", rows)
    assert {*sample_texts([path], 10, 0)} == {"one", "two"}
    assert sample_texts([path], 10, 0, ["other"]) == ["three"]
    with pytest.raises(InputError, match="no row has a column of texts: .*--column"):
        sample_texts([path], 10, 0, ["missing"])
    with pytest.raises(InputError, match='"text" is not a text: .*b.jsonl:1'):
        sample_texts([write(tmp_path / "b.jsonl", [{"text": 3}])], 10, 0)
    with pytest.raises(InputError, match="there is no text"):
        sample_texts([write(tmp_path / "c.jsonl", [{"text": " "}])], 10, 0)
