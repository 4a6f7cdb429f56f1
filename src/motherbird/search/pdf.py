"""The text of PDF files, by the library pypdf."""

import importlib.util
import io
import logging

SUFFIX = ".pdf"
LARGEST = 20_000_000  # bytes of a file
PAGE = "\f"  # a line between pages


def is_readable() -> bool:
    """Return whether the library is installed."""
    return importlib.util.find_spec("pypdf") is not None


def read(content: bytes) -> str | None:
    """Return the text of a PDF, with a line `PAGE` between pages; None if it cannot be read."""
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns about most files
    try:
        pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages]
    except Exception:  # damaged files end in errors of many kinds
        return None
    return f"\n{PAGE}\n".join(page.replace(PAGE, " ") for page in pages)
