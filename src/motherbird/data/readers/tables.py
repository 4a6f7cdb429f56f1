"""Tables: .csv and .tsv files with a header (RFC 4180)."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from ...errors import DamagedError, RowError, counted
from .document import (
    LARGEST,
    Document,
    Record,
    check_columns,
    column_texts,
    name_of,
    plain_name,
    text_lines,
)

QUOTES = "write the text in double quotes, with two of them for a quote in it"


def read(path: Path, field: str, encoding: str) -> Iterator[Document | DamagedError]:
    """Yield the column ``field`` of every row, or an error for a row without it."""
    yield from column_texts(records(path, [field], encoding), field)


def records(
    path: Path, columns: Sequence[str] = (), encoding: str = "utf-8"
) -> Iterator[Record | DamagedError]:
    """Yield every row, with these columns or with all, or an error for a row with other values.

    A quoted value may contain separators and line breaks. Rows are named by the line on which they
    end.
    """
    name = name_of(path)
    csv.field_size_limit(LARGEST)
    tab = plain_name(path).endswith(".tsv")
    lines = text_lines(path, encoding)
    rows = csv.reader(lines, delimiter="\t" if tab else ",", strict=True)
    last = 0  # the line on which the last whole row ends
    try:
        header = next(rows, [])
        if not header:
            raise DamagedError("the table is empty", name, "write a header and rows")
        if not columns or not set(columns) <= set(header):
            _check_separator(header, tab, name)
        check_columns(header, columns, name)
        indices, last = [header.index(column) for column in columns or header], rows.line_num
        for row in rows:
            last, where = rows.line_num, f"{name}:{rows.line_num}"
            if len(row) == len(header):
                yield Record({header[index]: row[index] for index in indices}, where)
            elif row:
                what = f"the row has {counted(len(row), 'value')}, the header {len(header)}"
                how = "write a value for each column"
                if len(row) > len(header):
                    how = "put a value with separators in double quotes"
                yield RowError(what, where, how)
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            how = f"close it, or {QUOTES}"
            raise DamagedError("a quote is not closed", f"{name}:{last + 1}", how) from error
        reason = str(error).replace("\t", r"\t")
        what = f"the row is not {'TSV' if tab else 'CSV'} ({reason})"
        how = QUOTES if "expected after" in reason else ""
        raise DamagedError(what, f"{name}:{rows.line_num}", how) from error


def _check_separator(header: list[str], tab: bool, name: str) -> None:
    """Raise DamagedError if the header seems to have another separator than the suffix says."""
    if len(header) != 1:
        return
    for separator, shown in ((";", "';'"), ("\t", "tabs"), (",", "','"), ("|", "'|'")):
        if separator in header[0]:
            what = f"the columns seem to be separated by {shown}, not {'tabs' if tab else 'commas'}"
            named = {"\t": "rename it to .tsv", ",": "rename it to .csv"}
            how = named.get(separator, "save it with commas, as .csv, or with tabs, as .tsv")
            raise DamagedError(what, name, how)
