"""A document, and the bytes of a file on the way to it."""

import bz2
import gzip
import os
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DamagedError, NotTextError, require_extra

PACKED = (".gz", ".dz", ".bz2", ".zst")  # .dz: dictzip, which is gzip
CHUNK = 1 << 16
LARGEST = 1 << 28  # bytes of a file that is one document, and of a line
RATIO = 1000  # more than that is no text but a bomb


@dataclass(frozen=True, slots=True)
class Document:
    """A text and where it came from: a path, or path:line in a .jsonl file."""

    text: str
    source: str


def name_of(path: Path) -> str:
    """A path for reports; what is not UTF-8 in it becomes a replacement character."""
    return os.fsencode(path).decode("utf-8", errors="replace")


def plain_name(path: Path) -> str:
    """The name in lower case, without the suffix of a compression."""
    name = path.name.lower()
    for suffix in PACKED:
        name = name.removesuffix(suffix)
    return name


def chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, decompressed where its suffix says so.

    Raises:
        OSError: it cannot be read.
        DamagedError: it is cut short or damaged, or becomes more than 1,000 times as large.
    """
    opened, damage = _open(path)
    limit = max(LARGEST, RATIO * path.stat().st_size)
    total = 0
    with opened as file:
        while True:
            try:
                chunk = file.read(CHUNK)
            except damage as error:
                raise DamagedError(f"cannot be read to its end ({error})", name_of(path)) from error
            if not chunk:
                return
            total += len(chunk)
            if total > limit and path.suffix.lower() in PACKED:
                raise DamagedError(f"decompresses to more than {limit:,} bytes", name_of(path))
            yield chunk


def whole(path: Path) -> bytes:
    """All bytes of a file that is one document; errors as `chunks`, NotTextError if too long."""
    parts, total = [], 0
    for chunk in chunks(path):
        total += len(chunk)
        if total > LARGEST:
            raise NotTextError(f"more than {LARGEST:,} bytes in one document", name_of(path))
        parts.append(chunk)
    return b"".join(parts)


def decode(data: bytes, where: str, encoding: str = "utf-8") -> str:
    """Bytes to text, without a byte order mark.

    Raises:
        NotTextError: it is not in this encoding, or has NUL characters in it.
    """
    try:
        text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        what = f"not {encoding.upper()} text"
        raise NotTextError(what, f"{where}, byte {error.start}") from error
    if "\0" in text:
        raise NotTextError("a binary file, not text", f"{where}, character {text.index(chr(0))}")
    return text


def _open(path: Path) -> tuple[Any, tuple[type[Exception], ...]]:
    """The file, and what reading it raises where it is damaged."""
    suffix = path.suffix.lower()
    if suffix in (".gz", ".dz"):
        return gzip.open(path, "rb"), (gzip.BadGzipFile, EOFError, zlib.error)
    if suffix == ".bz2":
        return bz2.open(path, "rb"), (OSError, EOFError)
    if suffix == ".zst":
        zstd = require_extra(
            "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd", "data"
        )
        return zstd.open(path, "rb"), (zstd.ZstdError, EOFError)
    return path.open("rb"), ()
