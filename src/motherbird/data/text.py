"""Read text from a file, a folder, or .jsonl[.gz|.zst]."""

import gzip
import logging
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DamagedError, InputError, need
from ..files import parse_json

log = logging.getLogger(__name__)

JSONL = (".jsonl", ".jsonl.gz", ".jsonl.zst")
_PLAIN = """.txt .md .rst .tex .py .pyi .c .h .cc .cpp .hpp .cs .java .js .jsx .ts .tsx .go .rs
.rb .php .swift .kt .scala .sh .sql .r .jl .lua .toml .yaml .yml"""
SUFFIXES = (*_PLAIN.split(), *JSONL)


@dataclass(frozen=True, slots=True)
class Document:
    """A text and where it came from: a path, or path:line in a .jsonl file."""

    text: str
    source: str


def read(path: str | Path, *, keep_empty: bool = False) -> Iterator[Document]:
    """Yield the documents of a file, or of every text file below a folder, in order of names.

    A file of a folder that is unreadable or no UTF-8 text is skipped, named and counted in the log;
    links are not followed. Empty documents are left out unless ``keep_empty``.

    Raises:
        InputError: the path is missing, or holds no text.
        DamagedError: a line of a .jsonl file is not an object with a field "text", a compressed
            file is cut short, or a file that was named itself is not UTF-8.
    """
    path = Path(path)
    if path.is_file():
        documents = _read_file(path)
    elif path.is_dir():
        documents = _read_folder(path)
    else:
        raise InputError("there is no such file or folder", str(path))
    found = False
    for document in documents:
        if keep_empty or document.text.strip():
            found = True
            yield document
    if not found:
        raise InputError("no text was found", str(path), "give text files, sources or .jsonl")


def _read_folder(folder: Path) -> Iterator[Document]:
    skipped = []
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if hidden or path.is_symlink() or not path.is_file():
            continue
        if not path.name.lower().endswith(SUFFIXES):
            continue
        try:
            yield from _read_file(path)
        except DamagedError as error:
            if path.name.lower().endswith(JSONL):
                raise
            skipped.append(error.where)
        except OSError:
            skipped.append(str(path))
    if skipped:
        names = "; ".join(skipped[:10]) + ("; ..." if skipped[10:] else "")
        log.warning("skipped %d files that are no UTF-8 text: %s", len(skipped), names)


def _read_file(path: Path) -> Iterator[Document]:
    if path.name.lower().endswith(JSONL):
        yield from _read_jsonl(path)
        return
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DamagedError("not UTF-8 text", f"{path}, byte {error.start}") from error
    if "\0" in text:
        raise DamagedError("a binary file, not text", f"{path}, character {text.index(chr(0))}")
    yield Document(text, str(path))


def _read_jsonl(path: Path) -> Iterator[Document]:
    number = 0
    stream, damage = _open(path)
    try:
        with stream as file:
            for number, line in enumerate(_lines(file), 1):
                if line.strip():
                    yield Document(_text_of(line, f"{path}:{number}"), f"{path}:{number}")
    except (EOFError, zlib.error, damage) as error:
        where = f"{path}, after line {number}"
        raise DamagedError(f"cannot be read to its end ({error})", where) from error


def _lines(file: Any) -> Iterator[bytes]:
    """Lines of bytes, every whole one before the place where reading fails."""
    rest = b""
    while chunk := file.read(1 << 13):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _text_of(line: bytes, where: str) -> str:
    """The field "text" of one line of JSON; a lone surrogate in it is no text."""
    try:
        row = parse_json(line.decode("utf-8-sig"))
        if isinstance(row, dict) and isinstance(row.get("text"), str):
            row["text"].encode()
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"not a line of JSON ({error})", where) from error
    text = row.get("text") if isinstance(row, dict) else None
    if not isinstance(text, str):
        raise DamagedError('not an object with a string field "text"', where)
    return text


def _open(path: Path) -> tuple[Any, type[Exception]]:
    """The decompressed bytes, and what reading them raises where they are damaged."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rb"), OSError
    if path.suffix.lower() == ".zst":
        home = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        zstd = need(home, "train")
        return zstd.open(path, "rb"), zstd.ZstdError
    return path.open("rb"), OSError
