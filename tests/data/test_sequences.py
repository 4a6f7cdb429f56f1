"""Sequences of words: the same as a plain search finds, with and without spaces between words."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from motherbird.data.sequences import sequences

UNIT = re.compile(r"[你好ト]|[กข]|[0-9a-z\x80-\u0dff]+")
CJK, THAI = "你好ト", "กข"
texts = st.text(st.sampled_from("aAbBé1 .,\n-。、你好トกข"), max_size=120)


def plain_sequences(text: str, words: int) -> list[list[str]]:
    """By definition: units from each one on, until they count as enough words."""
    units = UNIT.findall(text.lower())
    weights = [2 if unit in CJK else 1 if unit in THAI else 4 for unit in units]
    found = []
    for start in range(len(units)):
        for end in range(start + 1, len(units) + 1):
            if sum(weights[start:end]) >= 4 * words:
                found.append(units[start:end])
                break
    return found


@given(texts, st.integers(1, 5))
def test_sequences_are_those_of_a_plain_search(text, words):
    hashes, starts, ends, joined = sequences(text, words)
    expected = plain_sequences(text, words)
    assert [UNIT.findall(joined[s:e]) for s, e in zip(starts, ends, strict=True)] == expected
    keys = [joined[s:e] for s, e in zip(starts, ends, strict=True)]
    of = dict(zip(keys, hashes.tolist(), strict=True))
    assert [of[key] for key in keys] == hashes.tolist()  # equal sequences, equal hashes
    assert len(set(of.values())) == len(of)  # other sequences, other hashes


def test_the_hash_does_not_depend_on_what_precedes():
    for run in (
        " ".join(f"word{i}" for i in range(13)),
        "天地玄黃宇宙洪荒日月盈昃辰宿列張寒來暑往秋收冬藏閏餘",
    ):
        (alone,) = sequences(run, 13)[0]
        assert sequences(f"Something else, then: {run}", 13)[0][-1] == alone
        assert sequences(run.upper().replace(" ", "... "), 13)[0][0] == alone


def test_punctuation_and_line_ends_do_not_count_in_any_script():
    words, chinese = "one two three four", "春眠不覺曉處處聞啼鳥"
    assert np.array_equal(sequences(words, 2)[0], sequences("One -- two; “three”\nfour!", 2)[0])
    assert np.array_equal(
        sequences(chinese, 2)[0], sequences("「春眠不覺曉，\n處處聞啼鳥。」", 2)[0]
    )


def test_lengths_by_script():
    for character, count in (("語", 26), ("か", 26), ("ก", 52), ("ກ", 52), ("ក", 52), ("က", 52)):
        assert len(sequences(character * count, 13)[0]) == 1
        assert len(sequences(character * (count - 1), 13)[0]) == 0
    assert len(sequences("한국어 " * 13, 13)[0]) == 1  # Korean has spaces


def test_no_words():
    for text in ("", " ", "...", "。。。"):
        assert [len(part) for part in sequences(text, 1)] == [0, 0, 0, 0]
