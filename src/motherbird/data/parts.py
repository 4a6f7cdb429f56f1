"""The first pass over a mixture: parts of its sources are read, normalized and filtered.

A part is a package, a dataset, a large file or several small ones. Cleaning it writes two files to
the work directory: its text, and then its tally, whose existence means that the part is finished.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import (
    DamagedError,
    FetchError,
    FieldError,
    InputError,
    NotTextError,
    RowError,
    require_extra,
)
from ..files import write_file, write_text
from . import readers, registries
from .cleaning import normalize, pieces, rejection_reason
from .generated import code_rule
from .mixture import Mixture, Source
from .overlap import shared_run
from .readers import Document
from .readers.document import text_of
from .readers.formats import LANGUAGES
from .readers.listing import OTHER_SUFFIXES, RULES, Listing
from .tally import Count, Tally, describe, merge_counts

T = TypeVar("T")

PART_BYTES = 1 << 25  # of the files of a part, about
ZSTD_LEVEL = 3
TOKEN_BYTES = 8  # of a long token: enough of a stream is read for `Source.max_tokens`
KNOWN = "evaluation-runs.npy"


@dataclass(frozen=True)
class Part:
    """A part of a source: files or a package; if it has neither, the source's dataset."""

    number: int
    source: int
    files: tuple[str, ...] = ()
    package: str | None = None
    # files of the source that are not in a part, by reason; only in its first part
    skipped: dict[str, Count] = field(default_factory=dict)

    def file(self, work: Path, suffix: str) -> Path:
        """Return the path of its text ("jsonl.zst") or tally ("json")."""
        return work / f"part-{self.number:05}.{suffix}"


def parts_of(mixture: Mixture) -> Iterator[Part]:
    """Yield the parts of a mixture, in order; InputError if a source has no file."""
    number = 0
    for index, source in enumerate(mixture.source):
        for part in _split(source):
            yield replace(part, number=number, source=index)
            number += 1


def _split(source: Source) -> Iterator[Part]:
    if source.path is None:  # packages, or one dataset
        yield from (Part(0, 0, package=package) for package in source.packages or (None,))
        return
    path = Path(source.path)
    listing = Listing(path.parent, [path.name]) if path.is_file() else _list(path, source)
    if not listing.files and not source.optional:
        what = f"source {source.name!r}: no file to read"
        how = "check its files"
        if OTHER_SUFFIXES in listing.skipped:
            how = "set files in the mixture to read them"
        if listing.skipped:
            what += f" (skipped {describe(listing.skipped)})"
        if any(reason in RULES for reason in listing.skipped):
            how += ", or set skip in the mixture"
        raise InputError(what, str(path), how)
    skipped = listing.skipped
    for group in chunked(listing.files, PART_BYTES, lambda file: file.stat().st_size):
        yield Part(0, 0, tuple(map(str, group)), skipped=skipped)
        skipped = {}
    if skipped:  # there are no files
        yield Part(0, 0, skipped=skipped)


