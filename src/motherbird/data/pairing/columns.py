"""Pairs of the columns of tables, and adjacent passages of texts."""

from collections.abc import Iterator, Sequence
from typing import Any

from ..cleaning import pieces
from ..readers.document import Record
from .pair import Kind, Pair, one_line

TITLES = ("title", "headline", "heading")
TEXTS = ("text", "body", "content", "abstract", "passage")
QUESTIONS = ("question", "query")
ANSWERS = ("answer", "answers", "response")
PASSAGE = 800  # characters, at most
WANTED = "no title and text, no question and answer"


def can_be_used(record: Record) -> bool:
    """Return whether a row has columns that pairs are made of."""
    text = _text_column(record)
    has_text = text is not None and isinstance(record.values[text], str)
    return has_text or None not in _columns(record, QUESTIONS, ANSWERS)


def record_pairs(record: Record, kinds: Sequence[Kind]) -> Iterator[Pair]:
    """Yield the pairs of a row: title and text, question and each answer, passages of the text.

    Columns are found by their names. A value of another type counts as an empty text.
    """
    for kind, queries, texts in (("title", TITLES, TEXTS), ("question", QUESTIONS, ANSWERS)):
        query, text = _columns(record, queries, texts)
        if kind in kinds and query is not None and text is not None:
            found = record.values[text]
            for each in found if isinstance(found, list) and found else [found]:
                asked = one_line(_text(record.values[query]))
                yield Pair(asked, _text(each).strip(), kind, record.where)  # type: ignore[arg-type]
    text = _text_column(record)
    if "adjacent" in kinds and text is not None:
        yield from adjacent_pairs(_text(record.values[text]), record.where)


def adjacent_pairs(text: str, source: str) -> Iterator[Pair]:
    """Yield pairs of passages of a text that follow each other; no passage is in two pairs.

    A passage has 400 to 800 characters, and ends with a paragraph, a line or a word.
    """
    own = [passage.strip() for passage in pieces(text.strip(), PASSAGE)]
    for query, positive in zip(own[::2], own[1::2], strict=False):
        yield Pair(one_line(query), positive, "adjacent", source)


def _columns(
    record: Record, queries: Sequence[str], texts: Sequence[str]
) -> tuple[str | None, str | None]:
    """Return the first names of columns that a row has."""
    query = next((name for name in queries if name in record.values), None)
    return query, next((name for name in texts if name in record.values), None)


def _text_column(record: Record) -> str | None:
    return _columns(record, (), TEXTS)[1]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
