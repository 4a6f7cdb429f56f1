"""HTML: the text of a page without navigation, extracted by resiliparse."""

from collections.abc import Iterator
from pathlib import Path

from ...errors import require_extra
from .document import Document, name_of, whole

SUFFIXES = (".html", ".htm", ".xhtml")


def read(path: Path, field: str, encoding: str) -> Iterator[Document]:
    """Yield the text of a page; its encoding is detected, other arguments are ignored."""
    bytes_ = require_extra("resiliparse.parse.encoding", "data")
    html2text = require_extra("resiliparse.extract.html2text", "data")
    data = whole(path)
    page = bytes_.bytes_to_str(data, bytes_.detect_encoding(data))
    text = html2text.extract_plain_text(page, main_content=True)
    if not text.strip():  # no main content was found
        text = html2text.extract_plain_text(page)
    yield Document(text, name_of(path))