def chunked(items: Iterable[T], limit: int, size: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield lists of items, each as soon as their total size reaches a limit."""
    chunk: list[T] = []
    total = 0
    for item in items:
        chunk.append(item)
        total += size(item)
        if total >= limit:
            yield chunk
            chunk, total = [], 0
    if chunk:
        yield chunk


def _list(folder: Path, source: Source) -> Listing:
    """List the files of a directory; in that of a package, links are not followed."""
    suffixes = [suffix for name in source.code for suffix in LANGUAGES[name]]
    if not folder.is_dir():
        return Listing()
    follow_links = source.path is not None
    return readers.list_directory(folder, source.files, suffixes, source.rules, follow_links)


class Cleaner:
    """Reads, normalizes, cuts and filters documents; text and tallies are written to ``work``."""

    def __init__(self, mixture: Mixture, work: Path) -> None:
        self.mixture, self.work = mixture, work
        self.known = np.empty(0, np.uint64)
        if mixture.decontaminate:
            self.known = np.load(work / KNOWN, mmap_mode="r")

    def __call__(self, part: Part) -> Part:
        """Clean a part, and return it."""
        source = self.mixture.source[part.source]
        tally = Tally(skipped=part.skipped)
        with tempfile.TemporaryDirectory(".tmp", ".unpacked-", self.work) as folder:
            found = self._read(source, part, Path(folder), tally)
            rows = self._filter(source, found, tally)
            write_file(part.file(self.work, "jsonl.zst"), lambda path: write_rows(path, rows))
        tallied = json.dumps(asdict(tally), ensure_ascii=False)
        write_text(part.file(self.work, "json"), tallied)
        return part

    def _read(self, source: Source, part: Part, folder: Path, tally: Tally) -> Iterator[Document]:
        """Yield the documents of a part, and count what cannot be read."""
        files, root = [Path(file) for file in part.files], ""
        try:
            if source.dataset is not None:
                for found in _read_dataset(source):
                    if isinstance(found, Document):
                        yield found
                    else:
                        self._bad(tally, "row", found)
            elif part.package is not None:
                tally.packages = (registries.fetch(part.package, folder),)
                root = str(folder / "inside") + os.sep
                listing = _list(folder / "inside", source)
                files = listing.files
                merge_counts(tally.skipped, listing.skipped)
                if not files:
                    error = NotTextError("no file to read in the package", part.package)
                    self._bad(tally, "package", error)
        except FetchError as error:
            if not source.optional:
                raise
            kind = "dataset" if part.package is None else "package"
            self._bad(tally, kind, NotTextError(error.what, error.where))
        for file in files:
            yield from self._read_file(file, source, tally, root, part.package)

    def _read_file(
        self, file: Path, source: Source, tally: Tally, root: str, package: str | None
    ) -> Iterator[Document]:
        size = 0
        with suppress(OSError):  # it was removed, which reading it will say
            size = file.stat().st_size
        tally.file_bytes += size
        unit = readers.unit_of(file)
        count, bad_rows = 0, 0
        for found in readers.read_file(file, source.field, source.encoding):
            count += 1
            found = _relative(found, root, package)
            if isinstance(found, RowError):
                self._bad(tally, unit, found)
                bad_rows += 1
            elif isinstance(found, DamagedError):
                self._bad(tally, "file", found, size)
            elif unit == "file" and not found.text.strip():
                self._bad(tally, "file", NotTextError("empty file", found.source), size)
            else:
                yield found
        tally.bad_row_files += bad_rows > 0
        if not count:
            error = _relative(NotTextError("empty file", str(file)), root, package)
            self._bad(tally, "file", error, size)

    def _bad(self, tally: Tally, kind: str, error: DamagedError, size: int = 0) -> None:
        """Count what cannot be read, or raise the error if the mixture does not allow it."""
        limit = self.mixture.max_bad
        how = error.how + ("; set field in the mixture" if isinstance(error, FieldError) else "")
        if limit == 0 or (limit is None and not isinstance(error, NotTextError)):
            how = f"{how or 'repair it'}, or skip up to a fraction of the {kind}s with --max-bad"
            raise type(error)(error.what, error.where, how)
        tally.add_bad(kind, f"{error.where} ({error.what})", how, size)

    def _filter(
        self, source: Source, found: Iterable[Document], tally: Tally
    ) -> Iterator[dict[str, str]]:
        rules = source.rules
        for document in found:
            size = len(document.text.encode())
            text = normalize(document.text)
            if rule := code_rule(document.source, text, rules):
                where = document.source.removeprefix(f"{source.path}{os.sep}")
                tally.skipped.setdefault(rule, Count()).add(size, {"where": where})
                continue
            tally.read.add(size)
            if not text.strip():
                tally.drop("empty", document.source, document.text)
                continue
            for number, piece in enumerate(pieces(text, source.max_chars), 1):
                where = document.source + (f"#{number}" if len(piece) < len(text) else "")
                if reason := rejection_reason(piece, source):
                    tally.drop(reason, where, piece)
                elif run := shared_run(piece, self.known):
                    tally.drop("in an evaluation set", where, piece, run)
                else:
                    yield {"source": source.name, "where": where, "text": piece}


def _relative(found: Document | DamagedError, root: str, package: str | None) -> Any:
    """Replace the temporary directory of a package in the origin of a document by its name."""
    if package is None:
        return found
    if isinstance(found, Document):
        return replace(found, source=f"{package}/{found.source.removeprefix(root)}")
    return type(found)(found.what, f"{package}/{found.where.removeprefix(root)}", found.how)


def _read_dataset(source: Source) -> Iterator[Document | DamagedError]:
    """Yield texts of a dataset, up to what `Source.max_tokens` can need."""
    datasets = require_extra("datasets", "data")
    name = source.dataset or ""
    left = (source.max_tokens or sys.maxsize) * TOKEN_BYTES
    number = 0
    try:
        if Path(name).is_dir() and any(Path(name).glob("dataset*.json")):
            data = datasets.load_from_disk(name)
            data = data[source.split] if isinstance(data, dict) else data
        else:
            data = datasets.load_dataset(name, source.subset, split=source.split, streaming=True)
        for number, row in enumerate(data, 1):
            found = text_of(row, source.field, f"{name}:{number}")
            yield found
            left -= len(found.text.encode()) if isinstance(found, Document) else 0
            if left <= 0:
                return
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        what = f"the dataset cannot be read ({str(error).splitlines()[0][:200]})"
        raise FetchError(what, f"{name}, after row {number}") from error


def write_rows(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write lines of JSON, compressed with zstd."""
    zstd = readers.zstd()
    with zstd.open(path, "wb", level=ZSTD_LEVEL) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    if not path.stat().st_size:  # without rows, zstd writes no frame
        path.write_bytes(zstd.compress(b"", level=ZSTD_LEVEL))
