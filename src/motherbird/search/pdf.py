"""The text of PDF files, by the library pypdf."""

import importlib.util
import io
import logging

SUFFIX = ".pdf"
LARGEST = 20_000_000  # bytes of a file
PAGE = "\f"  # a line between pages
MISSING = "PDF, which needs the package pypdf"  # why a file is left out


def is_pdf(name: str) -> bool:
    """Return whether a file is a PDF, by its name."""
    return name.lower().endswith(SUFFIX)


def is_readable() -> bool:
    """Return whether the library is installed."""
    return importlib.util.find_spec("pypdf") is not None


def read(content: bytes) -> str | None:
    """Return the text of a PDF, with a line `PAGE` between pages; None if it cannot be read."""
    import pypdf

    log = logging.getLogger("pypdf")
    before = log.level
    log.setLevel(logging.CRITICAL)  # it warns about most files
    try:
        pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(content)).pages]
    except Exception:  # damaged files end in errors of many kinds
        return None
    finally:
        log.setLevel(before)
    text = f"\n{PAGE}\n".join(page.replace(PAGE, " ") for page in pages)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
