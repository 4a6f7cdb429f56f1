"""Records: rows of tables, lines of JSON, and rows of datasets, with their values by name."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ...errors import DamagedError, InputError
from . import TABLES, arrow, jsonl, tables
from .document import Record, errors_as_items, missing, plain_name
from .formats import jsonl_hint

SUFFIXES = (*jsonl.SUFFIXES, *TABLES, ".parquet")


def records(path: str | Path, columns: Sequence[str] = ()) -> Iterator[Record | DamagedError]:
    """Return the records of a file or a dataset, and errors in place of what cannot be read.

    With ``columns``, a table has to have these, and its other columns are not read; lines of JSON
    and datasets are not checked.

    The path is a .jsonl, .csv or .tsv file in UTF-8 (also compressed), a .parquet file, or a
    directory that `datasets.Dataset.save_to_disk` wrote. Values of .csv and .tsv files are strings.

    Raises:
        InputError: the path is missing, or is something else.
    """
    path = Path(path)
    if not path.exists():
        raise missing(path)
    found: Iterable[Record | DamagedError]
    name = plain_name(path)
    if path.is_dir():
        found = arrow.dataset_records(path)
    elif name.endswith(jsonl.SUFFIXES):
        found = jsonl.records(path)
    elif name.endswith(TABLES):
        found = tables.records(path, columns)
    elif name.endswith(".parquet"):
        found = arrow.records(path, columns)
    elif name.endswith(".json"):
        raise InputError("a .json file has no rows", str(path), jsonl_hint(path))
    else:
        how = f"use a file that ends in {', '.join(SUFFIXES)}"
        raise InputError("the file is not a table", str(path), how)
    return errors_as_items(path, found)
