"""Pairs of sources, without duplicates and without what is in evaluation sets."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...core.rng import shuffled
from ...errors import DamagedError, InputError, NotTextError
from ..duplicates import Duplicates, text_hash
from ..overlap import Evaluation, evaluation_texts
from ..readers import Document, plain_name
from ..readers.document import Record
from ..readers.formats import LANGUAGES, SETTINGS
from ..readers.listing import Listing
from ..tally import Count, Tally
from .columns import WANTED, adjacent_pairs, can_be_used, record_pairs
from .docstrings import docstring_pairs
from .pair import KINDS, Kind, Pair, cut, why_not
from .sections import is_divided, section_pairs
from .sources import EMPTY, OnProgress, add_bad, check_sources, label, read_source

log = logging.getLogger(__name__)

NEAR = 0.7  # similarity of two texts from which the later one is dropped
CHOICE = 0x63686F696365  # first part of the key of the choice of pairs
_CODE = (*sum(LANGUAGES.values(), ()), *SETTINGS)
OTHER_CODE = "code without docstrings that are read, and settings"


@dataclass
class KindReport:
    """How many pairs of a kind were found, and why some were dropped."""

    found: int = 0
    kept: int = 0
    cut: int = 0  # of those kept, pairs whose text was cut
    dropped: dict[str, Count] = field(default_factory=dict)

    def drop(self, reason: str, pair: Pair, because: str = "") -> None:
        """Count a dropped pair."""
        example = {"where": pair.source, "query": pair.query[:80]}
        if because:
            example["because"] = because
        size = len(pair.query.encode()) + len(pair.positive.encode())
        self.dropped.setdefault(reason, Count()).add(size, example)


@dataclass(frozen=True)
class Made:
    """Pairs, and how they were made."""

    pairs: list[Pair]
    kinds: dict[Kind, KindReport]
    sources: dict[str, Tally]  # what was read, skipped and could not be read, by source


def make_pairs(
    sources: Sequence[str | Path],
    *,
    kinds: Sequence[Kind] = KINDS,
    exclude: Sequence[str | Path] = (),
    most: int | None = None,
    max_words: int = 300,
    seed: int = 0,
    on_progress: OnProgress = lambda fraction, what: None,
) -> Made:
    """Make pairs; they are in the order of the sources.

    Args:
        sources: directories of text and code, wheels, sdists, .zip files, tables and files.
        kinds: the kinds of pairs.
        exclude: files and directories of evaluation sets. A pair is dropped if its query or its
            text shares 13 words with a text of these, or is one of these with fewer words.
        most: number of pairs of a kind, chosen at random.
        max_words: of a text; a longer one is cut.
        seed: decides which pairs are chosen.
        on_progress: is called for each file.

    Raises:
        InputError: a source is missing, or an evaluation set has no text.
        DamagedError: there is no pair, or an evaluation set is damaged.
    """
    paths = [Path(path) for path in sources]
    check_sources(paths)
    for path in map(Path, exclude):
        if not path.exists():
            raise InputError("exclude: the file or directory does not exist", str(path))
    known = evaluation_texts(exclude) if exclude else None
    tallies = {label(path): Tally() for path in paths}
    reports = {kind: KindReport() for kind in KINDS if kind in kinds}
    kept: list[Pair] = []
    sieve = _Sieve(known, max_words, reports)
    for number, path in enumerate(paths):

        def show(fraction: float, what: str, number: int = number) -> None:
            on_progress((number + fraction) / len(paths), what)

        tally = tallies[label(path)]
        for found in read_source(path, tally, show):
            for pair in _pairs_of(found, list(reports), tally):
                if (one := sieve.passes(pair)) is not None:
                    kept.append(one)
    pairs = _choose(kept, reports, most, seed)
    for kind, report in reports.items():
        own = [pair for pair in pairs if pair.kind == kind]
        report.kept, report.cut = len(own), sum(pair.key in sieve.cut for pair in own)
    _warn(tallies)
    if not pairs:
        why = [f"{name}: {tally.describe_losses()}" for name, tally in tallies.items()]
        hints = [tally.bad_hint for tally in tallies.values() if tally.bad_hint]
        how = hints[0] if hints else f"use other sources or kinds ({', '.join(KINDS)})"
        raise DamagedError("there is no pair", "; ".join([*_reasons(reports), *why[:5]]), how)
    return Made(pairs, reports, tallies)


def _pairs_of(found: Document | Record, kinds: Sequence[Kind], tally: Tally) -> Iterator[Pair]:
    """Yield the pairs of a document or a row, and count what has none that can be read."""
    if isinstance(found, Record):
        if can_be_used(found):
            yield from record_pairs(found, kinds)
        else:
            tally.skipped.setdefault(WANTED, Count()).add(0, {"where": found.where})
        return
    name = plain_name(Path(found.source))
    if name.endswith(".py"):
        if "docstring" in kinds:
            try:
                yield from docstring_pairs(found.text, found.source)
            except NotTextError as error:
                add_bad(tally, "file", error, len(found.text.encode()))
    elif name.endswith(_CODE):
        example = {"where": found.source}
        tally.skipped.setdefault(OTHER_CODE, Count()).add(len(found.text.encode()), example)
    else:
        if "heading" in kinds and is_divided(name):
            yield from section_pairs(found.text, found.source)
        if "adjacent" in kinds:
            yield from adjacent_pairs(found.text, found.source)


class _Sieve:
    """Drops pairs, and counts why."""

    def __init__(
        self, known: Evaluation | None, max_words: int, reports: dict[Kind, KindReport]
    ) -> None:
        self.known, self.max_words, self.reports = known, max_words, reports
        self.duplicates = Duplicates(NEAR)
        self.seen: set[int] = set()  # keys of pairs
        self.cut: set[int] = set()  # keys of pairs whose text was cut
        self.near: set[int] = set()  # hashes of texts that are nearly equal to another one

    def passes(self, pair: Pair) -> Pair | None:
        """Return the pair with its text cut, or None."""
        report = self.reports[pair.kind]
        report.found += 1
        shorter = replace(pair, positive=cut(pair.positive, self.max_words))
        if reason := why_not(pair):
            report.drop(reason, pair)
        elif shared := self._shared(shorter):
            report.drop("in an evaluation set", pair, shared)
        elif reason := self._repeats(shorter):
            report.drop(reason, pair)
        else:
            if len(shorter.positive) < len(pair.positive):
                self.cut.add(shorter.key)
            return shorter
        return None

    def _shared(self, pair: Pair) -> str | None:
        if self.known is None:
            return None
        return self.known.has(pair.query) or self.known.has(pair.positive)

    def _repeats(self, pair: Pair) -> str | None:
        """Equal texts with other queries are kept: training knows that they are equal."""
        if pair.key in self.seen:
            return "equal to an earlier pair"
        self.seen.add(pair.key)
        own = text_hash(pair.positive)
        if self.duplicates.find(pair.positive) == "nearly equal":
            self.near.add(own)
        return "text nearly equal to an earlier one" if own in self.near else None


def _choose(
    found: list[Pair], reports: dict[Kind, KindReport], most: int | None, seed: int
) -> list[Pair]:
    """Return at most so many pairs of each kind, in their order."""
    left_out: set[int] = set()
    for kind, report in reports.items():
        numbers = [number for number, pair in enumerate(found) if pair.kind == kind]
        if most is None or len(numbers) <= most:
            continue
        order = shuffled(
            range(len(numbers)), len(numbers), (CHOICE, seed, KINDS.index(kind))
        ).tolist()
        for position in sorted(order[most:]):
            pair = found[numbers[position]]
            left_out.add(numbers[position])
            report.drop("more than --max", pair)
    return [pair for number, pair in enumerate(found) if number not in left_out]


def _reasons(reports: dict[Kind, KindReport]) -> Iterator[str]:
    for kind, report in reports.items():
        for reason, count in report.dropped.items():
            yield f"{kind}: {count.documents:,} dropped: {reason} ({count.example()})"


def _warn(tallies: dict[str, Tally]) -> None:
    """Log what could not be read."""
    for name, tally in tallies.items():
        if tally.bad:
            examples = "; ".join(tally.bad_examples[:5]) + ("; ..." if tally.bad > 5 else "")
            log.warning("skipped in %s: %s: %s", name, tally.describe_bad(), examples)
        told = {r: count for r, count in tally.skipped.items() if r not in (EMPTY, OTHER_CODE)}
        if problems := Listing(skipped=told).problems():
            log.warning("skipped in %s: %s", name, problems)
