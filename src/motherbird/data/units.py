"""The first pass over a mixture: its text in units, each read, cleaned and filtered in one go.

A unit is a package, a data set, a large file or a handful of small ones. It leaves two files in the
work folder: its text, and then its tally, which says that it is finished.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DamagedError, FetchError, InputError, NotTextError, require_extra
from ..files import write_file, write_text
from . import readers, registries
from .cleaning import normalise, objection, pieces
from .mixture import Mixture, Source
from .overlap import shared_run
from .readers import Document, plain

UNIT = 1 << 25  # bytes of files that are cleaned in one go
EXAMPLES = 3  # of each reason, for each source
LEVEL = 3  # of zstd
TOKEN = 8  # bytes of a long token: a stream is read until its tokens are certainly enough
KNOWN = "evaluation-runs.npy"


@dataclass
class Count:
    """Documents and their bytes of UTF-8, and some of them."""

    documents: int = 0
    bytes: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)

    def add(self, size: int, example: dict[str, str] | None = None) -> None:
        """One more."""
        self.documents += 1
        self.bytes += size
        if example is not None and len(self.examples) < EXAMPLES:
            self.examples.append(example)

    def merge(self, other: "Count") -> None:
        """All of another."""
        self.documents += other.documents
        self.bytes += other.bytes
        self.examples = [*self.examples, *other.examples][:EXAMPLES]


@dataclass
class Tally:
    """What became of the documents of a source, or of a part of it.

    Attributes:
        read: what its files gave.
        kept: what is in the corpus.
        dropped: by reason.
        bad: what could not be read: how many, and the first of them by name.
        packages: what was fetched from registries.
    """

    read: Count = field(default_factory=Count)
    kept: Count = field(default_factory=Count)
    dropped: dict[str, Count] = field(default_factory=dict)
    bad: int = 0
    bad_examples: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def drop(self, reason: str, document: Document, because: str = "") -> None:
        """Count a dropped document."""
        example = {"where": document.source, "text": " ".join(document.text[:200].split())[:80]}
        if because:
            example["because"] = because
        self.dropped.setdefault(reason, Count()).add(len(document.text.encode()), example)

    def note(self, error: DamagedError) -> None:
        """Count what could not be read."""
        self.bad += 1
        self.bad_examples = (*self.bad_examples, str(error))[:20]

    def merge(self, other: "Tally") -> None:
        """All of another."""
        self.read.merge(other.read)
        self.kept.merge(other.kept)
        for reason, count in other.dropped.items():
            self.dropped.setdefault(reason, Count()).merge(count)
        self.bad += other.bad
        self.bad_examples = (*self.bad_examples, *other.bad_examples)[:20]
        self.packages = (*self.packages, *other.packages)


@dataclass(frozen=True)
class Unit:
    """A part of a source that is cleaned in one go: files, a package, or a data set."""

    number: int
    source: int
    files: tuple[str, ...] = ()
    package: str | None = None


def units_of(mixture: Mixture) -> Iterator[Unit]:
    """The units of a mixture, in order.

    Raises:
        InputError: a source has no file.
    """
    number = 0
    for index, source in enumerate(mixture.source):
        for files, package in _parts(source):
            yield Unit(number, index, files, package)
            number += 1


def _parts(source: Source) -> Iterator[tuple[tuple[str, ...], str | None]]:
    if source.packages:
        for package in source.packages:
            yield (), package
    elif source.dataset is not None:
        yield (), None
    else:
        path = Path(source.path or "")
        if path.is_file():
            files = [path]
        else:
            files = _chosen(path, source) if path.is_dir() else []
            if not files and not source.optional:
                raise InputError(
                    f"source {source.name!r}: no file to read", str(path), "look at its files"
                )
        lot: list[str] = []
        size = 0
        for file in files:
            lot.append(str(file))
            size += file.stat().st_size
            if size >= UNIT:
                yield tuple(lot), None
                lot, size = [], 0
        if lot:
            yield tuple(lot), None


def _chosen(folder: Path, source: Source) -> list[Path]:
    suffixes = [suffix for name in source.code for suffix in plain.LANGUAGES[name]]
    return readers.files_of(folder, source.files, suffixes)


def tally_file(work: Path, unit: Unit) -> Path:
    """Where a unit's tally lies."""
    return work / f"unit-{unit.number:05}.json"


def text_file(work: Path, unit: Unit) -> Path:
    """Where a unit's text lies."""
    return work / f"unit-{unit.number:05}.jsonl.zst"


