"""HTML: the text of the page, without navigation; extracted by resiliparse."""

from collections.abc import Iterator
from pathlib import Path

from ...errors import require_extra
from .document import Document, name_of, whole

SUFFIXES = (".html", ".htm", ".xhtml")


def read(path: Path, field: str, encoding: str) -> Iterator[Document]:
    """The page's text, whatever its encoding; ``field`` and ``encoding`` have no meaning here."""
    bytes_ = require_extra("resiliparse.parse.encoding", "data")
    html2text = require_extra("resiliparse.extract.html2text", "data")
    data = whole(path)
    page = bytes_.bytes_to_str(data, bytes_.detect_encoding(data))
    text = html2text.extract_plain_text(page, main_content=True)
    if not text.strip():  # a page that names no main part, or a list of links
        text = html2text.extract_plain_text(page)
    yield Document(text, name_of(path))
