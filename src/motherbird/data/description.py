"""A description of labelled data before training: counts, duplicates and doubtful labels."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..core.spans import Scheme, scheme_of, spans
from ..errors import counted
from .labelled import Labelled, sort_names

EXAMPLES = 3  # of each problem
SHOWN = 20  # labels in a line of text
FEW = 50  # examples with which a metric is uncertain by several points


@dataclass(frozen=True)
class Description:
    """What the parts of labelled data (train, dev, test) contain.

    Texts are compared in lower case, with runs of white space as one space.

    Attributes:
        rows: number of examples of each part.
        labels: for each part, the number of examples of each label, or of entities of each type.
        numbers: for each part, the smallest, mean and largest number, if labels are numbers.
        duplicates: number of examples of train with the text of an earlier one.
        conflicts: number of texts that occur in train with different labels.
        conflict_examples: the first of them: where two examples are, and their labels.
        in_train: for each other part, the number of examples whose text is in train.
        in_train_examples: where the first of them are, and where they are in train.
        unknown: for each other part, the number of examples of each label that train lacks.
        similar: labels that differ only in case or white space.
    """

    rows: dict[str, int]
    labels: dict[str, dict[str, int]]
    numbers: dict[str, dict[str, float]]
    duplicates: int
    conflicts: int
    conflict_examples: list[dict[str, Any]]
    in_train: dict[str, int]
    in_train_examples: dict[str, list[dict[str, str]]]
    unknown: dict[str, dict[str, int]]
    similar: list[list[str]]

    def data(self) -> dict[str, Any]:
        """Return all values, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the counts as lines of text."""
        return [f"{part}: {counted(rows, 'example')}{self._labels(part)}"
                for part, rows in self.rows.items()]  # fmt: skip

    def _labels(self, part: str) -> str:
        if part in self.numbers:
            return ", " + ", ".join(
                f"{key} {value:.4g}" for key, value in self.numbers[part].items()
            )
        return ": " + _listed(self.labels[part]) if self.labels[part] else ""

    def warnings(self) -> list[str]:
        """Return a line for each problem that can make training or its metrics worse."""
        found = []
        if self.duplicates:
            what = f"train: {counted(self.duplicates, 'example')} with the text of an earlier one"
            if self.conflicts:
                labels, where = self.conflict_examples[0].values()
                both = " and ".join(f"{n:.60} ({w})" for n, w in zip(labels, where, strict=True))
                what += f"; {counted(self.conflicts, 'text')} with different labels: {both}"
            found.append(what)
        for part, rows in self.rows.items():
            if part != "train" and rows < FEW:
                found.append(
                    f"{part}: {counted(rows, 'example')}, too few to measure small differences"
                )
        for part, count in self.in_train.items():
            if count:
                first = self.in_train_examples[part][0]
                what = f"{part}: {counted(count, 'example')} whose text is in train, such as "
                found.append(f"{what}{first['where']} ({first['train']})")
        for part, unknown in self.unknown.items():
            if unknown:
                what = f"{part}: labels that train lacks, which count as wrong: "
                found.append(what + _listed(unknown))
        for group in self.similar:
            names = ", ".join(f'"{name}"' for name in group)
            found.append(f"labels that differ only in case or white space: {names}")
        return found


def describe(
    train: Labelled, dev: Labelled | None = None, test: Labelled | None = None
) -> Description:
    """Describe labelled data; labels of all parts have one type."""
    given = {"train": train, "dev": dev, "test": test}
    parts = {name: part for name, part in given.items() if part is not None}
    first: dict[str, int] = {}  # the first example of train with a text
    repeated: list[tuple[int, int]] = []
    for index, text in enumerate(map(_fold, train.texts)):
        if (earlier := first.setdefault(text, index)) != index:
            repeated.append((earlier, index))
    conflicts = {
        earlier: index
        for earlier, index in reversed(repeated)
        if _label(train, earlier) != _label(train, index)
    }
    in_train = {
        name: [(i, first[f]) for i, text in enumerate(part.texts) if (f := _fold(text)) in first]
        for name, part in parts.items()
        if name != "train"
    }
    tally = _counter(train)
    labels = {name: tally(part) for name, part in parts.items()}
    return Description(
        rows={name: len(part) for name, part in parts.items()},
        labels=labels,
        numbers={name: _numbers(part) for name, part in parts.items() if part.kind == "number"},
        duplicates=len(repeated),
        conflicts=len(conflicts),
        conflict_examples=[
            {
                "labels": [str(train.labels[i]) for i in pair],
                "where": [train.where[i] for i in pair],
            }
            for pair in sorted(conflicts.items())[:EXAMPLES]
        ],
        in_train={name: len(found) for name, found in in_train.items()},
        in_train_examples={
            name: [
                {"where": parts[name].where[i], "train": train.where[j]}
                for i, j in found[:EXAMPLES]
            ]
            for name, found in in_train.items()
        },
        unknown={
            name: {label: n for label, n in labels[name].items() if label not in labels["train"]}
            for name in in_train
        },
        similar=_similar({label for found in labels.values() for label in found}),
    )


def _counter(train: Labelled) -> Callable[[Labelled], dict[str, int]]:
    """Return the function that counts examples by label, or entities by type."""
    scheme: Scheme = scheme_of(train.labels) if train.kind == "tags" else "BIO"

    def tally(part: Labelled) -> dict[str, int]:
        found: Iterable[str] = ()
        if part.kind == "single":
            found = part.labels
        elif part.kind == "multi":
            found = (name for names in part.labels for name in names)
        elif part.kind == "tags":
            found = (span.type for tags in part.labels for span in spans(tags, scheme))
        counts = Counter(found)
        return {name: counts[name] for name in sort_names(counts)}

    return tally


def _numbers(part: Labelled) -> dict[str, float]:
    values = np.asarray(part.labels, np.float64)
    return {"min": float(values.min()), "mean": float(values.mean()), "max": float(values.max())}


def _fold(text: str | tuple[str, str] | list[str]) -> str:
    """Return a text, a pair or words in lower case, without repeated white space."""
    if isinstance(text, list):
        text = " ".join(text)
    if isinstance(text, tuple):
        return "\0".join(map(_fold, text))
    return " ".join(text.casefold().split())


def _label(part: Labelled, index: int) -> Any:
    label = part.labels[index]
    return sorted(label) if part.kind == "multi" else label


def _similar(names: Iterable[str]) -> list[list[str]]:
    """Return the groups of names that differ only in case or white space."""
    groups: dict[str, list[str]] = {}
    for name in sort_names(names):
        groups.setdefault("".join(name.casefold().split()), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _listed(counts: dict[str, int]) -> str:
    """Return counts by label as text, the first labels of many."""
    shown = {name: name if name.isprintable() else repr(name) for name in counts}
    found = [f"{shown[name]} {count:,}" for name, count in counts.items()]
    more = f", ... ({len(found):,} labels)" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more
