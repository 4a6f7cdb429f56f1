"""Labelled data for fine-tuning: examples are read, checked and divided before training starts."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Int
from ..core.arguments import check_integer, check_text
from ..core.measure import Kind
from ..core.rng import random_bits
from ..core.spans import scheme_of
from ..errors import DamagedError, InputError, counted
from .columns import NAMES, Columns, Task, find_columns
from .readers.document import Record, describe_type, name_of
from .readers.records import records

__all__ = [
    "Columns", "Kind", "Labelled", "Task", "check_training", "from_records", "read_labelled",
    "split_off",
]  # fmt: skip

QUANTILES = 10  # strata of numbers
SPLIT = 0x73706C6974  # first part of the key of the random numbers of `split_off`


@dataclass(frozen=True)
class Labelled:
    """Examples with labels.

    Attributes:
        texts: a text, a pair of texts (a tuple), or a list of words for each example.
        labels: a name ("single"), a list of names ("multi"), a list of tags, one for each word
            ("tags"), or a float ("number") for each example.
        where: where each example is, such as "train.csv:7".
        kind: type of the labels.
    """

    texts: list[Any]
    labels: list[Any]
    where: list[str]
    kind: Kind

    def __len__(self) -> int:
        return len(self.texts)

    def names(self) -> list[str]:
        """Return the distinct labels or tags, sorted; integers are sorted by value."""
        if self.kind == "number":
            return []
        nested = self.kind != "single"
        return sort_names({n for each in self.labels for n in (each if nested else [each])})

    def select(self, indices: Sequence[int] | Int[np.ndarray, " S"]) -> "Labelled":
        """Return the examples at some indices."""
        texts, labels, where = (
            [items[i] for i in indices] for items in (self.texts, self.labels, self.where)
        )
        return Labelled(texts, labels, where, self.kind)


def sort_names(names: Iterable[str]) -> list[str]:
    """Return names of labels, sorted; integers are sorted by value."""
    return sorted(names, key=lambda name: (0, int(name), name) if _is_int(name) else (1, 0, name))


def _is_int(name: str) -> bool:
    return name.removeprefix("-").isascii() and name.removeprefix("-").isdigit() and len(name) < 19


def read_labelled(
    path: str | Path, task: Task, columns: Columns | None = None, kind: Kind | None = None
) -> Labelled:
    """Read examples from a .jsonl, .csv, .tsv or .parquet file, or a directory of a dataset.

    See `readers.records.records` for the files, and `from_records` for the examples.

    Args:
        path: file or directory.
        task: "classify", "tag" or "score".
        columns: names of columns; others are found by their usual names.
        kind: type of the labels; None finds it. Pass that of the training data for other data.

    Raises:
        InputError: the file cannot be read, a column is missing, or an example cannot be used. The
            error names the line or the row.
    """
    return from_records(records(path), task, columns, kind, name_of(Path(path)))


def from_records(
    rows: Iterable[Record | DamagedError],
    task: Task,
    columns: Columns | None = None,
    kind: Kind | None = None,
    source: str = "",
) -> Labelled:
    """Return the examples of records.

    Task "classify" takes a text and its label: a string, an integer, a boolean (which becomes
    "true" or "false"), or a list of them, of which several or none may apply. Task "tag" takes a
    list of words and a list of their tags. Task "score" takes two texts and a number, or a label.
    Its labels are numbers if at least half of them are, unless all are integers in a column with a
    usual name of labels.

    Args:
        rows: records, or errors in place of them.
        task: "classify", "tag" or "score".
        columns: see `read_labelled`.
        kind: see `read_labelled`.
        source: name of the file, for errors.

    Raises:
        InputError: there are no records, one of them is an error, a column is missing, or an
            example cannot be used: its text or label is missing or empty, its score is not a finite
            number, or it has more or fewer tags than words.
    """
    found: tuple[tuple[str, ...], str] | None = None
    texts: list[Any] = []
    values: list[Any] = []
    where: list[str] = []
    for row in rows:
        if isinstance(row, DamagedError):
            raise InputError(row.what, row.where, row.how) from row
        found = found or find_columns(list(row.values), task, columns or Columns(), row.where)
        inputs = [_input(row, column, task) for column in found[0]]
        texts.append(tuple(inputs) if task == "score" else inputs[0])
        values.append(_present(row, found[1]))
        where.append(row.where)
    if found is None:
        raise InputError("there are no examples", source, "write one example per row")
    kind = kind or _kind(task, found[1], values)
    named = [f'{each}, column "{found[1]}"' for each in where]
    labels = [_READ[kind](value, each) for value, each in zip(values, named, strict=True)]
    if kind == "tags":
        for words, tags, each in zip(texts, labels, where, strict=True):
            if len(words) != len(tags):
                what = f"there are {counted(len(words), 'word')} and {counted(len(tags), 'tag')}"
                raise InputError(what, each, "write one tag for each word")
        _check_scheme(labels, source)
    return Labelled(texts, labels, where, kind)


def _kind(task: Task, column: str, values: Sequence[Any]) -> Kind:
    """Return the type of labels; integers of pairs are labels if the name of the column says so."""
    if task == "tag":
        return "tags"
    if task == "classify":
        return "multi" if isinstance(values[0], list) else "single"
    is_label = column.lower() in sum(NAMES, ())
    if is_label and all(_is_int(str(value)) for value in values):
        return "single"
    numbers = sum(_number(value) is not None for value in values)
    return "number" if 2 * numbers >= len(values) else "single"


def _present(row: Record, column: str) -> Any:
    """Return a value, or raise InputError if it is missing."""
    value = row.values.get(column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        what = "the value is missing" if column in row.values else "the column is missing"
        how = "write a value, or delete the row"
        raise InputError(what, f'{row.where}, column "{column}"', how)
    return value


def _input(row: Record, column: str, task: Task) -> str | list[str]:
    """Return a text, or a list of words."""
    value, where = _present(row, column), f'{row.where}, column "{column}"'
    if task != "tag":
        return check_text(value, where)
    if not (words := _strings(value, where, "word")):
        raise InputError("the list of words is empty", where, "delete the row")
    return words


def _strings(value: Any, where: str, noun: str) -> list[str]:
    """Return a list of strings that are not empty."""
    if not isinstance(value, list):
        what = f"the column has {describe_type(value)}, not a list of {noun}s"
        raise InputError(what, where, f"write a list of {noun}s; .csv and .tsv files have no lists")
    for number, item in enumerate(value, 1):
        if not isinstance(item, str):
            how = f"write the {noun}s as strings"
            raise InputError(f"{noun} {number} is {describe_type(item)}", where, how)
        check_text(item, f"{where}, {noun} {number}", allow_empty=True)
        if not item.strip():
            raise InputError(f"{noun} {number} is empty", where, "delete it with its tag or word")
    return value


def _name(value: Any, where: str) -> str:
    """Return the name of a label."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():  # as pandas stores integers
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        raise InputError("the label is a list", where, "write a list in every row, or in none")
    if not isinstance(value, str):
        how = "write a name or an integer; numbers are learned by the task score"
        raise InputError(f"the label is {describe_type(value)}: {value!r:.50}", where, how)
    check_text(value, where, allow_empty=True)
    if not value.strip():
        raise InputError("the label is empty", where, "write a label, or delete the row")
    if value.strip().lower() == "nan":
        how = "write a label, or delete the row; use another name if it is one"
        raise InputError(f"the label is {value.strip()}, a missing value", where, how)
    return value


