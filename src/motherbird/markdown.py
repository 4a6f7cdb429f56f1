"""Tables in Markdown, for model cards and pages."""

from collections.abc import Sequence


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table, which always has a head: one of empty cells if ``head`` is empty."""
    head = head or [""] * len(rows[0])
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(cell, row))} |\n" for row in lines)


def cell(text: str) -> str:
    """Return a text as the content of a cell: one line, without the character that ends a cell."""
    return " ".join(text.replace("|", "/").split())
