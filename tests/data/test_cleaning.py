"""Text made regular, cut, and objected to."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird.data.cleaning import normalize, pieces, rejection_reason
from motherbird.data.mixture import Source


@given(st.text())
def test_normalized_text_stays_as_it_is(text):
    once = normalize(text)
    assert normalize(once) == once
    assert unicodedata.is_normalized("NFC", once)
    assert not any(unicodedata.category(c) == "Cc" and c not in "\n\t" for c in once)


def test_what_is_normalized():
    assert normalize("e\x01\u0301") == "\u00e9"
    assert normalize("a\r\nb\rc\x00\x07\x85\ufeffe\u0301\t") == "a\nb\nc\u00e9\t"


@given(st.text(st.sampled_from("ab \n"), max_size=300), st.integers(2, 50))
def test_pieces_are_the_text(text, longest):
    cut = list(pieces(text, longest))
    assert "".join(cut) == text
    assert all(len(piece) <= longest for piece in cut)


def test_pieces_end_where_the_text_pauses():
    assert list(pieces("aaaa\n\nbbbb cc", 8)) == ["aaaa\n\n", "bbbb cc"]
    assert list(pieces("aaaaaa bbbb", 8)) == ["aaaaaa ", "bbbb"]
    assert list(pieces("aaaaaaaaaa", 8)) == ["aaaaaaaa", "aa"]


ENGLISH = "The quick brown fox jumps over the lazy dog, and then it goes home to sleep. " * 5
GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund und geht nach Hause. " * 5


@pytest.mark.parametrize(
    ("text", "source", "says"),
    [
        (ENGLISH, Source("s", path="x"), None),
        ("ab", Source("s", path="x", min_chars=3), "too short"),
        ("a\n" + "b" * 11, Source("s", path="x", max_line=10), "line too long"),
        ("a\n" + "b" * 10, Source("s", path="x", max_line=10), None),
        ("12345 a", Source("s", path="x", min_letters=0.5), "too few letters"),
        ("abc 12", Source("s", path="x", min_letters=0.5), None),
        ("äöü", Source("s", path="x", min_letters=1.0), None),
    ],
)
def test_rejection_reasons(text, source, says):
    assert rejection_reason(text, source) == says


def test_language():
    pytest.importorskip("resiliparse")
    english = Source("s", path="x", language="en")
    assert rejection_reason(ENGLISH, english) is None
    assert rejection_reason(GERMAN, english) == "wrong language"
