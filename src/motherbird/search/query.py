"""A query: its terms, and whether it is the name of something."""

import re
from dataclasses import dataclass
from functools import cached_property

from .terms import terms

# Words of questions that say nothing about what is looked for.
STOP_WORDS = frozenset(
    "a an and are as at be by can could do does for from has have how i if in into is it its me my "
    "not of on or should show that the their there these this to use used using was we what when "
    "where which who why will with you your".split()
)
_NAME = re.compile(r"[^\W\d]\w*(?:(?:\.|::|->|#|/)[^\W\d]\w*)*[?!]?(?:\(\))?")
_SEPARATOR = re.compile(r"\.|::|->|#|/")
_WORD = re.compile(r"\w+")
MOST_TERMS = 64  # of a query; the rarest words of a long text are seldom beyond them


@dataclass(frozen=True)
class Query:
    """What a user asks: a question, words, or a name."""

    text: str

    @cached_property
    def terms(self) -> list[str]:
        """The terms, each once, without stop words unless there are no others."""
        words = _WORD.findall(self.text)
        rest = [word for word in words if word.lower() not in STOP_WORDS]
        found = dict.fromkeys(term for word in rest or words for term in terms(word))
        return list(found)[:MOST_TERMS]

    @cached_property
    def name(self) -> str:
        """The last part of a name such as `Session.get`, if the query is one; else empty.

        A word in lower case, such as `session`, may be either, and counts as a word.
        """
        text = self.text.strip()
        if not _NAME.fullmatch(text):
            return ""
        parts = [part for part in _SEPARATOR.split(text.rstrip("?!()")) if part]
        is_name = len(parts) > 1 or text.endswith("()") or _looks_like_code(parts[-1])
        return parts[-1] if is_name else ""

    @cached_property
    def names(self) -> frozenset[str]:
        """Words of the query that look like names in code."""
        return frozenset(w for w in _WORD.findall(self.text) if _looks_like_code(w, inside=True))


def _looks_like_code(word: str, inside: bool = False) -> bool:
    """Return whether a word has an underscore or a capital letter, in a text not only as first."""
    return "_" in word.strip("_") + word[:1] or any(c.isupper() for c in word[inside:])
