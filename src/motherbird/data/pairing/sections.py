"""Sections of Markdown and reStructuredText, with the headings above them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from .pair import Pair, one_line

MARKDOWN, RESTRUCTURED = (".md", ".markdown"), (".rst", ".rst.txt")  # .rst.txt is from Sphinx
BETWEEN = " > "  # headings
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
_HASHES = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_NO_TITLE = re.compile(r"\s*$| {4}|\t| {0,3}([-*+>|]|\d+[.)])(\s|$)")  # what is a list or a table
_LINK = re.compile(r"!?\[([^][]*)\]\([^()]*\)")
_ADORNMENT = re.compile(r"([!-/:-@[-`{-~])\1+\s*")
_ROLE = re.compile(r":[\w:+.-]+:(?=`)")
_TARGET = re.compile(r"\.\. _[^:]+:\s*")


@dataclass
class _Section:
    depth: int  # 1 for the highest
    title: str
    line: int
    body: list[str] = field(default_factory=list)


def is_divided(name: str) -> bool:
    """Return whether a file has sections, by its name in lower case."""
    return name.endswith((*MARKDOWN, *RESTRUCTURED))


def section_pairs(text: str, source: str) -> Iterator[Pair]:
    """Yield the headings above each section, with the text of the section up to the next heading.

    Args:
        text: with LF as line ends.
        source: the name of the file in the pairs, which says what format it has.
    """
    for titles, section in _sections(source, text.split("\n")):
        body = "\n".join(section.body).strip()
        if body:
            yield Pair(BETWEEN.join(titles), body, "heading", f"{source}:{section.line}")


def headings(name: str, lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield the line of each heading, from 1, and the headings down to it.

    Args:
        name: of the file, which says what format it has.
        lines: of the file.
    """
    for titles, section in _sections(name, lines):
        yield section.line, titles


def _sections(name: str, lines: Sequence[str]) -> Iterator[tuple[list[str], _Section]]:
    is_markdown = name.lower().endswith(MARKDOWN)
    path: list[_Section] = []
    for section in (_markdown if is_markdown else _restructured)(lines):
        path = [*(above for above in path if above.depth < section.depth), section]
        yield [above.title for above in path if above.title], section


def _markdown(lines: Sequence[str]) -> Iterator[_Section]:
    section: _Section | None = None
    fence, start = "", 0
    if lines[0].rstrip() == "---":  # front matter
        ends = (n for n, line in enumerate(lines[1:], 1) if line.rstrip() in ("---", "..."))
        start = next(ends, -1) + 1
    for number, line in enumerate(lines[start:], start + 1):
        marks = _FENCE.fullmatch(line)
        if fence:
            if marks and marks[1].startswith(fence) and not marks[2].strip():
                fence = ""
        elif marks and not (marks[1][0] == "`" and "`" in marks[2]):
            fence = marks[1]
        elif hashes := _HASHES.fullmatch(line):
            if section:
                yield section
            section = _Section(len(hashes[1]), _plain(hashes[2] or ""), number)
            continue
        elif (below := _UNDERLINE.fullmatch(line)) and _is_alone(lines, number - 2, start):
            if section:
                section.body.pop()
                yield section
            title = _plain(lines[number - 2])
            section = _Section(1 if below[1][0] == "=" else 2, title, number - 1)
            continue
        if section:
            section.body.append(line)
    if section:
        yield section


def _is_alone(lines: Sequence[str], at: int, start: int) -> bool:
    """Return whether a line is a paragraph of one line, which an underline makes a heading."""
    if at < start or _NO_TITLE.match(lines[at]) or _HASHES.fullmatch(lines[at]):
        return False
    above = lines[at - 1] if at > start else ""
    return not above.strip() or bool(_HASHES.fullmatch(above) or _FENCE.fullmatch(above))


def _plain(title: str) -> str:
    """Return a heading without links of Markdown and marks."""
    return one_line(_LINK.sub(r"\1", title).replace("`", "").replace("**", ""))


def _restructured(lines: Sequence[str]) -> Iterator[_Section]:
    section: _Section | None = None
    styles: list[tuple[str, int]] = []
    number = 0
    while number < len(lines):
        follows_title = section is not None and not section.body
        over = _title_at(lines, number, follows_title)
        if over is None:
            if section and not _TARGET.fullmatch(lines[number]):
                section.body.append(lines[number])
            number += 1
            continue
        if section:
            yield section
        style = (lines[number + 1 + over].strip()[0], over)
        if style not in styles:  # levels are in the order in which their styles occur
            styles.append(style)
        title = _plain(_ROLE.sub("", lines[number + over]))
        section = _Section(styles.index(style) + 1, title, number + over + 1)
        number += 2 + over
    if section:
        yield section


def _title_at(lines: Sequence[str], at: int, follows_title: bool) -> int | None:
    """Return 1 if a title with an overline begins at a line, 0 if one without, or None."""
    above = lines[at - 1].strip() if at and not follows_title else ""
    if above and not _TARGET.fullmatch(above):
        return None
    over = 1 if _ADORNMENT.fullmatch(lines[at]) else 0
    if at + 1 + over >= len(lines):
        return None
    title, under = lines[at + over], lines[at + 1 + over].rstrip()
    if not title.strip() or (title[0].isspace() and not over) or not _ADORNMENT.fullmatch(under):
        return None
    if over and lines[at].rstrip() != under:
        return None
    return over if len(under) >= min(4, len(title.strip())) and not _TARGET.match(title) else None
