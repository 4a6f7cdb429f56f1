"""Lines of JSON: each is an object with a document in one of its fields."""

from collections.abc import Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from ...errors import DamagedError, NotTextError, RowError
from ...files import parse_json
from .document import CONVERT, Document, decode, lines, name_of, text_of

SUFFIXES = (".jsonl", ".ndjson")


def read(path: Path, field: str, encoding: str) -> Iterator[Document | DamagedError]:
    """Yield the field of every line, or an error for a line without it; always UTF-8."""
    for number, row in _rows(path):
        is_error = isinstance(row, DamagedError)
        yield row if is_error else text_of(row, field, f"{name_of(path)}:{number}")


def rows(path: Path) -> Iterator[Any]:
    """Yield the value of every line, or raise DamagedError."""
    for _, row in _rows(path):
        if isinstance(row, DamagedError):
            raise row
        yield row


def _rows(path: Path) -> Iterator[tuple[int, Any]]:
    number, name = 0, name_of(path)
    try:
        for number, line in enumerate(lines(path), 1):
            if number == 1 and b"\0" in line:  # not JSON, but UTF-16 or a binary file
                decode(line, name)
            if line.strip():
                reason, how = "", ""
                try:
                    row = parse_json(line.decode("utf-8-sig"))
                except UnicodeDecodeError as error:
                    reason, how = f"byte {error.start} is not UTF-8", CONVERT
                except JSONDecodeError as error:
                    reason, how = f"{error.msg}, at column {error.colno}", "repair it"
                    if not line.endswith((b"\n", b"\r")):
                        how = "repair it, or copy the file again if it is cut"
                except (ValueError, RecursionError) as error:
                    reason = str(error)
                if reason:
                    row = RowError(f"the line is not JSON ({reason})", f"{name}:{number}", how)
                yield number, row
    except NotTextError as error:
        raise DamagedError(error.what, error.where, error.how) from error
    except DamagedError as error:
        raise DamagedError(error.what, f"{name}, after line {number}", error.how) from error
