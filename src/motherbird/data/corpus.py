"""Clean text from a mixture: read, filtered, and compared with all that came before.

A corpus is a directory:

    motherbird.json              SHA-256 of every file below
    corpus.json                  `About`: what it was made of, what was dropped and why
    text-00000.jsonl.zst ...     {"source", "where", "text"} a line, in order

It is built in two passes. The first cleans, unit by unit (a package, a file, a handful of small
files), in as many processes as there are cores; a finished unit is never done again. The second
goes through the units in order, drops what came before, and writes the text.
"""

import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import __version__
from ..errors import DamagedError, InputError, NotTextError, need
from ..files import check_directory, new_directory, read_json, unfinished, write_file, write_text
from ..strict import build as build_strictly
from . import readers, registries, workers
from .cleaning import normalise, objection, pieces
from .duplicates import Duplicates
from .mixture import Mixture, Source
from .overlap import evaluation_runs, shared_run
from .readers import Document, jsonl, plain

log = logging.getLogger(__name__)

KIND = "corpus"
ABOUT = "corpus.json"
UNIT = 1 << 25  # bytes of files that are cleaned in one go
SHARD = 1 << 26  # bytes of text in a file of the corpus
EXAMPLES = 3  # of each reason, for each source
LEVEL = 3  # of zstd


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
class About:
    """What a corpus was made of, and what is in it.

    Attributes:
        mixture: as it was read.
        shards: files of text.
        sources: by name.
        made_with: versions.
    """

    mixture: Mixture
    shards: int
    sources: dict[str, Tally]
    made_with: dict[str, str]


@dataclass(frozen=True)
class Unit:
    """A part of a source that is cleaned in one go: files, a package, or a data set."""

    number: int
    source: int
    files: tuple[str, ...] = ()
    package: str | None = None


class Corpus:
    """A corpus on disk, verified when it is opened.

    Raises:
        InputError: it is no corpus.
        DamagedError: a file is missing, too much, or not what was written; it is named.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        check_directory(self.directory, KIND)
        about = self.directory / ABOUT
        self.about = build_strictly(About, read_json(about), str(about))

    def documents(self, shard: int) -> Iterator[Document]:
        """Documents of a file of text; their ``source`` is the name of their source."""
        for row in jsonl.rows(self.directory / shard_name(shard)):
            yield Document(row["text"], row["source"])

    def __iter__(self) -> Iterator[Document]:
        for shard in range(self.about.shards):
            yield from self.documents(shard)


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"text-{number:05}.jsonl.zst"


def build(
    mixture: Mixture,
    out: str | Path,
    *,
    processes: int | None = None,
    on_unit: Callable[[int, int, str], None] = lambda done, of, what: None,
) -> Corpus:
    """Build the corpus of a mixture; after a kill, go on where it was.

    Args:
        mixture: see `mixture.read`.
        out: the directory to make; a corpus that is there is replaced.
        processes: that clean; as many as there are cores if not set.
        on_unit: called with units done, units in all, and what was done last.

    Raises:
        InputError: a source has no files, or is missing.
        DamagedError: something could not be read, and the mixture does not tolerate it; or nothing
            is left.
    """
    out = Path(out)
    units = list(_units(mixture))
    with unfinished(out, KIND, plan(mixture)) as work:
        tallies = _clean_all(mixture, units, work, processes or os.cpu_count() or 1, on_unit)
        _check_bad(mixture, tallies)
        with new_directory(out, KIND) as fresh:
            about = _merge(mixture, units, tallies, work, fresh)
            text = json.dumps(asdict(about), indent=1, ensure_ascii=False)
            (fresh / ABOUT).write_text(text + "\n", encoding="utf-8")
    return Corpus(out)


def plan(mixture: Mixture) -> dict[str, Any]:
    """What a corpus depends on: the mixture, and every file on this machine as it is now."""
    against = [
        str(file)
        for path in map(Path, mixture.decontaminate)
        for file in (readers.files_of(path) if path.is_dir() else [path])
    ]
    files = [file for unit in _units(mixture) for file in unit.files]
    stats = [(file, os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files + against]
    return {"mixture": asdict(mixture), "files": stats, "motherbird": __version__}


def _units(mixture: Mixture) -> Iterator[Unit]:
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


def _clean_all(
    mixture: Mixture,
    units: list[Unit],
    work: Path,
    processes: int,
    on_unit: Callable[[int, int, str], None],
) -> list[Tally]:
    known = work / "evaluation-runs.npy"
    if mixture.decontaminate and not known.exists():
        found = evaluation_runs(mixture.decontaminate)
        write_file(known, lambda path: _save_array(path, found))
    done = {unit.number for unit in units if _tally_file(work, unit).exists()}
    todo = [unit for unit in units if unit.number not in done]
    finished = len(done)
    on_unit(finished, len(units), "")

    def report(unit: Unit) -> None:
        nonlocal finished
        finished += 1
        source = mixture.source[unit.source].name
        on_unit(finished, len(units), f"{source}: {unit.package or Path(unit.files[-1]).name}"
                if unit.package or unit.files else source)  # fmt: skip

    if min(processes, len(todo)) > 1:
        with workers.crew(min(processes, len(todo)), Cleaner, (mixture, work)) as crew:
            for unit in workers.as_done(crew, iter(todo)):
                report(unit)
    elif todo:
        clean = Cleaner((mixture, work))
        for unit in todo:
            report(clean(unit))
    return [
        build_strictly(Tally, read_json(file), str(file))
        for file in (_tally_file(work, unit) for unit in units)
    ]


def _save_array(path: Path, array: NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, array)


def _tally_file(work: Path, unit: Unit) -> Path:
    return work / f"unit-{unit.number:05}.json"


def _text_file(work: Path, unit: Unit) -> Path:
    return work / f"unit-{unit.number:05}.jsonl.zst"


class Cleaner:
    """Cleans units: reads, normalises, cuts, filters; the text and a tally go to the work folder.

    Args:
        argument: the mixture, and the folder.
    """

    def __init__(self, argument: tuple[Mixture, Path]) -> None:
        self.mixture, self.work = argument
        self.known = (
            np.load(self.work / "evaluation-runs.npy", mmap_mode="r")
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
            write_file(_text_file(self.work, unit), lambda path: write_rows(path, rows))
        text = json.dumps(asdict(tally), ensure_ascii=False)
        write_text(_tally_file(self.work, unit), text)
        return unit

    def _documents(
        self, source: Source, unit: Unit, folder: Path, tally: Tally
    ) -> Iterator[Document | DamagedError]:
        """Everything that the unit's files give; ``source`` says where from."""
        if source.dataset is not None:
            yield from _dataset(source)
            return
        files = [Path(file) for file in unit.files]
        home = ""
        if unit.package is not None:
            try:
                tally.packages = (registries.fetch(unit.package, folder),)
            except InputError as error:
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
    datasets = need("datasets", "data")
    name = source.dataset or ""
    if (Path(name) / "dataset_info.json").exists() or (Path(name) / "dataset_dict.json").exists():
        data = datasets.load_from_disk(name)
        data = data[source.split] if isinstance(data, dict) else data
    else:
        data = datasets.load_dataset(name, source.subset, split=source.split, streaming=True)
    for number, row in enumerate(data, 1):
        text = row.get(source.field)
        where = f"{name}:{number}"
        if isinstance(text, str):
            yield Document(text, where)
        else:
            yield DamagedError(f'no text in field "{source.field}"', where)


