"""Checks of arguments: what is accepted, and what is refused with its index."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird import InputError
from motherbird.core.arguments import check_ids, check_integer, check_path, check_text, check_texts

pytestmark = pytest.mark.usefixtures("no_type_checker")

NOTHING_VISIBLE = ["", " ", "\n\t", "\u3000", "\u200b", "\u200b \u2060\n", "\ufeff", "\u00ad\u200d",
                   "\u3164", "\x00\x1f", "\ufe0f", "\U000e0041"]  # fmt: skip


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]))))
def test_any_iterable_of_texts_is_taken(texts):
    for kind in (list, tuple, iter, np.array):
        made = np.array(texts, dtype=object) if kind is np.array else kind(texts)
        assert check_texts(made, allow_empty=True) == texts


@pytest.mark.parametrize("texts", ["a text", b"a text", {"a": "b"}, None, 5, 1.5])
def test_what_is_no_list_of_texts_is_refused(texts):
    with pytest.raises(InputError, match="texts is an? .*pass a list of strings"):
        check_texts(texts)


@pytest.mark.parametrize("texts", [{"a", "b"}, frozenset("ab")], ids=lambda s: type(s).__name__)
def test_a_set_has_no_order(texts):
    says = f"texts is a {type(texts).__name__}, which has no order: pass a list of strings"
    with pytest.raises(InputError, match=says):
        check_texts(texts)
    assert check_texts({"b": 1, "a": 2}.keys()) == ["b", "a"]


def test_articles():
    async def texts():
        yield "a"

    for wrong, says in ((texts(), "texts is an async_generator"), (3, "texts is an int")):
        with pytest.raises(InputError, match=says):
            check_texts(wrong)


@pytest.mark.parametrize("wrong", [5, 1.5, b"bytes", ["a"], object()])
def test_what_is_not_a_text_is_refused_with_its_index(wrong):
    with pytest.raises(InputError, match=f"of type {type(wrong).__name__}, not str: text 1"):
        check_texts(["a", wrong, "b"])


@pytest.mark.parametrize("text", ["\ud800", "a\udfff", "half of 😀: \ud83d"])
def test_a_lone_surrogate_is_refused(text):
    with pytest.raises(InputError, match=rf"not valid Unicode .*text 1, character {len(text) - 1}"):
        check_texts(["fine", text])


@pytest.mark.parametrize("text", NOTHING_VISIBLE, ids=ascii)
def test_a_text_without_visible_characters_is_empty(text):
    with pytest.raises(InputError, match="the text (is empty|has no visible character): text 1"):
        check_texts(["a", text])
    assert check_texts([text], allow_empty=True) == [text]
    assert check_text(text + "a" + text, "it") == text + "a" + text


@given(
    st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1)),
    st.sampled_from([list, tuple, np.array, np.uint32]),
)
def test_ids_of_any_kind_are_taken(documents, kind):
    for whole in (list, iter):
        got = check_ids(whole([kind(document) for document in documents]))
        assert [ids.tolist() for ids in got] == documents
        assert all(ids.dtype == np.int32 for ids in got)


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        ([[1], [1.5, 2]], "1.5 is not a token id: document 1, token 0"),
        ([[1], [2, 1.0]], "1.0 is not a token id: document 1, token 1"),
        ([[True, False]], "True is not a token id: document 0, token 0"),
        ([[1, -1]], "-1 is not a token id: document 0, token 1"),
        ([[2**31]], "2147483648 is not a token id: document 0, token 0"),
        ([[1, None]], "None is not a token id: document 0, token 1"),
        (
            [[1], [[2]]],
            "a list is not a token id: document 1, token 0: pass a list of token ids for each",
        ),
        (([[1], [2]], 0), "documents is what tokenize returns, .*: pass its first value"),
        ([1, 2], "of type int: document 0: pass a list of token ids for each document"),
        ([["1"]], "'1' is not a token id: document 0, token 0"),
        ([np.array([1.5])], "1.5.* is not a token id: document 0, token 0"),
        (["ab"], "'a' is not a token id: document 0, token 0"),
        ([[1], []], "the document is empty: document 1"),
        ([5], "document is of type int: document 0"),
        ([None], "document is of type NoneType: document 0"),
        ("abc", "documents is a string"),
        (None, "documents is a NoneType"),
        (5, "documents is an int"),
    ],
    ids=str,
)
def test_what_is_not_a_token_id_is_refused(documents, says):
    with pytest.raises(InputError, match=says):
        check_ids(documents)


@given(
    st.lists(st.integers(1, 9), min_size=1), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)
)
def test_padding_at_the_ends_of_a_document_is_refused(tokens, inside, before, after):
    document = [0] * before + tokens + [0] * inside + tokens + [0] * after
    if before or after:
        side, count = ("ends", after) if after else ("begins", before)
        says = f"the document {side} with {count} padding tokens?: document 1: pass ids without"
        with pytest.raises(InputError, match=says):
            check_ids([[1], document], pad_id=0)
    else:
        assert check_ids([document], pad_id=0)[0].tolist() == document
    assert check_ids([document])[0].tolist() == document


def test_a_document_of_padding_alone_is_refused():
    with pytest.raises(InputError, match="only padding tokens: document 1: leave it out"):
        check_ids([[1], [0, 0]], pad_id=0)


@pytest.mark.parametrize("value", ["5", 5.0, None, True, np.True_, [5]])
def test_what_is_not_an_integer_is_refused(value):
    with pytest.raises(InputError, match=f"n is of type {type(value).__name__}, not int.*1 to 9"):
        check_integer(value, "n", 1, 9)


def test_integers_have_limits():
    assert check_integer(np.int64(1), "n", 1, 9) == 1
    for wrong in (0, 10, -(10**30)):
        with pytest.raises(InputError, match=f"invalid n {wrong}: use 1 to 9"):
            check_integer(wrong, "n", 1, 9)
    assert check_integer(10**30, "n", 1) == 10**30
    with pytest.raises(InputError, match="invalid n 0: use 1 or more"):
        check_integer(0, "n", 1)


def test_a_byte_that_is_not_utf_8():
    """Python passes it on as half a character (surrogateescape), in arguments for example."""
    for text in ("caf\udce9", b"caf\xe9".decode(errors="surrogateescape")):
        with pytest.raises(InputError, match="UTF-8 .byte 0xe9.: it, character 3: convert it"):
            check_text(text, "it")


def test_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for path in ("~/a", Path("~/a"), tmp_path / "a", str(tmp_path / "a")):
        assert check_path(path, "it") == tmp_path / "a"
    wrong = {
        None: "of type NoneType, not str or Path: do",
        b"a": "of type bytes",
        "": "an empty string",
        "a\0b": "a NUL",
        "caf\udce9": "not valid UTF-8",
        "~no-such-user": "no such directory",
    }
    for path, says in wrong.items():
        with pytest.raises(InputError, match=says):
            check_path(path, "it", "do this")
