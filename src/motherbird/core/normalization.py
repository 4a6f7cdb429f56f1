"""A normal form of text: texts that look alike, or spell a word in pieces, become equal.

It is Unicode's NFKC_Casefold (compatibility characters, such as full-width letters, become plain
ones, characters that are displayed as nothing are removed, and case is ignored), with two more
rules: three or more single characters with the same separator between them ("i g n o r e",
"i-g-n-o-r-e") are joined, as are two letters in a text with such words, and white space becomes one
space.
"""

import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from .arguments import INVISIBLE

Edit = tuple[int, int, str]  # the characters from, to, and the text in place of them

_INVISIBLE = re.compile(rf"(?:(?!\s)[{INVISIBLE}])+")
# With the ASCII character before it, which a combining mark may change.
_NOT_ASCII = re.compile(r"[!-~]?[^\x00-\x7f]+")
_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
# A letter, or a character after white space; then others with the same separator before each. Short
# separators come first: those between the words of a spelled text are longer.
_START, _END = r"(?:(?<!\S)\S|(?<![^\W_])[^\W_])", r"(?![^\W_])"
_SPELLED = [
    re.compile(rf"{_START}({separator})\S(?:\1\S)+{_END}") for separator in (r"[\W_]", r"[\W_]++")
]
# Only in texts with spelled words; "I'm" stays.
_PAIR = re.compile(rf"(?<!\S)[^\W\d_]((?!['’])[\W_])[^\W\d_]{_END}")
_SPACE = re.compile(r"\A\s+|\s+\Z|\s{2,}|[^\S ]")
_MAYBE_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{64,}={0,2}")
# Characters that are combined with one: more take quadratic time (UAX #15, Stream-Safe Text).
MOST_MARKS = 32
_HEX = re.compile(r"(?=.*[A-Fa-f])(?=.*[0-9])[0-9A-Fa-f]+")


@dataclass(frozen=True)
class Normalized:
    """A text, and for each of its characters the range of the original text it stands for."""

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def original(self, start: int, end: int) -> tuple[int, int]:
        """Return the range of the original text for a range of this one, which is not empty."""
        return self.starts[start], self.ends[max(start, end - 1)]


def unchanged(text: str) -> Normalized:
    """Return a text as it is."""
    return Normalized(text, range(len(text)), range(1, len(text) + 1))


def normalize(text: str) -> Normalized:
    """Return the normal form of a text, which is empty if nothing of the text is visible."""
    found = _replace(unchanged(text), ((*m.span(), "") for m in _INVISIBLE.finditer(text)))
    found = _replace(found, _casefolded(found.text))
    found = Normalized(found.text.translate(_LOWER), found.starts, found.ends)
    length = len(found.text)
    for pattern in _SPELLED:
        found = _replace(found, _separators(pattern, found.text))
    if len(found.text) < length:
        found = _replace(found, _separators(_PAIR, found.text))
    return _replace(found, _spaces(found.text))


def encoded(text: str) -> list[tuple[int, int]]:
    """Return the ranges of a text that are base64, of 64 characters or more, or hexadecimal.

    Hexadecimal data has more than 128 characters, which is more than a hash has.
    """
    found: list[tuple[int, int]] = []
    for match in _MAYBE_ENCODED.finditer(text):
        run = match[0]
        if _HEX.fullmatch(run):
            is_encoded = len(run) > 128
        else:  # not a path, a long word or a line of hyphens
            is_encoded = run.lower() != run != run.upper() and any(map(str.isdigit, run))
        if not is_encoded:
            continue
        start, end = match.span()
        if found and not text[found[-1][1] : start].strip():  # lines of one block
            start = found.pop()[0]
        found.append((start, end))
    return found


def _replace(source: Normalized, edits: Iterable[Edit]) -> Normalized:
    """Apply edits, in order; each character of a replacement stands for all that it replaces."""
    parts: list[str] = []
    starts, ends = array("l"), array("l")
    done = 0
    for start, end, new in edits:
        parts += source.text[done:start], new
        starts.extend(source.starts[done:start])
        ends.extend(source.ends[done:start])
        starts.extend([source.starts[start]] * len(new))
        ends.extend([source.ends[end - 1]] * len(new))
        done = end
    if not parts:
        return source
    starts.extend(source.starts[done:])
    ends.extend(source.ends[done:])
    return Normalized("".join([*parts, source.text[done:]]), starts, ends)


def _casefolded(text: str) -> Iterator[Edit]:
    for match in _NOT_ASCII.finditer(text):
        start = match.start()
        for end in range(start + 1, match.end() + 1):
            is_inside = end < match.end() and end - start < MOST_MARKS
            if is_inside and _continues(text[end]):
                continue
            old = text[start:end]
            new = unicodedata.normalize("NFKC", old).casefold()
            new = unicodedata.normalize("NFKC", new)
            if new != old:
                yield start, end, new
            start = end


@cache
def _continues(character: str) -> bool:
    """Return whether a character may be combined with the one before it."""
    first = unicodedata.normalize("NFKD", character)[0]
    return unicodedata.category(first)[0] == "M" or "\u1160" <= first <= "\u11ff"


def _separators(pattern: re.Pattern[str], text: str) -> Iterator[Edit]:
    for match in pattern.finditer(text):
        size = len(match[1])
        for start in range(match.start() + 1, match.end(), size + 1):
            yield start, start + size, ""


def _spaces(text: str) -> Iterator[Edit]:
    for match in _SPACE.finditer(text):
        is_inside = 0 < match.start() and match.end() < len(text)
        yield *match.span(), " " * is_inside
