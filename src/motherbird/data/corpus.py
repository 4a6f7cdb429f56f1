"""A corpus: the text of a mixture, cleaned and without duplicates.

A corpus is a directory:

    motherbird.json              SHA-256 of every file below
    corpus.json                  `CorpusInfo`: the mixture, and what was dropped and why
    text-00000.jsonl.zst ...     lines of {"source", "where", "text"}, in order

It is built in two passes. The first cleans the parts of the mixture (`parts`) in several
processes; finished parts are kept if the work is interrupted. The second goes through the parts in
order, drops duplicates of earlier documents, and writes the text.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__, workers
from ..errors import DamagedError, require_extra
from ..files import check_directory, new_directory, read_json, resumable_directory, write_array
from ..strict import build as build_strictly
from . import overlap
from .duplicates import Duplicates
from .mixture import Mixture, check_output
from .parts import KNOWN, Cleaner, Part, Tally, chunked, parts_of, tally_file, text_file
from .parts import write_rows as write_jsonl
from .readers import Document, files_of, jsonl

log = logging.getLogger(__name__)

KIND = "corpus"
INFO = "corpus.json"
SHARD = 1 << 26  # characters of text in a file of the corpus
OnProgress = Callable[[float, str], None]  # gets the fraction that is done, and the present step


@dataclass(frozen=True)
class CorpusInfo:
    """The content of corpus.json."""

    mixture: Mixture  # the mixture
    shards: int  # number of text files
    sources: dict[str, Tally]  # tallies by name
    made_with: dict[str, str]  # versions


class Corpus:
    """A corpus on disk, verified when it is opened. Iterating yields its documents.

    Raises:
        InputError: the directory is not a corpus.
        DamagedError: a file is missing, was changed, or does not belong to it; it is named.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        check_directory(self.directory, KIND)
        path = self.directory / INFO
        self.about = build_strictly(CorpusInfo, read_json(path), str(path))

    def documents(self, shard: int) -> Iterator[Document]:
        """Yield the documents of a text file; their ``source`` is the name of their source."""
        for row in jsonl.rows(self.directory / shard_name(shard)):
            yield Document(row["text"], row["source"])

    def __iter__(self) -> Iterator[Document]:
        for shard in range(self.about.shards):
            yield from self.documents(shard)


def shard_name(number: int) -> str:
    """Return the name of a text file."""
    return f"text-{number:05}.jsonl.zst"


def build(
    mixture: Mixture,
    out: str | Path,
    *,
    processes: int | None = None,
    on_progress: OnProgress = lambda fraction, what: None,
) -> Corpus:
    """Build the corpus of a mixture, or resume an interrupted build.

    Args:
        mixture: see `mixture.read`.
        out: the output directory; an existing corpus is replaced.
        processes: number of processes; the number of available cores if not given.
        on_progress: called after every part.

    Raises:
        InputError: a source is missing or has no files.
        DamagedError: something could not be read and the mixture does not allow that, or no
            document is left.
        FetchError: a package or dataset of a source that is not optional cannot be downloaded.
    """
    out = Path(out)
    check_output(mixture, out)
    for module in _required_modules(mixture):
        require_extra(module, "data")
    parts = list(parts_of(mixture))
    with resumable_directory(out, KIND, plan(mixture)) as work:
        tallies = _clean_all(mixture, parts, work, processes or _cores(), on_progress)
        _check_bad(mixture, tallies)
        with new_directory(out, KIND, work) as fresh:
            info = _merge(mixture, parts, tallies, work, fresh)
            text = json.dumps(asdict(info), indent=1, ensure_ascii=False)
            (fresh / INFO).write_text(text + "\n", encoding="utf-8")
    return Corpus(out)


def open_or_build(
    mixture: Mixture, directory: Path, processes: int | None, on_progress: OnProgress
) -> Corpus:
    """Open the corpus of a mixture if it was built before; otherwise build it."""
    if directory.exists():
        return Corpus(directory)
    return build(mixture, directory, processes=processes, on_progress=on_progress)


def _required_modules(mixture: Mixture) -> list[str]:
    """Return the modules that the mixture needs, to be checked before the work begins."""
    wanted = {
        "rensa": mixture.near_duplicates is not None,
        "resiliparse": any(source.language for source in mixture.source),
        "datasets": any(source.dataset for source in mixture.source),
    }
    return [module for module, is_wanted in wanted.items() if is_wanted]


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan(mixture: Mixture) -> dict[str, Any]:
    """Return what a corpus depends on: the mixture, and size and time of every local file."""
    files = [Path(file) for part in parts_of(mixture) for file in part.files]
    files += [file for path in mixture.decontaminate for file in overlap.files_of(Path(path))]
    for source in mixture.source:
        if source.dataset is not None and Path(source.dataset).is_dir():
            files += files_of(Path(source.dataset), ["*"])
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {"mixture": asdict(mixture), "files": stats, "motherbird": __version__}


def _clean_all(
    mixture: Mixture, parts: list[Part], work: Path, processes: int, on_progress: OnProgress
) -> list[Tally]:
    if mixture.decontaminate and not (work / KNOWN).exists():
        write_array(work / KNOWN, overlap.evaluation_runs(mixture.decontaminate))
    todo = [part for part in parts if not tally_file(work, part).exists()]
    finished = len(parts) - len(todo)
    on_progress(finished / max(1, len(parts)), "cleaning")

    def clean() -> Iterator[Part]:
        if min(processes, len(todo)) > 1:
            with workers.pool(min(processes, len(todo)), Cleaner, (mixture, work)) as pool:
                yield from workers.as_completed(pool, iter(todo))
        elif todo:
            yield from map(Cleaner(mixture, work), todo)

    for part in clean():
        finished += 1
        name = mixture.source[part.source].name
        if part.package or part.files:
            name = f"{name}: {part.package or Path(part.files[-1]).name}"
        on_progress(finished / len(parts), f"cleaning {name}")
    files = [tally_file(work, part) for part in parts]
    return [build_strictly(Tally, read_json(file), str(file)) for file in files]


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
    mixture: Mixture, parts: list[Part], tallies: list[Tally], work: Path, fresh: Path
) -> CorpusInfo:
    """The second pass: drop duplicates, and write the text in files of similar size."""
    by_source = {source.name: Tally() for source in mixture.source}
    for part, tally in zip(parts, tallies, strict=True):
        by_source[mixture.source[part.source].name].merge(tally)

    def rows() -> Iterator[dict[str, str]]:
        duplicates = Duplicates(mixture.near_duplicates)
        for part in parts:
            tally = by_source[mixture.source[part.source].name]
            for row in jsonl.rows(text_file(work, part)):
                found = duplicates.find(row["text"])
                if found is None:
                    tally.kept.add(len(row["text"].encode()))
                    yield row
                else:
                    tally.drop(f"{found} to an earlier one", Document(row["text"], row["where"]))

    shards = 0
    for shard in chunked(rows(), SHARD, lambda row: len(row["text"])):
        write_jsonl(fresh / shard_name(shards), shard)
        shards += 1
    if not shards:
        dropped: dict[str, int] = {}
        for tally in by_source.values():
            for reason, count in tally.dropped.items():
                dropped[reason] = dropped.get(reason, 0) + count.documents
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise DamagedError("no document is left", why or "all files are empty")
    return CorpusInfo(mixture, shards, by_source, {"motherbird": __version__})
