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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import DamagedError, require_extra
from ..files import check_directory, new_directory, read_json, unfinished, write_array
from ..strict import build as build_strictly
from . import overlap, workers
from .duplicates import Duplicates
from .mixture import Mixture, check_output
from .readers import Document, files_of, jsonl
from .units import KNOWN, Cleaner, Tally, Unit, tally_file, text_file, units_of, write_rows

log = logging.getLogger(__name__)

KIND = "corpus"
ABOUT = "corpus.json"
SHARD = 1 << 26  # characters of text in a file of the corpus


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
        FetchError: a package or a data set cannot be had, and its source is not optional.
    """
    out = Path(out)
    check_output(mixture, out)
    for module in _needs(mixture):
        require_extra(module, "data")
    units = list(units_of(mixture))
    with unfinished(out, KIND, plan(mixture)) as work:
        tallies = _clean_all(mixture, units, work, processes or _cores(), on_unit)
        _check_bad(mixture, tallies)
        with new_directory(out, KIND, work) as fresh:
            about = _merge(mixture, units, tallies, work, fresh)
            text = json.dumps(asdict(about), indent=1, ensure_ascii=False)
            (fresh / ABOUT).write_text(text + "\n", encoding="utf-8")
    return Corpus(out)


def built(
    mixture: Mixture,
    directory: Path,
    processes: int | None,
    on_progress: Callable[[float, str], None],
) -> Corpus:
    """`build` on the way to something else: what is there already is taken as it is."""
    if directory.exists():  # it is complete, or would not be there
        return Corpus(directory)

    def on_unit(done: int, of: int, what: str) -> None:
        on_progress(done / max(1, of), f"cleaning {what}")

    return build(mixture, directory, processes=processes, on_unit=on_unit)


def _needs(mixture: Mixture) -> list[str]:
    """Packages that are asked for before the work begins, not in the middle of it."""
    wanted = {
        "rensa": mixture.near_duplicates is not None,
        "resiliparse": any(source.language for source in mixture.source),
        "datasets": any(source.dataset for source in mixture.source),
    }
    return [module for module, is_wanted in wanted.items() if is_wanted]


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def plan(mixture: Mixture) -> dict[str, Any]:
    """What a corpus depends on: the mixture, and every file on this machine as it is now."""
    files = [Path(file) for unit in units_of(mixture) for file in unit.files]
    files += [file for path in mixture.decontaminate for file in overlap.files_of(Path(path))]
    for source in mixture.source:
        if source.dataset is not None and Path(source.dataset).is_dir():
            files += files_of(Path(source.dataset), ["*"])
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {"mixture": asdict(mixture), "files": stats, "motherbird": __version__}


def _clean_all(
    mixture: Mixture,
    units: list[Unit],
    work: Path,
    processes: int,
    on_unit: Callable[[int, int, str], None],
) -> list[Tally]:
    if mixture.decontaminate and not (work / KNOWN).exists():
        write_array(work / KNOWN, overlap.evaluation_runs(mixture.decontaminate))
    done = {unit.number for unit in units if tally_file(work, unit).exists()}
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
        with workers.pool(min(processes, len(todo)), Cleaner, (mixture, work)) as pool:
            for unit in workers.as_done(pool, iter(todo)):
                report(unit)
    elif todo:
        clean = Cleaner((mixture, work))
        for unit in todo:
            report(clean(unit))
    return [
        build_strictly(Tally, read_json(file), str(file))
        for file in (tally_file(work, unit) for unit in units)
    ]


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
            for row in jsonl.rows(text_file(work, unit)):
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
