"""Chunks of text: sections below headings, paragraphs, and the cells of notebooks."""

import html
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise

from ...data.pairing.sections import BETWEEN, headings
from .chunk import Chunk, parts

SHORT = 600  # characters up to which paragraphs are joined
HTML = (".html", ".htm", ".xhtml")
_HEADING = re.compile(r"<h([1-6])\b[^>]*>(.*?)(?:</h\1>|$)", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")
_SOURCE = re.compile(r'\s*"source": \[')


def sections(name: str, lines: Sequence[str]) -> list[Chunk]:
    """Divide Markdown or reStructuredText at its headings."""
    return _below(list(headings(name, lines)), lines)


def pages(lines: Sequence[str]) -> list[Chunk]:
    """Divide HTML at the lines with a heading."""
    starts: list[tuple[int, list[str]]] = []
    path: list[tuple[int, str]] = []
    for number, line in enumerate(lines, 1):
        if heading := _HEADING.search(line):
            depth, title = int(heading[1]), html.unescape(_TAG.sub("", heading[2])).strip()
            path = [*(above for above in path if above[0] < depth), (depth, title)]
            starts.append((number, [title for _, title in path if title]))
    return _below(starts, lines) if starts else paragraphs(lines)


def printed(lines: Sequence[str], between: str) -> list[Chunk]:
    """Divide the text of a PDF into its pages, given the line between them."""
    found: list[Chunk] = []
    ends = [-1, *(n for n, line in enumerate(lines) if line == between), len(lines)]
    for number, (before, end) in enumerate(pairwise(ends), 1):
        found += parts(lines, before + 1, end - 1, f"page {number}", "text")
    return found


def cells(lines: Sequence[str]) -> list[Chunk]:
    """Divide a notebook (.ipynb) into the sources of its cells, without outputs."""
    found: list[Chunk] = []
    for number, (first, last) in enumerate(_sources(lines), 1):
        found += parts(lines, first, last, f"cell {number}", "text")
    return found


def _sources(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last line of the source of each cell, from 0."""
    first: int | None = None
    for number, line in enumerate(lines):
        if first is None:
            first = number + 1 if _SOURCE.fullmatch(line) else None
        elif line.strip() in ("]", "],"):
            yield first, number - 1
            first = None


def _below(starts: Sequence[tuple[int, Sequence[str]]], lines: Sequence[str]) -> list[Chunk]:
    """Return what is below each heading, given its line, from 1, and the headings down to it."""
    found: list[Chunk] = []
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
