"""Documents from files: a module a format, with ``SUFFIXES`` and ``read(path, field, encoding)``.

A reader yields documents; in place of a piece that it cannot use it yields the error, and goes on;
where it cannot go on it raises it. What becomes of errors is the caller's to say.
"""

import fnmatch
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from ...errors import DamagedError, InputError, NotTextError
from . import html, jsonl, parquet, plain, strings
from .document import Document, name_of, plain_name

__all__ = ["Document", "READERS", "files_of", "plain_name", "read", "read_file"]

log = logging.getLogger(__name__)

READERS = (plain, html, jsonl, parquet, strings)
# What a folder is searched for; descriptions in JSON have to be asked for.
SUFFIXES = tuple(suffix for reader in READERS[:-1] for suffix in reader.SUFFIXES)


def reader_of(path: Path) -> ModuleType:
    """The module for a file; one of an unknown kind is plain text, since somebody named it."""
    name = plain_name(path)
    return next((reader for reader in READERS if name.endswith(reader.SUFFIXES)), plain)


def read_file(
    path: Path, field: str = "text", encoding: str = "utf-8"
) -> Iterator[Document | DamagedError]:
    """Documents of a file, and errors in place of those that cannot be used; never raises them."""
    try:
        yield from reader_of(path).read(path, field, encoding)
    except DamagedError as error:
        yield error
    except OSError as error:
        yield NotTextError(f"cannot be read ({error.strerror})", name_of(path))


def files_of(
    folder: Path, patterns: Sequence[str] = (), suffixes: Sequence[str] = ()
) -> list[Path]:
    """Files below a folder, in order of their names; no hidden ones, links, pipes or devices.

    Args:
        folder: where to look.
        patterns: such as ``*.py`` and ``docs/*``, of paths in the folder; with ``!`` in front they
            leave out. Without one that takes, all names with a known suffix.
        suffixes: only names with one of these.
    """
    takes = [p for p in patterns if not p.startswith("!")]
    leaves = [p[1:] for p in patterns if p.startswith("!")]
    wanted = tuple(suffixes) or (() if takes else SUFFIXES)
    found = []
    for place, folders, names in os.walk(folder, onerror=_say):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            inside = path.relative_to(folder).as_posix()
            if (
                not name.startswith(".")
                and (not wanted or plain_name(path).endswith(wanted))
                and (not takes or any(fnmatch.fnmatchcase(inside, p) for p in takes))
                and not any(fnmatch.fnmatchcase(inside, p) for p in leaves)
                and not path.is_symlink()
                and path.is_file()
            ):
                found.append(path)
    return sorted(found)


def _say(error: OSError) -> None:
    log.warning("skipped a folder that cannot be read: %s", error.filename)


def read(path: str | Path, *, keep_empty: bool = False) -> Iterator[Document]:
    """Yield the documents of a file, or of every text file below a folder, in order of names.

    A file of a folder that is unreadable or no UTF-8 text is skipped, named and counted in the log.
    Empty documents are left out unless ``keep_empty``.

    Raises:
        InputError: the path is missing, or holds no text.
        DamagedError: a line of a .jsonl file is not an object with a field "text", a compressed
            file is cut short, or a file that was named itself is not UTF-8.
    """
    path = Path(path)
    skipped: list[str] = []

    def skip(error: DamagedError) -> None:
        if not (path.is_dir() and isinstance(error, NotTextError)):
            raise error  # of a file that was named itself, or a damaged one
        skipped.append(error.where)

    if not path.exists():
        raise InputError("there is no such file or folder", str(path))
    found = False
    for file in files_of(path) if path.is_dir() else [path]:
        for document in read_file(file):
            if isinstance(document, DamagedError):
                skip(document)
            elif keep_empty or document.text.strip():
                found = True
                yield document
    if skipped:
        names = "; ".join(skipped[:10]) + ("; ..." if skipped[10:] else "")
        log.warning("skipped %d files that are no UTF-8 text: %s", len(skipped), names)
    if not found:
        raise InputError("no text was found", str(path), "give text files, sources or .jsonl")