class Cleaner:
    """Cleans units: reads, normalises, cuts, filters; the text and a tally go to the work folder.

    Args:
        argument: the mixture, and the folder.
    """

    def __init__(self, argument: tuple[Mixture, Path]) -> None:
        self.mixture, self.work = argument
        self.known = (
            np.load(self.work / KNOWN, mmap_mode="r")
            if self.mixture.decontaminate
            else np.empty(0, np.uint64)
        )

    def __call__(self, unit: Unit) -> Unit:
        """Clean one; its tally is written last, and says that it is finished."""
        source = self.mixture.source[unit.source]
        tally = Tally()
        with tempfile.TemporaryDirectory(
            dir=self.work, prefix=".unpacked-", suffix=".tmp"
        ) as folder:
            found = self._documents(source, unit, Path(folder), tally)
            rows = self._kept(source, found, tally)
            write_file(text_file(self.work, unit), lambda path: write_rows(path, rows))
        text = json.dumps(asdict(tally), ensure_ascii=False)
        write_text(tally_file(self.work, unit), text)
        return unit

    def _documents(
        self, source: Source, unit: Unit, folder: Path, tally: Tally
    ) -> Iterator[Document | DamagedError]:
        """Everything that the unit's files give; ``source`` says where from."""
        if source.dataset is not None:
            try:
                yield from _dataset(source)
            except FetchError as error:
                if not source.optional:
                    raise
                yield NotTextError(error.what, error.where)
            return
        files = [Path(file) for file in unit.files]
        home = ""
        if unit.package is not None:
            try:
                tally.packages = (registries.fetch(unit.package, folder),)
            except FetchError as error:
                if not source.optional:
                    raise
                yield NotTextError(error.what, error.where)
                return
            home = str(folder / "inside") + os.sep
            files = _chosen(folder / "inside", source)
            if not files:
                yield NotTextError("no file to read in the package", unit.package)
        for file in files:
            empty = True
            for found in readers.read_file(file, source.field, source.encoding):
                empty = empty and isinstance(found, Document) and not found.text.strip()
                yield _renamed(found, home, unit.package)
            if empty:
                yield _renamed(NotTextError("an empty file", str(file)), home, unit.package)

    def _kept(
        self, source: Source, found: Iterable[Document | DamagedError], tally: Tally
    ) -> Iterator[dict[str, str]]:
        for document in found:
            if isinstance(document, DamagedError):
                strict = self.mixture.max_bad == 0
                if strict or (
                    self.mixture.max_bad is None and not isinstance(document, NotTextError)
                ):
                    raise document
                tally.note(document)
                continue
            if not document.text.strip():
                continue
            tally.read.add(len(document.text.encode()))
            text = normalise(document.text)
            for number, piece in enumerate(pieces(text, source.max_chars), 1):
                where = (
                    document.source if len(piece) == len(text) else f"{document.source}#{number}"
                )
                part = Document(piece, where)
                reason = objection(piece, source)
                run = None if reason else shared_run(piece, self.known)
                if run is not None:
                    tally.drop("in an evaluation set", part, run)
                elif reason is not None:
                    tally.drop(reason, part)
                else:
                    yield {"source": source.name, "where": where, "text": piece}


def _renamed(found: Document | DamagedError, home: str, package: str | None) -> Any:
    """With a place that outlives the folder where a package was unpacked."""
    if package is None:
        return found
    if isinstance(found, Document):
        return replace(found, source=f"{package}/{found.source.removeprefix(home)}")
    return type(found)(found.what, f"{package}/{found.where.removeprefix(home)}", found.how)


def _dataset(source: Source) -> Iterator[Document | DamagedError]:
    """The texts of a data set, as far as `Source.max_tokens` can want them."""
    datasets = require_extra("datasets", "data")
    name = source.dataset or ""
    left = (source.max_tokens or sys.maxsize) * TOKEN
    number = 0
    try:
        if Path(name).is_dir() and any(Path(name).glob("dataset*.json")):
            data = datasets.load_from_disk(name)
            data = data[source.split] if isinstance(data, dict) else data
        else:
            data = datasets.load_dataset(name, source.subset, split=source.split, streaming=True)
        for number, row in enumerate(data, 1):
            text = row.get(source.field)
            if not isinstance(text, str):
                yield DamagedError(f'no text in field "{source.field}"', f"{name}:{number}")
                continue
            yield Document(text, f"{name}:{number}")
            left -= len(text.encode())
            if left <= 0:
                return
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        what = f"the data set cannot be read ({str(error).splitlines()[0][:200]})"
        raise FetchError(what, f"{name}, after row {number}") from error


def write_rows(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write lines of JSON, compressed with zstd."""
    zstd = require_extra(
        "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd", "data"
    )
    with zstd.open(path, "wb", level=LEVEL) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    if not path.stat().st_size:  # without a line nothing was written, not even a frame
        path.write_bytes(zstd.compress(b"", level=LEVEL))
