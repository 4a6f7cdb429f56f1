"""What pairs are made of: the documents and rows of directories, packages, tables and files."""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ...errors import DamagedError, FetchError, InputError, NotTextError, RowError
from .. import readers, registries
from ..cleaning import normalize
from ..generated import code_rule
from ..readers import Document
from ..readers.document import Record, check_local, missing, name_of
from ..readers.listing import RULES, Listing
from ..readers.records import records
from ..tally import Count, Tally, merge_counts

ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
EMPTY = "empty files"
OnProgress = Callable[[float, str], None]  # gets the fraction that is done, and a file


def check_sources(sources: list[Path]) -> None:
    """Raise InputError if a source is missing, or two have the same name."""
    names: dict[str, Path] = {}
    for path in sources:
        check_local(path)
        if not path.exists():
            raise missing(path)
        name = label(path)
        if name in names:
            what, how = f"two sources are called {name!r}", "rename one, or give their directory"
            raise InputError(what, f"{names[name]}, {path}", how)
        names[name] = path


def label(path: Path) -> str:
    """Return the name of a source in pairs and reports."""
    return name_of(Path(os.path.abspath(path))).rsplit("/", 1)[-1] or "text"


def read_source(path: Path, tally: Tally, on_progress: OnProgress) -> Iterator[Document | Record]:
    """Yield the documents and rows of a source, with names relative to it.

    In a directory, files are skipped as by `data build`. A wheel, a .zip file or a tar archive is
    unpacked to a temporary directory. What is skipped or cannot be read is counted.
    """
    name = label(path)
    if (path / "state.json").is_file():  # of the library datasets
        yield from _rows(path, name, tally)
    elif path.is_dir():
        yield from _files(readers.list_directory(path, rules=RULES), path, name, tally, on_progress)
    elif path.name.lower().endswith(ARCHIVES):
        with tempfile.TemporaryDirectory() as folder:
            inside = Path(folder) / "inside"
            try:
                registries.unpack(path, inside, name)
            except FetchError as error:
                tally.add_bad("package", f"{error.where} ({error.what})", error.how)
                return
            listing = readers.list_directory(inside, follow_links=False)
            yield from _files(listing, inside, name, tally, on_progress)
    else:
        yield from _files(Listing(path.parent, [path.name]), path, name, tally, on_progress)


def _files(
    listing: Listing, root: Path, name: str, tally: Tally, on_progress: OnProgress
) -> Iterator[Document | Record]:
    merge_counts(tally.skipped, listing.skipped)
    rules = RULES if root.is_dir() else ()
    for number, file in enumerate(listing.files):
        on_progress(number / len(listing.files), file.name)
        own = name if file == root else f"{name}/{name_of(file.relative_to(root))}"
        if readers.unit_of(file) != "file":
            yield from _rows(file, own, tally)
            continue
        for found in readers.read_file(file):
            if isinstance(found, DamagedError):
                add_bad(tally, "file", _renamed(found, file, own), file.stat().st_size)
                continue
            text = normalize(found.text)
            size = len(text.encode())
            if rule := code_rule(own, text, rules):
                tally.skipped.setdefault(rule, Count()).add(size, {"where": own})
            elif not text.strip():
                tally.skipped.setdefault(EMPTY, Count()).add(size, {"where": own})
            else:
                tally.read.add(size)
                yield Document(text, own)


def _rows(path: Path, name: str, tally: Tally) -> Iterator[Record]:
    unit, count = "row" if path.is_dir() else readers.unit_of(path), 0
    for found in records(path):
        if isinstance(found, DamagedError):
            kind = unit if isinstance(found, RowError) else "file"
            add_bad(tally, kind, _renamed(found, path, name))
        else:
            count += 1
            where = f"{name}{found.where.removeprefix(name_of(path))}"
            tally.read.add(sum(len(v.encode()) for v in found.values.values() if type(v) is str))
            yield replace(found, where=where)
    if not count and not tally.bad:
        add_bad(tally, "file", NotTextError("no rows", name))


def add_bad(tally: Tally, kind: str, error: DamagedError, size: int = 0) -> None:
    """Count what cannot be read."""
    tally.add_bad(kind, f"{error.where} ({error.what})", error.how, size)


def _renamed(error: DamagedError, path: Path, name: str) -> DamagedError:
    where = f"{name}{error.where.removeprefix(name_of(path))}"
    return type(error)(error.what, where, error.how)
