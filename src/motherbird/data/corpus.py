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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__, files, workers
from ..core import threads
from ..errors import DamagedError, require_extra
from ..strict import build as build_strictly
from . import mixture as mixtures
from . import overlap
from .cleaning import check_language, with_settings
from .duplicates import Duplicates
from .mixture import Mixture, check_output
from .parts import KNOWN, Cleaner, Part, chunked, parts_of, write_rows
from .readers import Document, jsonl, list_directory
from .readers.listing import Listing
from .tally import Tally, describe

log = logging.getLogger(__name__)

KIND = "corpus"
INFO = "corpus.json"
LOSS = 0.3  # of the documents or bytes of a source, above which there is a warning
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
    """A corpus on disk; yields its documents.

    When it is opened, it is verified by `check_directory`, unless ``verify`` is false.
    """

    def __init__(self, directory: str | Path, *, verify: bool = True) -> None:
        self.directory = Path(directory)
        if verify:
            files.check_directory(self.directory, KIND)
        path = self.directory / INFO
        self.about = build_strictly(CorpusInfo, files.read_json(path), str(path))

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
    processes: int | None = None,  # `threads.count` if not given
    on_progress: OnProgress = lambda fraction, what: None,  # called after every part
) -> Corpus:
    """Build the corpus of a mixture, or resume an interrupted build; an existing one is replaced.

    Raises:
        InputError: a source is missing or has no files.
        DamagedError: something could not be read and the mixture does not allow that, or no
            document is left.
        FetchError: a package or dataset of a source that is not optional cannot be downloaded.
    """
    out = Path(out)
    check_output(mixture, out)
    if mixture.near_duplicates is not None:
        require_extra("rensa", "data")
    for source in mixture.source:
        check_language(source)
    if any(source.dataset for source in mixture.source):
        require_extra("datasets", "data")
    parts = list(parts_of(mixture))
    with files.resumable_directory(out, KIND, _plan(mixture)) as work:
        try:
            tallies = _clean_all(mixture, parts, work, processes or threads.count(), on_progress)
            _check_bad(mixture, tallies)
            with files.new_directory(out, KIND, work) as fresh:
                info = _merge(mixture, parts, tallies, work, fresh)
                _warn(info)
                text = json.dumps(asdict(info), indent=1, ensure_ascii=False)
                (fresh / INFO).write_text(text + "\n", encoding="utf-8")
        except DamagedError:  # a repeated call finds the same, unless the files change
            files.discard(work)
            raise
    return Corpus(out)


def find(text: str | Path, max_bad: float | None) -> tuple[Mixture | None, Any]:
    """Return the mixture of a path, None if it is a corpus, and what the text depends on."""
    manifest = Path(text) / files.MANIFEST
    if manifest.is_file():
        return None, files.sha256(manifest)
    mixture = mixtures.read(text, max_bad=max_bad)
    return mixture, _plan(mixture)


def open_or_build(
    text: str | Path,
    mixture: Mixture | None,
    work: Path,
    on_progress: OnProgress,
) -> Corpus:
    """Open the corpus of `find`; that of a mixture is built in ``work`` if it was not before."""
    if mixture is None:
        return Corpus(text)
    if (work / "corpus").exists():
        return Corpus(work / "corpus")
    return build(mixture, work / "corpus", on_progress=on_progress)


def _plan(mixture: Mixture) -> dict[str, Any]:
    """Return what a corpus depends on: the mixture, and size and time of every local file."""
    paths = [Path(file) for part in parts_of(mixture) for file in part.files]
    paths += [
        file for path in mixture.decontaminate for file in overlap.list_texts(Path(path)).files
    ]
    for source in mixture.source:
        if source.dataset is not None and Path(source.dataset).is_dir():
            paths += list_directory(Path(source.dataset), ["*"]).files
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in paths]
    return {"mixture": asdict(mixture), "files": stats, "motherbird": __version__}


