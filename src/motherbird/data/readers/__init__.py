"""Readers of documents: functions of a path, a field and an encoding, by the suffix of the file.

A reader yields documents. For a document that it cannot use, it yields the error and continues; if
it cannot continue, it raises the error. The caller decides how to handle errors.
"""

import fnmatch
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ...errors import DamagedError, InputError, NotTextError, counted
from . import formats, jsonl, tables
from .document import Document, name_of, plain_name, zstd

__all__ = ["Document", "READERS", "files_of", "plain_name", "read", "read_file", "zstd"]

log = logging.getLogger(__name__)

TABLES = (".csv", ".tsv")
Reader = Callable[[Path, str, str], Iterator[Document | DamagedError]]
READERS: dict[str, Reader] = {
    **dict.fromkeys((*formats.PROSE, *formats.SETTINGS), formats.read_plain),
    **dict.fromkeys(sum(formats.LANGUAGES.values(), ()), formats.read_plain),
    **dict.fromkeys((".html", ".htm", ".xhtml"), formats.read_html),
    **dict.fromkeys(jsonl.SUFFIXES, jsonl.read),
    ".parquet": formats.read_parquet,
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
    path: Path, field: str = "text", encoding: str = "utf-8"
) -> Iterator[Document | DamagedError]:
    """Yield the documents of a file, and errors in place of those that cannot be used."""
    try:
        yield from reader_of(path)(path, field, encoding)
    except DamagedError as error:
        yield error
    except OSError as error:
        yield NotTextError(f"the file cannot be read ({error.strerror})", name_of(path))


def files_of(
    folder: Path, patterns: Sequence[str] = (), suffixes: Sequence[str] = ()
) -> list[Path]:
    """Return the regular files below a directory that are not hidden, sorted by name.

    Patterns are of paths in the directory, such as ``*.py`` and ``docs/*``; those that begin with
    ``!`` exclude files. Without others, and without suffixes, all files with a known suffix match.
    """
    included = [p for p in patterns if not p.startswith("!")]
    excluded = [p[1:] for p in patterns if p.startswith("!")]
    wanted = tuple(suffixes) or (() if included else SUFFIXES)
    found = []
    for parent, folders, names in os.walk(folder, onerror=_warn):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            inside = path.relative_to(folder).as_posix()
            if (
                (not wanted or plain_name(path).endswith(wanted))
                and (not included or any(fnmatch.fnmatchcase(inside, p) for p in included))
                and not any(fnmatch.fnmatchcase(inside, p) for p in excluded)
                and not path.is_symlink()
                and path.is_file()
            ):
                found.append(path)
    return sorted(found)


def _warn(error: OSError) -> None:
    log.warning("skipped a directory that cannot be read: %s", error.filename)


def read(path: str | Path, *, field: str = "text", keep_empty: bool = False) -> Iterator[Document]:
    """Yield the documents of a file, or of every text file below a directory, sorted by name.

    Files of a directory that are unreadable or not UTF-8 are skipped, with a warning. Empty
    documents are skipped unless ``keep_empty``.

    Raises:
        InputError: the path is missing, or has no text.
        DamagedError: a line of a .jsonl file is not an object with the field, a compressed
            file is truncated, or ``path`` is a file and not UTF-8.
    """
    path = Path(path)
    if not path.exists():
        raise InputError("the file or directory does not exist", str(path))
    skipped: list[str] = []
    found = False
    for file in files_of(path) if path.is_dir() else [path]:
        for document in read_file(file, field):
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
        raise InputError("no text was found", str(path), "use text files, source code or .jsonl")
