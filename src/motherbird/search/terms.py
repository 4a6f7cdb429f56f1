"""The terms of a text: what full-text search compares.

Documents and queries are divided alike. An identifier counts as a whole and as its parts, so that
`parse html` finds parseHTMLResponse, and so does the name itself.
"""

import re
from functools import lru_cache

from ..errors import require_extra

# Letters and digits of any script, joined by underscores; anything else separates.
_WORD = re.compile(r"\w+")
# Parts of an identifier: an acronym before a word (HTTP|Server), a word, an acronym, a number.
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
LONGEST = 64  # characters of a term; longer words are data, such as hashes

_stem = require_extra("Stemmer", "search").Stemmer("english")


def terms(text: str) -> list[str]:
    """Return the terms of a text in order, in lower case and stemmed."""
    found: list[str] = []
    for word in _WORD.findall(text):
        found += _of_word(word)
    return found


@lru_cache(maxsize=1 << 18)
def _of_word(word: str) -> tuple[str, ...]:
    """Return the terms of a word: the whole, and its parts if it has more than one."""
    if len(word) > LONGEST:
        return ()
    parts = _PART.findall(word) if word.isascii() else [part for part in word.split("_") if part]
    stems = [_stem.stemWord(part.lower()) for part in parts]
    whole = word.lower().strip("_")
    if len(parts) == 1 and parts[0].lower() == whole:
        return (stems[0],)
    return (whole, *stems) if whole else tuple(stems)
