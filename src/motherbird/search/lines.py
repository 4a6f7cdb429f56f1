"""Lines of a hit to show."""

from pathlib import Path

from .build import decoded
from .query import Query
from .terms import terms


def best_lines(text: str, query: Query, count: int) -> tuple[int, list[str]]:
    """Return some lines of a text in a row, which have most of the terms, and how many precede.

    The first lines win a tie: they say what a function or a section is.
    """
    lines = text.split("\n")
    if len(lines) <= count:
        return 0, lines
    wanted = set(query.terms)
    has = [wanted.intersection(terms(line)) for line in lines]
    values = [len(set().union(*has[n : n + count])) for n in range(len(lines) - count + 1)]
    first = values.index(max(values))
    return first, lines[first : first + count]


def around(path: Path, start: int, end: int, more: int) -> tuple[int, list[str]]:
    """Return the lines of a file from some before ``start`` to some after ``end``.

    Returns:
        The number of the first one, from 1, and the lines.
    """
    try:
        text = decoded(path.name, path.read_bytes()) or ""
    except OSError:
        text = ""
    first = max(1, start - more)
    return first, text.replace("\r\n", "\n").split("\n")[first - 1 : end + more]
