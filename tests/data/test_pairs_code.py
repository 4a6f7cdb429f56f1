"""Docstrings of Python with their code, on code as it is."""

import ast

import pytest

from motherbird.data.pairing.docstrings import docstring_pairs
from motherbird.data.pairing.pair import why_not
from motherbird.errors import NotTextError

CODE = '''"""The module."""

class Bird(Animal):
    """A bird that sings.

    It has a second paragraph.
    """

    wings = 2

    @property
    @cached(size=3)
    def song(self) -> str:
        """Return the song
        of the bird.

        Args: none.
        """

        text = "la"
        return text

    def quiet(self):
        return None


if True:
    async def fetch(
        url,
    ):
        r"""Fetch a page of é."""  # noqa
        def inner():
            \'\'\'Hidden inside of it.\'\'\'
            return 1
        return await inner(url)
'''


def of(text):
    return {pair.query: pair for pair in docstring_pairs(text, "zoo/birds.py")}


def test_functions_methods_classes_and_what_is_inside():
    found = of(CODE)
    assert [*found] == [
        "A bird that sings.", "Return the song of the bird.", "Fetch a page of é.",
        "Hidden inside of it.",
    ]  # fmt: skip
    song = found["Return the song of the bird."]
    assert song.positive == (
        "@property\n@cached(size=3)\ndef song(self) -> str:\n"
        '    text = "la"\n    return text'
    )  # fmt: skip
    assert (song.kind, song.source) == ("docstring", "zoo/birds.py:13")
    fetch = found["Fetch a page of é."].positive
    assert (
        fetch.startswith("async def fetch(\n    url,\n):\n    def inner():") and "noqa" not in fetch
    )
    bird = found["A bird that sings."].positive
    assert bird.startswith("class Bird(Animal):\n    wings = 2\n") and "second" not in bird


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ('def f(): "One two three"; return 1', "def f(): ; return 1"),
        ('def f():\n    "One two three"; return 1', "def f():\n    return 1"),
        ('def f():\n    "One two three" ; x = "é"; return x', 'def f():\n    x = "é"; return x'),
        ('def f():\n    ("One "\n     "two three")\n    return 1', "def f():\n    return 1"),
        ('def f():\n    "One two three"', "def f():"),
        ('def f():\n\t"""One two three\n\tfour"""\n\treturn 1', "def f():\n\treturn 1"),
        ('class A: "One two three"', "class A:"),
    ],
)
def test_the_docstring_is_taken_out(code, expected):
    (pair,) = docstring_pairs(code, "a.py")
    assert pair.query.startswith("One two three")
    assert pair.positive == expected.replace(": ; ", ": ")


def test_the_code_of_the_standard_library_still_parses(prose):
    found = [pair for text in prose for pair in docstring_pairs(text, "a.py")]
    assert len(found) > 50
    for code in (pair.positive for pair in found):
        is_empty = code.rstrip().endswith(":")  # the docstring was all there was
        (definition,) = ast.parse(code + "\n    pass" * is_empty).body
        assert ast.get_docstring(definition) is None


@pytest.mark.parametrize(
    "code",
    ["def f(:\n    pass", "print 'two'", "x = '\0'", "x = " + "(" * 300, "-" * 100_000 + "1"],
    ids=["a colon", "Python 2", "NUL", "parentheses", "signs"],
)
def test_what_is_not_python(code):
    with pytest.raises(NotTextError, match=r"not Python that can be parsed.*a\.py"):
        list(docstring_pairs(code, "a.py"))


def test_short_docstrings_and_short_code():
    short = 'def f(x):\n    """Add one to it."""\n    return x + 1'
    (pair,) = docstring_pairs(short, "a.py")
    assert why_not(pair) == "code of fewer than 3 lines"
    (pair,) = docstring_pairs(short.replace("Add one to it.", "Add one."), "a.py")
    assert why_not(pair) == "docstring of fewer than 3 words"
    (pair,) = docstring_pairs(short.replace("return", "x *= 2\n    return"), "a.py")
    assert why_not(pair) is None


def test_half_a_character_in_a_docstring():
    (pair,) = docstring_pairs('def f():\n    "Return \\ud800 now."\n    return 1', "a.py")
    assert pair.query == "Return ? now."
