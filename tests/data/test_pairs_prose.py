"""Headings with their sections, columns of tables, passages, words."""

import pytest

from motherbird.data.pairing.columns import adjacent_pairs, can_be_used, record_pairs
from motherbird.data.pairing.pair import KINDS, Pair, check_kinds, cut, why_not
from motherbird.data.pairing.sections import section_pairs
from motherbird.data.readers.document import Record
from motherbird.errors import InputError

MARKDOWN = """---
title: front
---
before all headings

# The [tool](a.html) `x`

Intro of it.

## Install ##
Run pip.

```sh
# not a heading
make
```

### From source

Unpack
------

1. one
---
- two
---

#hashtag is text
Last
====
The end.
"""


def sections(text, name):
    return [(p.query, p.positive, p.source) for p in section_pairs(text, name)]


def test_markdown():
    assert sections(MARKDOWN, "a.md") == [
        ("The tool x", "Intro of it.", "a.md:6"),
        ("The tool x > Install", "Run pip.\n\n```sh\n# not a heading\nmake\n```", "a.md:10"),
        ("The tool x > Unpack", "1. one\n---\n- two\n---\n\n#hashtag is text\nLast\n====\nThe end.",
         "a.md:20"),
    ]  # fmt: skip


def test_a_fence_is_closed_by_one_as_long():
    text = "# a\n~~~~\n~~~\n# b\n~~~~\n# c\nx"
    assert [query for query, _, _ in sections(text, "a.MD")] == ["a", "c"]
    assert sections("---\n# a\nx", "a.md") == [("a", "x", "a.md:2")]  # no front matter
    assert sections("", "a.md") == sections("\n\nwords\n", "a.md") == []


RESTRUCTURED = """
=======
Manual
=======
.. _intro:

Intro
=====

Words.

.. _target:

Usage
=====
Call :py:func:`x`
-----------------

Some::

    Literal
    -------

----

========  =====
a table   of it
========  =====

End
===
Done.
"""


@pytest.mark.parametrize("name", ["a.rst", "a.rst.txt"])
def test_restructured_text(name):
    found = sections(RESTRUCTURED, name)
    assert [query for query, _, _ in found] == [
        "Manual > Intro", "Manual > Usage > Call x", "Manual > End",
    ]  # fmt: skip
    assert found[0][1:] == ("Words.", f"{name}:7")
    assert "Literal\n    -------" in found[1][1] and "a table" in found[1][1]
    assert found[2][1] == "Done."


def rows(values, kinds=KINDS):
    return [(p.kind, p.query, p.positive) for p in record_pairs(Record(values, "a.csv:2"), kinds)]


def test_columns():
    assert rows({"title": "T\nt", "text": " x "}) == [("title", "T t", "x")]
    assert rows({"headline": "T", "body": "x", "other": 3}) == [("title", "T", "x")]
    assert rows({"question": "q", "answers": ["a", "b"]}) == [
        ("question", "q", "a"), ("question", "q", "b"),
    ]  # fmt: skip
    assert rows({"question": "q", "answer": None}) == [("question", "q", "")]
    assert rows({"question": "q", "answer": "a", "title": "t", "text": "x"}, ["title"]) == [
        ("title", "t", "x")
    ]
    assert not can_be_used(Record({"title": "t", "query": "q"}, "a"))
    assert can_be_used(Record({"text": "t"}, "a"))


def test_passages_that_follow_each_other():
    words = [f"w{n}" for n in range(1000)]
    found = list(adjacent_pairs(" ".join(words), "a.txt"))
    assert len(found) > 2
    own = [word for pair in found for word in [*pair.query.split(), *pair.positive.split()]]
    assert own == words[: len(own)] and len(own) > 800  # each word once, in order
    assert max(len(pair.positive) for pair in found) <= 800
    assert list(adjacent_pairs("short text", "a.txt")) == list(adjacent_pairs("", "a")) == []


def test_words():
    assert cut("a  b\n c d", 3) == "a  b\n c" and cut("a b", 3) == "a b"
    assert cut("天地玄黃宇宙", 2) == "天地玄黃"
    short = "text of fewer than 3 words"
    expected = {"a b": short, "a b c": None, "天地玄黃宇": None, "天地玄黃": short,
                " ": "empty query or text", "q  r s": "text that is the query"}  # fmt: skip
    for text, reason in expected.items():
        assert why_not(Pair("q r s", text, "title", "a")) == reason


def test_names_of_kinds():
    assert check_kinds("title, docstring,title") == ("docstring", "title")
    assert check_kinds(None) == KINDS
    with pytest.raises(InputError, match="no kind 'x': use docstring, heading"):
        check_kinds("title,x")
