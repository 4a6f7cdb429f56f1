"""Documents, records, and the bytes of files, decompressed and decoded."""

import bz2
import codecs
import gzip
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any, TypeVar

from ...errors import (
    DamagedError,
    FieldError,
    InputError,
    NotTextError,
    RowError,
    RowFieldError,
    require_extra,
)
from ...files import LFS_POINTER, check_utf_8

T = TypeVar("T")

COMPRESSED = (".gz", ".dz", ".bz2", ".zst")  # .dz: dictzip, which is gzip
CHUNK = 1 << 16
LARGEST = 1 << 28  # maximum bytes of a document or a line
MARKS = {  # UTF-32 first: its mark begins with that of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
WIDE = ("utf-16", "utf-32")  # encodings in which the mark of UTF-8 can be text
CONVERT = (
    "convert it with iconv -f ENCODING -t UTF-8, where ENCODING is that of the program that wrote "
    "it, such as WINDOWS-1252 (Western Europe), GB18030 (Chinese) or SHIFT_JIS (Japanese)"
)
SIGNATURES = {  # the first bytes of a file, and what to do about it
    b"PK\x03\x04": "save a table as .csv, .tsv, .jsonl or .parquet; unpack an archive first",
    b"\x1f\x8b": "add .gz to its name, or unpack it",
    b"BZh": "add .bz2 to its name, or unpack it",
    b"\x28\xb5\x2f\xfd": "add .zst to its name, or unpack it",
    b"PAR1": "add .parquet to its name",
}
BINARY = tuple(SIGNATURES)
OTHER_ENCODING = "set encoding in the mixture to that of the file"
_URL = re.compile("[a-z][a-z0-9+]+:/")  # also as a `Path`, which has one slash
SHOWN = 20  # names of fields in an error
MAX_RATIO = 1000  # of decompressed to compressed size; more is a decompression bomb


@dataclass(frozen=True, slots=True)
class Document:
    """A text and its origin: a path, or path:line in a .jsonl file."""

    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Record:
    """A row of a table, or a line of JSON: values by name, and where it is, such as "a.csv:7"."""

    values: dict[str, Any]
    where: str


def name_of(path: Path) -> str:
    """Return a path as text for reports."""
    return os.fsencode(path).decode("utf-8", errors="replace")


def plain_name(path: PurePath) -> str:
    """Return the file name in lower case, without a suffix of compression."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return name


def chunks(path: Path) -> Iterator[bytes]:
    """Yield the bytes of a file, decompressed according to its suffix.

    Raise DamagedError if it is truncated or damaged, or grows by more than 1,000 times.
    """
    opened, damage = _open(path)
    limit = max(LARGEST, MAX_RATIO * path.stat().st_size)
    total = 0
    with opened as file:
        try:
            while chunk := file.read1(CHUNK):  # `read` loses what precedes the damage
                total += len(chunk)
                if total > limit and path.suffix.lower() in COMPRESSED:
                    raise DamagedError(f"the file unpacks to over {limit:,} bytes", name_of(path))
                yield chunk
        except damage as error:
            what = f"the file cannot be read to its end ({error})"
            raise DamagedError(what, name_of(path)) from error


def missing(path: str | Path, how: str = "") -> InputError:
    """Return the error for a path that does not exist."""
    check_local(path)
    return InputError("the file or directory does not exist", str(path), how)


def check_local(path: str | Path) -> None:
    """Raise InputError if a path is a URL, or is not UTF-8."""
    check_utf_8(str(path))
    if _URL.match(str(path)):
        raise InputError("URLs are not read", str(path), "download the file")


def check_pointer(path: Path) -> None:
    """Raise NotTextError if a file is a Git LFS pointer."""
    if not path.is_file():  # a pipe can be read only once
        return
    with path.open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            what = "a Git LFS pointer in place of the file"
            raise NotTextError(what, name_of(path), "download the files with git lfs pull")


def errors_as_items(path: Path, items: Iterable[T]) -> Iterator[T | DamagedError]:
    """Yield what is read from a file, and the error that ends reading it as the last item."""
    try:
        check_pointer(path)
        yield from items
    except DamagedError as error:
        yield error
    except OSError as error:
        yield NotTextError(f"the file cannot be read ({error.strerror})", name_of(path))


def whole(path: Path) -> bytes:
    """Return all bytes of a file; raises as `chunks`, and NotTextError if it is too large."""
    parts, total = [], 0
    for chunk in chunks(path):
        total += len(chunk)
        if total > LARGEST:
            raise NotTextError(f"more than {LARGEST:,} bytes in one document", name_of(path))
        parts.append(chunk)
    return b"".join(parts)


def lines(path: Path, encoding: str = "utf-8") -> Iterator[bytes]:
    """Yield lines with their ends: LF, CR LF, or CR.

    If the line ends of an encoding are not those of ASCII (UTF-16), lines are converted to UTF-8.

    If reading fails, yield all complete lines before that.
    """
    found = chunks(path) if has_ascii_ends(encoding) else _converted(path, encoding)
    return split_lines(found, name_of(path))


def split_lines(found: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Yield the `lines` of the bytes of a file, which come in chunks."""
    parts: list[bytes] = []
    length = 0
    held = b""  # a CR, which an LF in the next chunk may follow
    for chunk in found:
        chunk = held + chunk
        held = b"\r" if chunk.endswith(b"\r") else b""
        for line in chunk.removesuffix(held).splitlines(keepends=True):
            parts.append(line)
            length += len(line)
            if line.endswith((b"\n", b"\r")):
                yield b"".join(parts)
                parts, length = [], 0
        if length > LARGEST:
            raise DamagedError(f"a line of more than {LARGEST:,} bytes", name)
    if parts or held:
        yield b"".join([*parts, held])


def text_lines(path: Path, encoding: str) -> Iterator[str]:
    """Yield the `lines` of a file as text; NotTextError if one is not in the encoding."""
    own = encoding if has_ascii_ends(encoding) else "utf-8"
    for number, line in enumerate(lines(path, encoding), 1):
        yield decode(line, f"{name_of(path)}:{number}", own)


def has_ascii_ends(encoding: str) -> bool:
    """Return whether the line ends of an encoding are those of ASCII."""
    return "\n".encode(encoding) == b"\n"


def _converted(path: Path, encoding: str) -> Iterator[bytes]:
    """Yield the bytes of a file in UTF-8; NotTextError if they are invalid."""
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for chunk in chunks(path):
            yield decoder.decode(chunk).encode()
        yield decoder.decode(b"", final=True).encode()
    except UnicodeError as error:
        raise NotTextError(f"not {encoding.upper()} text", name_of(path), OTHER_ENCODING) from error


def decode(data: bytes, where: str, encoding: str = "utf-8") -> str:
    """Return bytes as text without a byte order mark; NotTextError if invalid or with NULs.

    The error names the encoding that text which is not UTF-8 seems to have.

    Text with the mark of UTF-8 is decoded as UTF-8, even if another encoding is given; if it is
    not valid, only the mark is removed. In UTF-16 and UTF-32 these bytes can be text.
    """
    start = 0
    if data.startswith(codecs.BOM_UTF8) and codecs.lookup(encoding).name[:6] not in WIDE:
        start = len(codecs.BOM_UTF8)
        with suppress(UnicodeDecodeError):
            data.decode("utf-8")
            encoding = "utf-8"
    try:
        text = data[start:].decode(encoding)
    except UnicodeDecodeError as error:
        raise _not_text(data, f"{where}, byte {start + error.start}", encoding) from error
    if "\0" in text:
        raise _not_text(data, f"{where}, character {text.index(chr(0))}", encoding)
    return text.removeprefix("\ufeff")  # that of UTF-16LE and the like


def _not_text(data: bytes, where: str, encoding: str) -> NotTextError:
    """Return the error for bytes that are not text, with the encoding that they seem to have."""
    what = f"not {encoding.upper()} text"
    start = data[:1000]
    for signature, how in SIGNATURES.items():
        if start.startswith(signature):
            return NotTextError("a binary file, not text", where, how)
    found = next((name for mark, name in MARKS.items() if start.startswith(mark)), "")
    if not found and b"\0" in data and has_ascii_ends(encoding):
        low, high = start[::2].count(0), start[1::2].count(0)
        if min(low, high) or max(low, high) <= len(start) // 4:
            how = "unpack it first" if start[257:262] == b"ustar" else "convert it to text"
            return NotTextError("a binary file, not text", where, how)
        found = "UTF-16LE" if high else "UTF-16BE"
    if codecs.lookup(encoding).name != "utf-8":
        return NotTextError(what, where, OTHER_ENCODING)
    if not found:
        return NotTextError(what, where, CONVERT)
    how = f"convert it, as with iconv -f {found} -t UTF-8"
    return NotTextError(f"{what}; it seems to be {found}", where, how)


def check_columns(names: Sequence[str], columns: Sequence[str], where: str) -> None:
    """Raise FieldError unless a table has each of the columns once; all of its own without any."""
    for column in columns or names:
        if names.count(column) != 1:
            what = "two columns are" if column in names else "no column is"
            raise FieldError(f'{what} called "{column}"', where, _fields_hint(names, "column"))


def _fields_hint(names: Iterable[str], noun: str = "field") -> str:
    """Return the fields that there are, for an error about one that is missing."""
    fields = [f'"{name}"' for name in names]
    more = ", ..." if len(fields) > SHOWN else ""
    return f"{noun}s: {', '.join(fields[:SHOWN])[:300]}{more}" if fields else f"it has no {noun}s"


def describe_type(value: Any) -> str:
    """Return the type of a value of JSON or of a table, for an error."""
    names = {"NoneType": "null", "bool": "a boolean", "int": "a number", "float": "a number",
             "str": "a string", "list": "a list", "dict": "an object"}  # fmt: skip
    name = type(value).__name__
    return names.get(name, f"of type {name}")


def text_of(row: Any, field: str, where: str) -> Document | RowError:
    """Return the text in a field of a row (JSON), or the error for a row without it."""
    if not isinstance(row, dict):
        return RowError(f'not an object with a string field "{field}"', where)
    text = row.get(field)
    if isinstance(text, str):
        return Document(text, where)
    what = f'no text in field "{field}"'
    if field in row:
        what = f'field "{field}" is {describe_type(text)}, not text'
    if not row.keys() - {field}:  # no other field can be meant
        return RowError(what, where, f'write an object with a string field "{field}"')
    return RowFieldError(what, where, _fields_hint(row))


def column_texts(
    records: Iterable[Record | DamagedError], column: str
) -> Iterator[Document | DamagedError]:
    """Yield a column of a table, or an error for a row in which it is not text."""
    for record in records:
        if isinstance(record, DamagedError):
            yield record
        elif isinstance(text := record.values[column], str):
            yield Document(text, record.where)
        else:
            yield RowError(f'column "{column}" is {describe_type(text)}, not text', record.where)


def zstd() -> ModuleType:
    """Return the module for zstd, or raise MissingExtraError."""
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return require_extra(name, "data")


def _open(path: Path) -> tuple[Any, tuple[type[Exception], ...]]:
    """Open a file; returns it with the exceptions that reading it raises if it is damaged."""
    suffix = path.suffix.lower()
    if suffix in (".gz", ".dz"):
        return gzip.open(path, "rb"), (gzip.BadGzipFile, EOFError, zlib.error)
    if suffix == ".bz2":
        return bz2.open(path, "rb"), (OSError, EOFError)
    if suffix == ".zst":
        module = zstd()
        return module.open(path, "rb"), (module.ZstdError, EOFError)
    return path.open("rb"), ()
