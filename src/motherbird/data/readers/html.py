"""HTML: the text of the page, without navigation; extracted by resiliparse."""

from collections.abc import Iterator
from pathlib import Path

from ...errors import need
from .document import Document, whole

SUFFIXES = (".html", ".htm", ".xhtml")


def read(path: Path, field: str) -> Iterator[Document]:
    """The page's text, whatever its encoding; ``field`` has no meaning here."""
    encoding = need("resiliparse.parse.encoding", "data")
    html2text = need("resiliparse.extract.html2text", "data")
    data = whole(path)
    page = encoding.bytes_to_str(data, encoding.detect_encoding(data))
    yield Document(html2text.extract_plain_text(page, main_content=True), str(path))