def _names(value: Any, where: str) -> list[str]:
    """Return the names of the labels that apply, each once."""
    if not isinstance(value, list):
        how = "write a list in every row, or in none"
        raise InputError("the label is not a list, as those before it are", where, how)
    return list(dict.fromkeys(_name(each, where) for each in value))


def _number(value: Any) -> float | None:
    """Return a number, also one that is written as a string, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return None if isinstance(value, str) and "_" in value else float(value)
    except (ValueError, OverflowError):
        return None


def _score(value: Any, where: str) -> float:
    """Return a finite number."""
    number = _number(value)
    if number is not None and math.isfinite(number):
        return number
    what = f"the score is not a {'number' if number is None else 'finite number'}: {value!r:.50}"
    raise InputError(what, where, "write a number in every row, or a name in every row for classes")


_READ: dict[Kind, Callable[[Any, str], Any]] = {
    "single": _name,
    "multi": _names,
    "number": _score,
    "tags": lambda value, where: _strings(value, where, "tag"),
}


def _check_scheme(labels: Sequence[list[str]], source: str) -> None:
    """Raise InputError if tags have no common scheme."""
    try:
        scheme_of(labels)
    except InputError as error:
        raise InputError(error.what, source, error.how) from error


def check_training(train: Labelled, source: str = "") -> None:
    """Raise InputError if there is nothing to learn: one label only, or one number."""
    if train.kind == "tags":
        names = [name for name in train.names() if name != "O"]
        if names:
            return
        raise InputError('all tags are "O"', source, "use data with tagged words")
    seen = set(train.labels) if train.kind == "number" else train.names()
    if train.kind == "multi":
        if seen:
            return
        raise InputError("no row has a label", source, "use data with labels")
    if len(seen) < 2:
        shown = "".join(f': "{each}"' for each in seen)
        what = f"all {counted(len(train), 'row')} have the same label{shown}"
        raise InputError(what, source, "use data with two labels or more")


def split_off(
    labelled: Labelled, fraction: float, seed: int, source: str = ""
) -> tuple[Labelled, Labelled]:
    """Divide examples at random into those for training and those for evaluation.

    Every label, or every tenth of the numbers in ascending order, has the same fraction in both,
    up to one example; lists of labels or tags are divided without regard to them. At least one
    example of each label remains in the first part. The examples are in their order.

    Args:
        labelled: the examples, S of them.
        fraction: fraction of the second part, greater than 0 and at most 0.5. It has
            ``round(fraction * S)`` examples, at least one, if so many labels have two examples.
        seed: random seed; the same seed gives the same parts.
        source: name of the file, for errors.

    Raises:
        InputError: the fraction or the seed is invalid, or no example can be set aside.
    """
    check_integer(seed, "seed", 0, 2**64 - 1)
    if not 0 < fraction <= 0.5:
        raise InputError(f"invalid fraction {fraction}", how="use more than 0 and at most 0.5")
    total = len(labelled)
    strata = _strata(labelled)
    draws = random_bits((SPLIT, seed), np.arange(total + 1))
    order = np.lexsort((draws[:total], strata))
    if labelled.kind == "single":
        order = order[np.bincount(strata)[strata[order]] > 1]
    count = min(max(1, round(fraction * total)), len(order) // 2)
    if not count:
        how = "use more data, or give the data for evaluation"
        raise InputError("there are too few examples to set some aside", source, how)
    # One of every len(order) / count examples, 2 or more, so that each stratum has its fraction.
    start = float(draws[total] >> np.uint64(11)) / 2**53
    steps = ((np.arange(count) + start) * (len(order) / count)).astype(np.int64)
    chosen = np.zeros(total, bool)
    chosen[order[np.minimum(steps, len(order) - 1)]] = True
    return labelled.select(np.flatnonzero(~chosen)), labelled.select(np.flatnonzero(chosen))


def _strata(labelled: Labelled) -> Int[np.ndarray, " S"]:
    """Return the index of the stratum of each example."""
    total = len(labelled)
    if labelled.kind == "single":
        codes = {name: code for code, name in enumerate(labelled.names())}
        return np.array([codes[label] for label in labelled.labels], np.int64)
    strata = np.zeros(total, np.int64)
    if labelled.kind == "number":
        strata[np.argsort(labelled.labels, kind="stable")] = np.arange(total) * QUANTILES // total
    return strata