def _clean_all(
    mixture: Mixture, parts: list[Part], work: Path, processes: int, on_progress: OnProgress
) -> list[Tally]:
    if mixture.decontaminate and not (work / KNOWN).exists():
        files.write_array(work / KNOWN, overlap.evaluation_runs(mixture.decontaminate))
    todo = [part for part in parts if not part.file(work, "json").exists()]
    finished = len(parts) - len(todo)
    on_progress(finished / max(1, len(parts)), "cleaning")
    count = min(processes, len(todo))
    with workers.pool(count if count > 1 else 0, Cleaner, (mixture, work)) as pool:
        clean = Cleaner(mixture, work)
        for part in workers.as_completed(pool, iter(todo)) if pool else map(clean, todo):
            finished += 1
            name = mixture.source[part.source].name
            if part.package or part.files:
                name = f"{name}: {part.package or Path(part.files[-1]).name}"
            on_progress(finished / len(parts), f"cleaning {name}")
    done = [part.file(work, "json") for part in parts]
    return [build_strictly(Tally, files.read_json(path), str(path)) for path in done]


def _check_bad(mixture: Mixture, tallies: list[Tally]) -> None:
    """Raise DamagedError if more could not be read than the mixture allows."""
    if mixture.max_bad is None:
        return
    total = _total(tallies)
    documents = total.bad + total.read.documents
    what = ""
    if total.bad > mixture.max_bad * documents:
        what = f"{total.bad} of {documents} documents cannot be read"
    elif total.bad_bytes > mixture.max_bad * total.file_bytes:
        fraction = total.bad_bytes / total.file_bytes
        what = f"files with {fraction:.1%} of the bytes cannot be read, or not to their end"
    if what:
        how = f"{total.bad_hint or 'repair them'}, or allow more with --max-bad"
        named = "; ".join(total.bad_examples[:3])
        raise DamagedError(f"{what}, more than {mixture.max_bad:.2%}", named, how)


def _total(tallies: Iterable[Tally]) -> Tally:
    total = Tally()
    for tally in tallies:
        total.merge(tally)
    return total


def _warn(info: CorpusInfo) -> None:
    """Log what was not read, and which sources lost much of their text."""
    total = _total(info.sources.values())
    if total.bad:
        examples = "; ".join(total.bad_examples[:5]) + ("; ..." if total.bad > 5 else "")
        log.warning("skipped %s without usable text: %s", total.describe_bad(), examples)
    for source, (name, tally) in zip(info.mixture.source, info.sources.items(), strict=True):
        if problems := Listing(skipped=tally.skipped).problems():
            log.warning("source %r: skipped %s", name, problems)
        documents, size = tally.losses()
        if max(documents, size) > LOSS:
            lost = f"{documents:.0%} of its documents and {size:.0%} of their bytes"
            dropped = describe(with_settings(tally.dropped, source))
            log.warning("source %r lost %s: %s", name, lost, dropped)


def _merge(
    mixture: Mixture, parts: list[Part], tallies: list[Tally], work: Path, fresh: Path
) -> CorpusInfo:
    """The second pass: drop duplicates, and write the text in files of similar size."""
    by_source = {source.name: Tally() for source in mixture.source}
    for part, tally in zip(parts, tallies, strict=True):
        by_source[mixture.source[part.source].name].merge(tally)

    def rows() -> Iterator[dict[str, str]]:
        duplicates = Duplicates(mixture.near_duplicates, work)
        for part in parts:
            tally = by_source[mixture.source[part.source].name]
            for row in jsonl.rows(part.file(work, "jsonl.zst")):
                if found := duplicates.find(row["text"]):
                    tally.drop(f"{found} to an earlier one", row["where"], row["text"])
                else:
                    tally.kept.add(len(row["text"].encode()))
                    yield row

    shards = 0
    for shards, shard in enumerate(chunked(rows(), SHARD, lambda row: len(row["text"])), 1):
        write_rows(fresh / shard_name(shards - 1), shard)
    if not shards:
        why = []
        for source, tally in zip(mixture.source, by_source.values(), strict=True):
            tally.dropped = with_settings(tally.dropped, source)
            why.append(f"source {source.name!r}: {tally.describe_losses()}")
        how = _total(by_source.values()).bad_hint or "use other text, or change its filters"
        raise DamagedError("no document is left", "; ".join(why[:5]) + "; ..." * bool(why[5:]), how)
    return CorpusInfo(mixture, shards, by_source, {"motherbird": __version__})
