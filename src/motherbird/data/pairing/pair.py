"""A pair: a query, and a text that answers it; which pairs are too short, and where texts are cut.

A word is a sequence of characters without white space. In scripts without spaces between words, two
characters of Chinese or Japanese count as a word, and four of Thai, Lao, Khmer or Burmese.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from ...errors import InputError
from ..duplicates import text_hash

# docstring: of a Python function or class, and its code; heading: headings and the section below
# them; title, question: columns of a table; adjacent: passages of a document.
Kind = Literal["docstring", "heading", "title", "question", "adjacent"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WORDS = 3  # of a docstring, and of a text of prose, at least
LINES = 3  # of code, at least
_HAN = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_THAI = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(rf"[{_HAN}]{{1,2}}|[{_THAI}]{{1,4}}|[^\s{_HAN}{_THAI}]+")


@dataclass(frozen=True, slots=True)
class Pair:
    """A query, and a text that answers it."""

    query: str
    positive: str
    kind: Kind
    source: str  # where it is from, such as "package/file.py:7"

    @property
    def key(self) -> int:
        """A hash of query and positive."""
        return text_hash(f"{self.query}\0{self.positive}")


def check_kinds(names: str | None) -> tuple[Kind, ...]:
    """Return the kinds of a list with commas between them, in their usual order; all if None.

    Raises:
        InputError: there is no such kind.
    """
    found = KINDS if names is None else [name.strip() for name in names.split(",")]
    for name in found:
        if name not in KINDS:
            raise InputError(f"there is no kind {name!r}", how=f"use {', '.join(KINDS)}")
    return tuple(kind for kind in KINDS if kind in found)


def why_not(pair: Pair) -> str | None:
    """Return why a pair is of no use, or None."""
    if not pair.query.strip() or not pair.positive.strip():
        return "empty query or text"
    if pair.kind == "docstring":
        if not _has_words(pair.query, WORDS):
            return f"docstring of fewer than {WORDS} words"
        if sum(bool(line.strip()) for line in pair.positive.split("\n")) < LINES:
            return f"code of fewer than {LINES} lines"
    elif not _has_words(pair.positive, WORDS):
        return f"text of fewer than {WORDS} words"
    if pair.query.split() == pair.positive.split():
        return "text that is the query"
    return None


def cut(text: str, words: int) -> str:
    """Return the text up to the end of a word, with at most so many words."""
    for number, match in enumerate(_WORD.finditer(text), 1):
        if number > words:
            return text[: match.start()].rstrip()
    return text


def one_line(text: str) -> str:
    """Return a text with single spaces in place of white space."""
    return " ".join(text.split())


def _has_words(text: str, count: int) -> bool:
    return any(number == count for number, _ in enumerate(_WORD.finditer(text), 1))
