"""The terms of a text: what full-text search compares.

Documents and queries are divided alike. An identifier counts as a whole and as its parts, so that
`parse html` finds parseHTMLResponse, and so does the name itself.
"""

import re
from functools import cache

from ..engine.terms import Terms
from ..errors import require_extra

# Letters and digits of any script, joined by underscores; anything else separates.
_WORD = re.compile(r"\w+")
# Parts of an identifier: an acronym before a word (HTTP|Server), a word, an acronym, a number.
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
MOST_WORDS = 1 << 18  # that are remembered
LONGEST = 64  # characters of a term; longer words are data, such as hashes

_stem = require_extra("Stemmer", "search").Stemmer("english")


def terms(text: str) -> list[str]:
    """Return the terms of a text in order, in lower case and stemmed."""
    return joined(text).split()


def joined(text: str) -> str:
    """Return the terms of a text, joined by spaces."""
    if text.isascii():
        return _of_ascii().of(text)
    return " ".join(filter(None, map(_of_word.__getitem__, _WORD.findall(text))))


class _TermsOfWords(dict[str, str]):
    """The terms of words of texts that are not ASCII."""

    def __missing__(self, word: str) -> str:
        if len(self) >= MOST_WORDS:
            self.clear()
        found = self[word] = _divided(word)
        return found


def _divided(word: str) -> str:
    """Return the terms of a word: the whole, and its parts if it has more than one."""
    if len(word) > LONGEST:
        return ""
    parts = _PART.findall(word) if word.isascii() else [part for part in word.split("_") if part]
    stems = [_stem.stemWord(part.lower()) for part in parts]
    whole = word.lower().strip("_")
    if len(parts) == 1 and parts[0].lower() == whole:
        return stems[0]
    return " ".join(filter(None, (whole, *stems)))


_of_word = _TermsOfWords()


@cache
def _of_ascii() -> Terms:
    return Terms(_divided, MOST_WORDS)
