"""Chunks of text: sections below headings, and paragraphs."""

from collections.abc import Sequence
from itertools import pairwise

from ...data.pairing.sections import BETWEEN, headings
from .chunk import Chunk, parts

SHORT = 600  # characters up to which paragraphs are joined


def sections(name: str, lines: Sequence[str]) -> list[Chunk]:
    """Divide Markdown or reStructuredText at its headings."""
    found: list[Chunk] = []
    starts = [*headings(name, lines)]
    first = starts[0][0] if starts else len(lines) + 1
    found += parts(lines, 0, first - 2, "", "text")
    for (line, titles), (end, _) in pairwise([*starts, (len(lines) + 1, [])]):
        found += parts(lines, line - 1, end - 2, BETWEEN.join(titles), "section")
    return found


def paragraphs(lines: Sequence[str]) -> list[Chunk]:
    """Divide text at blank lines; short paragraphs are joined."""
    found: list[Chunk] = []
    first, size = 0, 0
    for number, line in enumerate(lines):
        if not line.strip() and size >= SHORT:
            found += parts(lines, first, number - 1, "", "text")
            first, size = number, 0
        size += len(line)
    return found + parts(lines, first, len(lines) - 1, "", "text")
