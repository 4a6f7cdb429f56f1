"""Readers of documents: functions of a path, a field and an encoding, by the suffix of the file.

A reader yields documents. For a document that it cannot use, it yields the error and continues; if
it cannot continue, it raises the error. The caller decides how to handle errors.
"""

import fnmatch
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...errors import DamagedError, InputError, NotTextError, counted
from ..tally import describe
from . import arrow, formats, jsonl, tables
from .document import (
    Document,
    check_pointer,
    chunks,
    decode,
    errors_as_items,
    missing,
    plain_name,
    zstd,
)
from .listing import Listing, list_files

__all__ = [
    "Document", "READERS", "check_pointer", "chunks", "decode", "list_directory", "missing",
    "plain_name", "read", "read_file", "unit_of", "zstd",
]  # fmt: skip

log = logging.getLogger(__name__)

TABLES = (".csv", ".tsv")
Reader = Callable[[Path, str, str], Iterator[Document | DamagedError]]
READERS: dict[str, Reader] = {
    **dict.fromkeys((*formats.PROSE, *formats.SETTINGS), formats.read_plain),
    **dict.fromkeys(sum(formats.LANGUAGES.values(), ()), formats.read_plain),
    **dict.fromkeys((".html", ".htm", ".xhtml"), formats.read_html),
    **dict.fromkeys(jsonl.SUFFIXES, jsonl.read),
    ".parquet": arrow.read,
    **dict.fromkeys(TABLES, tables.read),
    ".json": formats.read_descriptions,
}
# File names to look for in a directory; tables and .json files, which may have no text, are read
# only if a pattern matches them.
SUFFIXES = tuple(suffix for suffix in READERS if suffix not in (".json", *TABLES))


def reader_of(path: Path) -> Reader:
    """Return the reader of a file; that for plain text if its suffix is unknown."""
    name = plain_name(path)
    return next((READERS[s] for s in READERS if name.endswith(s)), formats.read_plain)


def read_file(
    path: Path, field: str = "text", encoding: str = "utf-8", reader: Reader | None = None
) -> Iterator[Document | DamagedError]:
    """Yield the documents of a file, and errors in place of those that cannot be used."""
    yield from errors_as_items(path, (reader or reader_of(path))(path, field, encoding))


def unit_of(path: Path) -> str:
    """Return what a document of a file is: a "line", a "row", or the whole "file"."""
    reader = reader_of(path)
    if reader is jsonl.read:
        return "line"
    return "row" if reader in (arrow.read, tables.read) else "file"


def list_directory(
    folder: Path,
    patterns: Sequence[str] = (),
    suffixes: Sequence[str] = (),
    rules: Sequence[str] = (),
    follow_links: bool = True,
) -> Listing:
    """List the files below a directory that are not hidden, sorted by name; see `listing`.

    Patterns are of paths in the directory, such as ``*.py`` and ``docs/*``; those that begin with
    ``!`` exclude files. Without others, and without suffixes, all files with a known suffix match.
    """
    included = [p for p in patterns if not p.startswith("!")]
    excluded = [p[1:] for p in patterns if p.startswith("!")]
    endings = tuple(suffixes) or (() if included else SUFFIXES)

    def wanted(inside: str) -> bool | None:
        selected = not included or any(fnmatch.fnmatchcase(inside, p) for p in included)
        if not selected or any(fnmatch.fnmatchcase(inside, p) for p in excluded):
            return False
        if not endings or plain_name(Path(inside)).endswith(endings):
            return True
        return None if endings is SUFFIXES else False

    return list_files(folder, wanted, rules, follow_links)


def read(path: str | Path, *, field: str = "text", keep_empty: bool = False) -> Iterator[Document]:
    """Yield the documents of a file, or of every text file below a directory, sorted by name.

    Files of a directory that are unreadable or not UTF-8 are skipped, with a warning, and so are
    those with other suffixes, and links that are not followed (see `listing`). Empty documents are
    skipped unless ``keep_empty``.

    Raises:
        InputError: the path is missing, or has no text.
        DamagedError: a line of a .jsonl file is not an object with the field, a compressed
            file is truncated, or ``path`` is a file and not UTF-8.
    """
    path = Path(path)
    if not path.exists():
        raise missing(path)
    has_rows = path.is_file() and unit_of(path) == "row"
    if has_rows and path.stat().st_size == 0:
        raise InputError("the file is empty", str(path), "write a header and rows")
    skipped: list[str] = []
    found, documents = False, 0
    listing = list_directory(path) if path.is_dir() else Listing(path.parent, [path.name])
    if problems := describe(listing.skipped):
        log.warning("skipped in %s: %s", path, problems)
    for file in listing.files:
        for document in read_file(file, field):
            documents += 1
            if isinstance(document, NotTextError) and path.is_dir():
                skipped.append(document.where)
            elif isinstance(document, DamagedError):
                raise document
            elif keep_empty or document.text.strip():
                found = True
                yield document
    if skipped:
        names = "; ".join(skipped[:10]) + ("; ..." if skipped[10:] else "")
        log.warning("skipped %s without UTF-8 text: %s", counted(len(skipped), "file"), names)
    if not found:
        if has_rows and not documents:
            raise InputError("the table has no rows", str(path), "write one text per row")
        how = "use text files, source code or .jsonl"
        what = f"no text was found ({problems})" if problems else "no text was found"
        raise InputError(what, str(path), how)
