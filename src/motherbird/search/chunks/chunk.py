"""A part of a file, and how long it may be."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

LINES, CHARACTERS = 80, 4000  # of a chunk, at most, except that a line is never divided
NOTHING = re.compile(r"(?:\W|\b(?:end|fi|done|esac|endif)\b)*")  # lines that are not a chunk
NEAR = 12  # lines around equal parts among which a better place to divide is looked for


@dataclass(frozen=True, slots=True)
class Chunk:
    """Lines of a file.

    Attributes:
        start, end: the first and the last line, from 1.
        symbol: the name of what it is or is in, with the names around it: "Index.search"; the
            headings above a section; empty for none.
        kind: "function", "method", "class", "interface", "module", "type", "section", "text",
            "data"; what a part of something longer is a part of.
    """

    start: int
    end: int
    symbol: str
    kind: str


def parts(lines: Sequence[str], first: int, last: int, symbol: str, kind: str) -> list[Chunk]:
    """Return lines as one chunk, or as several of similar size if they are too many.

    Args:
        lines: those of the file.
        first: the first line, from 0; blank lines at both ends are left out.
        last: the last line; nothing is returned for lines that only close brackets.
        symbol: that of each chunk.
        kind: that of each chunk.
    """
    while first <= last and not lines[first].strip():
        first += 1
    while first <= last and not lines[last].strip():
        last -= 1
    if first > last:
        return []
    if all(NOTHING.fullmatch(line) for line in lines[first : last + 1]):
        return []
    characters = sum(len(lines[n]) + 1 for n in range(first, last + 1))
    count = max(-(-(last - first + 1) // LINES), -(-characters // CHARACTERS))
    if count == 1 or first == last:
        return [Chunk(first + 1, last + 1, symbol, kind)]
    middle = _middle(lines, first, last, characters)
    return parts(lines, first, middle, symbol, kind) + parts(lines, middle + 1, last, symbol, kind)


def _middle(lines: Sequence[str], first: int, last: int, characters: int) -> int:
    """Return the last line of the first of two parts: before a blank line if there is one near."""
    half, at = characters / 2, first
    while at < last - 1 and half > len(lines[at]):
        half -= len(lines[at]) + 1
        at += 1
    around = range(max(first, at - NEAR), min(last - 1, at + NEAR) + 1)

    def cost(number: int) -> tuple[int, int]:
        after = lines[number + 1]
        indent = len(after) - len(after.lstrip()) if after.strip() else -1
        return indent, abs(number - at)

    return min(around, key=cost)
