"""Lines of JSON: each is an object, a record, with a document in one of its fields."""

import codecs
from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from ...errors import DamagedError, NotTextError, RowError
from ...files import parse_json
from .document import (
    BINARY,
    CONVERT,
    Document,
    Record,
    decode,
    describe_type,
    lines,
    name_of,
    text_of,
)

SUFFIXES = (".jsonl", ".ndjson")
ONE_LINE = "write one object per line, as jq -c does (of an array: jq -c '.[]')"


def read(path: Path, field: str, encoding: str) -> Iterator[Document | DamagedError]:
    """Yield the field of every line, or an error for a line without it; always UTF-8."""
    for number, row in _rows(path):
        is_error = isinstance(row, DamagedError)
        yield row if is_error else text_of(row, field, f"{name_of(path)}:{number}")


def records(path: Path) -> Iterator[Record | DamagedError]:
    """Yield every line, or an error for a line that is not an object; always UTF-8."""
    for number, row in _rows(path):
        where = f"{name_of(path)}:{number}"
        if isinstance(row, DamagedError):
            yield row
        elif isinstance(row, dict):
            yield Record(row, where)
        else:
            yield RowError(f"the line is {describe_type(row)}, not an object", where, ONE_LINE)


def rows(path: Path) -> Iterator[Any]:
    """Yield the value of every line, or raise DamagedError."""
    for _, row in _rows(path):
        if isinstance(row, DamagedError):
            raise row
        yield row


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    number, name, is_first = 0, name_of(path), True
    try:
        for number, line in enumerate(lines(path), 1):
            if number == 1 and (b"\0" in line or line.startswith(BINARY)):  # or UTF-16
                decode(line, name)
            if not line.strip():
                continue
            if is_first and (other := _other_json(line)):
                yield number, DamagedError(f"this is {other}, not JSON lines", name, ONE_LINE)
                return
            is_first = False
            yield number, _value(line, f"{name}:{number}")
    except NotTextError as error:
        raise DamagedError(error.what, error.where, error.how) from error
    except DamagedError as error:
        raise DamagedError(error.what, f"{name}, after line {number}", error.how) from error


def _other_json(first_line: bytes) -> str:
    """Return what JSON a file is if it is not JSON lines, by its first line, or ""."""
    start = first_line.removeprefix(codecs.BOM_UTF8).strip()
    if start[:1] == b"[":
        return "a JSON array"
    is_cut = not first_line.endswith((b"\n", b"\r"))
    return "JSON of several lines" if start == b"{" and not is_cut else ""


def _value(line: bytes, where: str) -> Any:
    """Return the value of a line, or the error."""
    how = ""
    try:
        # Without the line end, after which a column would be one of the next line.
        return parse_json(line.decode("utf-8-sig").rstrip("\r\n"))
    except UnicodeDecodeError as error:
        reason, how = f"byte {error.start} is not UTF-8", CONVERT
    except JSONDecodeError as error:
        reason = f"{error.msg.removesuffix(' at')}, at column {error.colno}"
        is_cut = not line.endswith((b"\n", b"\r"))
        how = "repair it" + ", or copy the file again if it is cut" * is_cut
    except (ValueError, RecursionError) as error:
        reason = str(error)
    return RowError(f"the line is not JSON ({reason})", where, how)