def write_rows(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write lines of JSON, compressed with zstd."""
    zstd = need("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd", "data")
    with zstd.open(path, "wb", level=LEVEL) as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
    if not path.stat().st_size:  # without a line nothing was written, not even a frame
        path.write_bytes(zstd.compress(b"", level=LEVEL))


def _check_bad(mixture: Mixture, tallies: list[Tally]) -> None:
    bad = sum(tally.bad for tally in tallies)
    read = sum(tally.read.documents for tally in tallies)
    named = [name for tally in tallies for name in tally.bad_examples]
    if bad:
        more = "; ..." if bad > 5 else ""
        log.warning("skipped %d files without usable text: %s%s", bad, "; ".join(named[:5]), more)
    if mixture.max_bad is not None and bad > mixture.max_bad * (bad + read):
        raise DamagedError(
            f"{bad} of {bad + read} documents cannot be read, more than {mixture.max_bad:.2%}",
            "; ".join(named[:3]),
            "repair them, or allow more with --max-bad",
        )


def _merge(
    mixture: Mixture, units: list[Unit], tallies: list[Tally], work: Path, fresh: Path
) -> About:
    """The second pass: drop what came before, and write the text in files of one size."""
    by_source = {source.name: Tally() for source in mixture.source}
    for unit, tally in zip(units, tallies, strict=True):
        by_source[mixture.source[unit.source].name].merge(tally)

    def rows() -> Iterator[dict[str, str]]:
        before = Duplicates(mixture.near_duplicates)
        for unit in units:
            tally = by_source[mixture.source[unit.source].name]
            for row in jsonl.rows(_text_file(work, unit)):
                found = before.of(row["text"])
                if found is None:
                    tally.kept.add(len(row["text"].encode()))
                    yield row
                else:
                    tally.drop(f"{found} to an earlier one", Document(row["text"], row["where"]))

    shards = 0
    source = rows()
    while lot := _take(source, SHARD):
        write_rows(fresh / shard_name(shards), lot)
        shards += 1
    about = About(mixture, shards, by_source, {"motherbird": __version__})
    if not shards:
        dropped: dict[str, int] = {}
        for tally in by_source.values():
            for reason, count in tally.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count.documents
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise DamagedError("no document is left", why or "all files are empty")
    return about


def _take(rows: Iterator[dict[str, str]], size: int) -> list[dict[str, str]]:
    taken = []
    for row in rows:
        taken.append(row)
        size -= len(row["text"])
        if size <= 0:
            break
    return taken
