"""Strict TOML: one error names all mistakes and their places."""

import re
from dataclasses import dataclass, field
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird.errors import InputError
from motherbird.strict import build, load, type_errors


@dataclass(frozen=True)
class Inner:
    size: int
    rate: float = 0.5

    def __post_init__(self):
        if self.size < 1:
            raise InputError(f"size = {self.size} is below 1")


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b"] = "a"
    inner: Inner | None = None
    parts: tuple[Inner, ...] = ()
    words: list[str] = field(default_factory=list)
    by_name: dict[str, int] = field(default_factory=dict)
    fast: bool = False


def read(tmp_path, text, changes=()):
    (tmp_path / "x.toml").write_text(text + "\n", encoding="utf-8")
    return load(Outer, tmp_path / "x.toml", changes)


def test_everything_that_a_field_may_be(tmp_path):
    made = read(
        tmp_path,
        'name = "n"\nkind = "b"\nwords = ["x"]\nfast = true\nby_name = {a = 1}\n'
        "[inner]\nsize = 3\nrate = 2\n[[parts]]\nsize = 1\n[[parts]]\nsize = 2\n",
    )
    inner = Inner(3, 2.0)
    assert made == Outer("n", "b", inner, (Inner(1), Inner(2)), ["x"], {"a": 1}, True)
    assert isinstance(made.inner.rate, float)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "name is missing"),
        ('name = "n"\nnmae = 1', "unknown key nmae .did you mean name."),
        ('name = "n"\nzzzz = 1', "unknown key zzzz .keys: name"),
        ('name = "n"\nrate = 1', r"unknown key rate .did you mean inner.rate or parts.N.rate\?"),
        ("name = 1", "name = 1 is not text"),
        ('name = "n"\nkind = "c"', "kind = 'c' is not one of a, b"),
        ('name = "n"\nfast = 1', "fast = 1 is not true or false"),
        ('name = "n"\n[inner]\nsize = true', "inner.size = True is not a whole number"),
        ('name = "n"\n[inner]\nsize = 1.5', "inner.size = 1.5 is not a whole number"),
        ('name = "n"\n[inner]\nsize = 1\nrate = nan', "inner.rate = nan is not finite"),
        ('name = "n"\n[inner]\nsize = 1\nrate = -inf', "inner.rate = -inf is not finite"),
        ('name = "n"\n[inner]\nsize = 1\nrate = "0.5"', "inner.rate = '0.5' is not a number"),
        ('name = "n"\n[inner]\nsize = 0', "inner.size = 0 is below 1"),
        ('name = "n"\n[[parts]]\nsize = 1\n[[parts]]\n', "parts.1.size is missing"),
        (
            'name = "n"\n[parts]\nsize = 1',
            r"parts is one table.*write \[\[parts\]\], not \[parts\]",
        ),
        ('name = "n"\nwords = ["a", 1]', "words.1 = 1 is not text"),
        ('name = "n"\nwords = "ab"', "words = 'ab' is not a list of texts"),
        ('name = "n"\nname = "m"', r"not valid TOML .*line 2"),
        (f'name = "n"\n[inner]\nsize = 1\nrate = {"9" * 400}', "inner.rate = 9+ is not a number"),
        (f'name = "n"\n[inner]\nsize = {"9" * 5000}', "not valid TOML"),
        ("name = ", r"not valid TOML .*line 1"),
    ],
)
def test_mistakes(tmp_path, text, says):
    with pytest.raises(InputError, match=says) as error:
        read(tmp_path, text)
    assert error.value.where == str(tmp_path / "x.toml")


def test_all_mistakes_at_once(tmp_path):
    with pytest.raises(InputError) as error:
        read(tmp_path, 'kind = "z"\nfasst = true\n[inner]\nsize = "x"')
    for part in ("unknown key fasst", "name is missing", "kind = 'z'", "inner.size = 'x'"):
        assert part in str(error.value)


def test_changes(tmp_path):
    text = 'name = "n"\n[[parts]]\nsize = 1\n'
    made = read(tmp_path, text, ["parts.0.size=7", "name=m", "inner.size=2", "fast=true"])
    assert (made.name, made.parts, made.inner, made.fast) == ("m", (Inner(7),), Inner(2), True)
    for change, says in (
        ("name", "needs KEY=VALUE"),
        ("=1", "needs KEY=VALUE"),
        ("parts.1.size=1", "there is no parts.1"),
        ("name.x=1", "there is no name.x"),
        ("parts.0.sise=1", "did you mean parts.0.size"),
    ):
        with pytest.raises(InputError, match=says):
            read(tmp_path, text, [change])


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "x.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read the file"):
        load(Outer, path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, None),
        ({"inner": Inner(1, 2**53)}, None),  # a dataclass checks its own fields
        ({"name": 1}, "name = 1 is not text"),
        ({"kind": "c"}, "kind = 'c' is not one of a, b"),
        ({"fast": 1}, "fast = 1 is not true or false"),
        ({"parts": [Inner(1)]}, r"parts = \[.*\] is not a list of tables"),
        ({"words": ["a", 1]}, "words.1 = 1 is not text"),
        ({"by_name": {"a": True}}, "by_name.a = True is not a whole number"),
    ],
)
def test_types_of_an_instance(changes, says):
    found = type_errors(Outer(**{"name": "n", **changes}))
    assert found == [] if says is None else re.fullmatch(says, "; ".join(found))


@pytest.mark.parametrize(
    ("rate", "fits"),
    [(1, True), (2**53, True), (2**53 + 1, False), (10**400, False), (True, False),
     (float("inf"), False), (float("nan"), False), ("1", False)],
)  # fmt: skip
def test_floats_of_an_instance(rate, fits):
    assert (type_errors(Inner(1, rate)) == []) == fits


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(st.dictionaries(st.sampled_from([*Outer.__dataclass_fields__, "other"]), json_values))
def test_anything_is_taken_or_refused(data):
    try:
        made = build(Outer, data, "here")
    except InputError as error:
        assert error.where == "here"
    else:
        assert isinstance(made.name, str) and made.kind in ("a", "b")
