"""Passages: docstrings with dotted names from code, paragraphs from everything else."""

import warnings

import pytest

from motherbird.data.passages import LONGEST, SHORTEST, passages
from motherbird.data.readers import Document

CODE = '''"""What the module is for.

The second paragraph of the module.
"""

LIMIT = 5


class Bird:
    """A bird.

    It sings.
    """

    def sing(self, song: str) -> None:
        """Sing a song."""
        print(song)

    def quiet(self):
        pass

    class Nest:
        """Where it lives."""


async def fetch(url):
    """Fetch a page.

    Slowly.
    """

    def inner():
        """Hidden inside."""

    return await inner(url)
'''


def of(text: str, source: str = "zoo/birds.py"):
    return {passage.title: passage for passage in passages(Document(text, source))}


def test_every_docstring_has_its_dotted_name():
    found = of(CODE)
    assert set(found) == {
        "zoo.birds",
        "zoo.birds.Bird",
        "zoo.birds.Bird.sing",
        "zoo.birds.Bird.Nest",
        "zoo.birds.fetch",
        "zoo.birds.fetch.inner",
    }
    assert {passage.source for passage in found.values()} == {"zoo/birds.py"}


def test_a_package_is_called_by_its_folder():
    assert set(of('"""All birds."""', "zoo/__init__.py")) == {"zoo"}


def test_question_and_answer_do_not_share_the_words():
    passage = of(CODE)["zoo.birds.fetch"]
    assert passage.question == "Fetch a page."
    assert "zoo.birds.fetch" in passage.text and "Fetch a page." in passage.text
    assert "Slowly." in passage.answer and "return await inner(url)" in passage.answer
    assert "Fetch a page" not in passage.answer
    module = of(CODE)["zoo.birds"]
    assert module.question == "What the module is for."
    assert "Bird" in module.answer and "fetch" in module.answer
    assert "What the module" not in module.answer


def test_code_without_docstrings_is_prose():
    (passage,) = passages(Document("x = 1\n", "a.py"))
    assert (passage.source, passage.title) == ("a.py", "")


@pytest.mark.parametrize("broken", ["def f(:\n    pass\n", "x = '\0'\n", "x = " + "(" * 300])
def test_a_file_that_does_not_parse_is_prose(broken):
    found = list(passages(Document('"""A docstring."""\n\n' + broken, "a.py")))
    assert found and all(passage.title == "" for passage in found)


@pytest.mark.parametrize(
    "code",
    [
        'def f(x):\n    """Add."""\n    return ' + " + ".join("x" * 900) + "\n",
        'def f(x):\n    """Add."""\n    return ' + "-" * 100_000 + "x\n",
    ],
    ids=["a long sum", "100,000 signs"],
)
def test_code_that_is_nested_deeply(code):
    """Python's parser and printer give up with RecursionError or MemoryError; we do not."""
    assert list(passages(Document(code, "a.py")))


def test_what_python_would_warn_about_is_not_our_business():
    code = 'def f(text):\n    """Find digits."""\n    return re.findall("\\d", text) is 5\n'
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert "a.f" in of(code, "a.py")
    assert not caught


# --- prose

SENTENCE = "The bird sings in the early morning when no one listens to it. "


def paragraph(word: str, times: int = 5) -> str:
    return SENTENCE.replace("bird", word) * times


def test_paragraphs():
    text = "\n\n".join(paragraph(word) for word in ("robin", "wren", "crow"))
    found = list(passages(Document(text, "birds.md")))
    assert [passage.text for passage in found] == [p.strip() for p in text.split("\n\n")]
    assert all((passage.source, passage.title) == ("birds.md", "") for passage in found)


def test_short_paragraphs_are_joined_until_they_are_long_enough():
    text = "\n\n".join(SENTENCE.strip() for _ in range(12))
    found = list(passages(Document(text, "birds.txt")))
    assert len(found) > 1
    assert all(SHORTEST <= len(passage.text) <= LONGEST for passage in found)
    assert sum(passage.text.count("bird") for passage in found) == 12


@pytest.mark.parametrize("text", ["A word", "Two. Sentences.", "Line\nline\n\n\nline"])
def test_a_short_document_is_one_passage(text):
    (passage,) = passages(Document(text, "a.txt"))
    assert passage.text.split() == text.split()
    assert passage.question.strip()


@pytest.mark.parametrize("text", ["", "\n\n \n", "\t"])
def test_nothing_gives_nothing(text):
    assert list(passages(Document(text, "a.txt"))) == []


def test_the_question_is_taken_out_of_the_answer():
    text = paragraph("robin", 3) + "What this all is about stands in the longest sentence of it " \
        "all, which is this one here."  # fmt: skip
    (passage,) = passages(Document(text, "a.txt"))
    assert passage.question.startswith("What this all is about")
    assert passage.question not in passage.answer
    assert "robin" in passage.answer and passage.question in passage.text


def test_nothing_of_a_long_paragraph_is_lost():
    """A page without blank lines, as of many files: its end can be found as well."""
    text = "".join(paragraph(f"bird{i}", 1) for i in range(100))
    found = list(passages(Document(text, "a.txt")))
    assert all(len(passage.text) <= LONGEST for passage in found)
    assert all(f"bird{i} " in "".join(p.text for p in found) for i in range(100))
