"""Labelled texts of a router: which targets, such as LLMs, answer a text well."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from ..core.routing import is_good
from ..errors import DamagedError, InputError
from .columns import Columns, find_text
from .labelled import Labelled, from_records
from .readers.document import Record, name_of
from .readers.records import records

LABELS = "\0"  # the key of the targets in a record; no column has this name


def read_outcomes(
    path: str | Path, targets: Sequence[str], text: str | None = None, good: float = 0.5
) -> Labelled:
    """Read texts; the labels of a text are the targets that answer it well, any number of them.

    Args:
        path: see `readers.records.records`; a row has a text and an outcome of each target.
        targets: the columns of the outcomes, see `core.routing.is_good`.
        text: the column of the texts; None finds it by its usual names.
        good: the lowest number that is a good answer.

    Raises:
        InputError: the file cannot be read, a column or a value is missing, or an outcome is not a
            number. The error names the line or the row.
    """
    rows = records(path)
    first = next(rows, None)
    if isinstance(first, Record):
        text = find_text(list(first.values), text, first.where)

    def labelled(row: Record | DamagedError) -> Record | DamagedError:
        if isinstance(row, DamagedError):
            return row
        labels = [target for target in targets if _is_good(row, target, good)]
        return Record({**row.values, LABELS: labels}, row.where)

    found = map(labelled, chain([] if first is None else [first], rows))
    columns = Columns(text, None, LABELS)
    return from_records(found, "classify", columns, "multi", name_of(Path(path)))


def _is_good(row: Record, target: str, good: float) -> bool:
    if target not in row.values:
        listed = ", ".join(f'"{name}"' for name in row.values)[:300]
        how = f"every row needs an outcome of each target; its columns are {listed}"
        raise InputError(f'there is no column "{target}"', row.where, how)
    return is_good(row.values[target], good, f'{row.where}, column "{target}"')
