"""The first pass over a mixture: parts of its sources are read, normalized and filtered.

A part is a package, a dataset, a large file or several small ones. Cleaning it writes two files to
the work directory: its text, and then its tally, whose existence means that the part is finished.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from ..errors import DamagedError, FetchError, InputError, NotTextError, require_extra
from ..files import write_file, write_text
from . import readers, registries
from .cleaning import normalize, pieces, rejection_reason
from .mixture import Mixture, Source
from .overlap import shared_run
from .readers import Document
from .readers.formats import LANGUAGES

T = TypeVar("T")

PART_BYTES = 1 << 25  # of the files of a part, about
EXAMPLES = 3  # for each reason and source
ZSTD_LEVEL = 3
TOKEN_BYTES = 8  # of a long token: enough of a stream is read for `Source.max_tokens`
KNOWN = "evaluation-runs.npy"


@dataclass
class Count:
    """A number of documents, their bytes in UTF-8, and examples."""

    documents: int = 0
    bytes: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)

    def add(self, size: int, example: dict[str, str] | None = None) -> None:
        """Count one document."""
        self.documents += 1
        self.bytes += size
        if example is not None and len(self.examples) < EXAMPLES:
            self.examples.append(example)

    def merge(self, other: "Count") -> None:
        """Add another count."""
        self.documents += other.documents
        self.bytes += other.bytes
        self.examples = [*self.examples, *other.examples][:EXAMPLES]


@dataclass
class Tally:
    """How many documents of a source, or of a part of it, were read, kept and dropped."""

    read: Count = field(default_factory=Count)  # documents in its files
    kept: Count = field(default_factory=Count)  # documents in the corpus
    dropped: dict[str, Count] = field(default_factory=dict)  # documents by reason
    bad: int = 0  # number of documents that could not be read
    bad_examples: tuple[str, ...] = ()  # the first of their errors
    packages: tuple[str, ...] = ()  # archives that were downloaded

    def drop(self, reason: str, document: Document, because: str = "") -> None:
        """Count a dropped document."""
        example = {"where": document.source, "text": " ".join(document.text[:200].split())[:80]}
        if because:
            example["because"] = because
        self.dropped.setdefault(reason, Count()).add(len(document.text.encode()), example)

    def merge(self, other: "Tally") -> None:
        """Add another tally."""
        self.read.merge(other.read)
        self.kept.merge(other.kept)
        for reason, count in other.dropped.items():
            self.dropped.setdefault(reason, Count()).merge(count)
        self.bad += other.bad
        self.bad_examples = (*self.bad_examples, *other.bad_examples)[:20]
        self.packages = (*self.packages, *other.packages)


@dataclass(frozen=True)
class Part:
    """A part of a source: files or a package; if it has neither, the source's dataset."""

    number: int
    source: int
    files: tuple[str, ...] = ()
    package: str | None = None

    def file(self, work: Path, suffix: str) -> Path:
        """Return the path of its text ("jsonl.zst") or tally ("json")."""
        return work / f"part-{self.number:05}.{suffix}"


def parts_of(mixture: Mixture) -> Iterator[Part]:
    """Yield the parts of a mixture, in order; InputError if a source has no file."""
    splits = (
        (index, *split) for index, source in enumerate(mixture.source) for split in _split(source)
    )
    for number, (index, files, package) in enumerate(splits):
        yield Part(number, index, files, package)


def _split(source: Source) -> Iterator[tuple[tuple[str, ...], str | None]]:
    if source.path is None:  # packages, or one dataset
        yield from (((), package) for package in source.packages or (None,))
        return
    path = Path(source.path)
    files = [path] if path.is_file() else _files_in(path, source)
    if not files and not source.optional:
        raise InputError(f"source {source.name!r}: no file to read", str(path), "check its files")
    for group in chunked(files, PART_BYTES, lambda file: file.stat().st_size):
        yield tuple(map(str, group)), None


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


def _files_in(folder: Path, source: Source) -> list[Path]:
    suffixes = [suffix for name in source.code for suffix in LANGUAGES[name]]
    return readers.files_of(folder, source.files, suffixes) if folder.is_dir() else []


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
        tally = Tally()
        with tempfile.TemporaryDirectory(".tmp", ".unpacked-", self.work) as folder:
            found = self._read(source, part, Path(folder), tally)
            rows = self._filter(source, found, tally)
            write_file(part.file(self.work, "jsonl.zst"), lambda path: write_rows(path, rows))
        tallied = json.dumps(asdict(tally), ensure_ascii=False)
        write_text(part.file(self.work, "json"), tallied)
        return part

    def _read(
        self, source: Source, part: Part, folder: Path, tally: Tally
    ) -> Iterator[Document | DamagedError]:
        try:
            if source.dataset is not None:
                yield from _read_dataset(source)
                return
            files, root = [Path(file) for file in part.files], ""
            if part.package is not None:
                tally.packages = (registries.fetch(part.package, folder),)
                root = str(folder / "inside") + os.sep
                files = _files_in(folder / "inside", source)
                if not files:
                    yield NotTextError("no file to read in the package", part.package)
        except FetchError as error:
            if not source.optional:
                raise
            yield NotTextError(error.what, error.where)
            return
        for file in files:
            empty = True
            for found in readers.read_file(file, source.field, source.encoding):
                empty = empty and isinstance(found, Document) and not found.text.strip()
                yield _relative(found, root, part.package)
            if empty:
                yield _relative(NotTextError("empty file", str(file)), root, part.package)

    def _filter(
        self, source: Source, found: Iterable[Document | DamagedError], tally: Tally
    ) -> Iterator[dict[str, str]]:
        limit = self.mixture.max_bad
        for document in found:
            if isinstance(document, DamagedError):
                if limit == 0 or (limit is None and not isinstance(document, NotTextError)):
                    raise document
                tally.merge(Tally(bad=1, bad_examples=(f"{document.where} ({document.what})",)))
                continue
            if not document.text.strip():
                continue
            tally.read.add(len(document.text.encode()))
            text = normalize(document.text)
            for number, piece in enumerate(pieces(text, source.max_chars), 1):
                where = document.source + (f"#{number}" if len(piece) < len(text) else "")
                if reason := rejection_reason(piece, source):
                    tally.drop(reason, Document(piece, where))
                elif run := shared_run(piece, self.known):
                    tally.drop("in an evaluation set", Document(piece, where), run)
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
            text = row.get(source.field)
            if not isinstance(text, str):
                yield DamagedError(f'no text in field "{source.field}"', f"{name}:{number}")
                continue
            yield Document(text, f"{name}:{number}")
            left -= len(text.encode())
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
