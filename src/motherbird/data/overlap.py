"""Decontamination: sequences of words that a document shares with evaluation texts."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import UInt64
from ..errors import DamagedError, InputError, NotTextError
from . import readers
from .duplicates import text_hash
from .readers import formats, jsonl, tables
from .readers.listing import Listing
from .sequences import sequences

log = logging.getLogger(__name__)

RUN = 13  # words of a sequence, as for GPT-3; see `sequences` for scripts without spaces
LEAST = 3  # words of a short evaluation text; ids and names have fewer
COMMON = 10  # a sequence in more evaluation texts than this is boilerplate, such as a license
Hashes = dict[int, NDArray[np.uint64]]  # of the sequences of texts, by the hash of the text


def evaluation_runs(paths: Iterable[str | Path]) -> UInt64[np.ndarray, " n"]:
    """Return the sorted hashes of the sequences of all texts in files and directories.

    These are all strings in lines of JSON and in .json files, and all text files. No text is an
    InputError, a damaged file a DamagedError.
    """
    found, rows, short = _collect(paths)
    if short:
        what = (
            "decontaminate: evaluation texts of fewer than %s words are too short to be recognized"
        )
        what += ", and documents with them are kept: %s of %s"
        log.warning(what, RUN, f"{short:,}", f"{rows:,}")
    return _runs(found)


@dataclass(frozen=True)
class Evaluation:
    """The texts of evaluation sets.

    Attributes:
        runs: hashes of `evaluation_runs`.
        short: hashes of the words of whole texts with too few words for these.
    """

    runs: UInt64[np.ndarray, " n"]
    short: frozenset[int]

    def has(self, text: str) -> str | None:
        """Return the words that a text shares with one of these, or None.

        They are a sequence of 13 words, or the whole text if it has fewer.
        """
        words = sequences(text, LEAST)[3].strip()
        return words if text_hash(words) in self.short else shared_run(text, self.runs)


def evaluation_texts(paths: Iterable[str | Path]) -> Evaluation:
    """Return the texts of files and directories; see `evaluation_runs`.

    Of the short texts, those of at least 3 words count, and not ids and names.
    """
    short: set[int] = set()
    found, _, _ = _collect(paths, short)
    return Evaluation(_runs(found), frozenset(short))


def _collect(paths: Iterable[str | Path], short: set[int] | None = None) -> tuple[Hashes, int, int]:
    """Return hashes of sequences by the hash of the text, and how many rows there are and lack one.

    The hashes of the words of texts without a sequence are added to ``short``.
    """
    found: Hashes = {}
    rows, lacking = 0, 0
    for row in (row for path in paths for row in _rows(Path(path))):
        own = {text_hash(text): text for text in row}
        new = {key: text for key, text in own.items() if key not in found}
        found |= {key: np.unique(sequences(text, RUN)[0]) for key, text in new.items()}
        rows += bool(own)
        lacking += bool(own) and not any(len(found[key]) for key in own)
        if short is not None:
            short |= _short(text for key, text in new.items() if not len(found[key]))
    if not found:
        raise InputError("decontaminate: no text was found", ", ".join(map(str, paths)))
    return found, rows, lacking


def _short(texts: Iterable[str]) -> set[int]:
    """Return the hashes of the words of texts that have enough of them."""
    found = (sequences(text, LEAST) for text in texts)
    return {text_hash(words.strip()) for hashes, _, _, words in found if len(hashes)}


def _runs(found: Hashes) -> UInt64[np.ndarray, " n"]:
    hashes, counts = np.unique(np.concatenate(list(found.values())), return_counts=True)
    return hashes[counts <= COMMON]


def _rows(path: Path) -> Iterator[list[str]]:
    """Yield the texts of each row, or of each file that has no rows."""
    listing = list_texts(path)
    if problems := listing.problems():
        log.warning("decontaminate: skipped in %s: %s", path, problems)
    for file in listing.files:
        if readers.reader_of(file) is jsonl.read:
            readers.check_pointer(file)
            yield from (list(_strings(row)) for row in jsonl.rows(file))
            continue
        if readers.reader_of(file) is formats.read_descriptions:
            value = formats.json_value(file)
            rows = value if isinstance(value, list) else [value]
            yield from (list(_strings(row)) for row in rows)
            continue
        # All columns of a table count.
        reader = formats.read_plain if readers.reader_of(file) is tables.read else None
        for document in readers.read_file(file, reader=reader):
            if isinstance(document, NotTextError):
                log.warning("decontaminate: skipped %s", document)
            elif isinstance(document, DamagedError):
                raise document
            else:
                yield [document.text]


def list_texts(path: Path) -> Listing:
    """Return the files of an evaluation set."""
    return (
        readers.list_directory(path, ["*"]) if path.is_dir() else Listing(path.parent, [path.name])
    )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        yield " ".join(value)  # the words of a sentence
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _strings(one)


def shared_run(text: str, known: NDArray[np.uint64]) -> str | None:
    """Return the words of the first sequence of a text whose hash is in ``known``, or None."""
    hashes, starts, ends, words = sequences(text, RUN)
    if not len(hashes) or not len(known):
        return None
    positions = np.searchsorted(known, hashes)
    hits = np.flatnonzero(known[np.minimum(positions, len(known) - 1)] == hashes)
    if not len(hits):
        return None
    return words[starts[hits[0]] : ends[hits[0]]]
