"""Chunks: the parts of a file that search finds, such as a function or a section.

A chunk is whole lines. Chunks of a file do not overlap. They have all of its lines but those
between them that are blank or only close brackets, and the outputs of notebooks.
"""

from .. import pdf
from ..languages import language_of
from . import data
from .chunk import Chunk

__all__ = ["Chunk", "chunks", "language"]


def chunks(name: str, text: str) -> list[Chunk]:
    """Divide a file.

    Args:
        name: of the file, which says what format it has.
        text: with LF as line ends.
    """
    # Only where files are read: a search with an index starts faster without these.
    from ...data.pairing.sections import is_divided
    from . import code, prose

    lines = text.split("\n")
    lower = name.lower()
    if (found := language_of(lower)) is not None:
        return code.chunks(found, text, lines)
    if is_divided(lower):
        return prose.sections(name, lines)
    if lower.endswith(prose.HTML):
        return prose.pages(lines)
    if lower.endswith(".ipynb"):
        return prose.cells(lines)
    if pdf.is_pdf(name):
        return prose.printed(lines, pdf.PAGE)
    if lower.endswith(data.SUFFIXES):
        return data.chunks(lower, lines)
    return prose.paragraphs(lines)


def language(name: str) -> str:
    """Return the language of a file, or "prose" or "data"; by its name."""
    lower = name.lower()
    if (found := language_of(lower)) is not None:
        return found.name
    return "data" if lower.endswith(data.SUFFIXES) else "prose"
