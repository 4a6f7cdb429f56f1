"""What the index has of a file, and of a chunk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .chunks import Chunk


class State(NamedTuple):
    """By what a change of a file is noticed."""

    size: int  # bytes
    changed: int  # time of modification in nanoseconds; -1 if it says nothing


class InBytes(NamedTuple):
    """Vectors in 8 bits: n float32, and n times D int8 that they multiply."""

    scales: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """A file as it is stored.

    Attributes:
        path: relative to the directory, as the file system has it.
        state: that of the file when it was read.
        digest: of its content.
        language: see `chunks.language`.
        text: of the file.
        chunks: in order.
        terms: those of the path, the symbol and the text of each chunk, joined by spaces.
        vectors: of the chunks, by the name of the model.
    """

    path: bytes
    state: State
    digest: bytes
    language: str
    text: str
    chunks: Sequence[Chunk]
    terms: Sequence[tuple[str, str, str]]
    vectors: dict[str, InBytes]


@dataclass(frozen=True, slots=True)
class StoredChunk:
    """A chunk in the index."""

    id: int
    file: int
    path: bytes
    language: str
    chunk: Chunk


def defined_name(chunk: Chunk) -> str:
    """Return the last part of the symbol of a definition; empty for other chunks."""
    if chunk.kind in ("section", "text", "data"):
        return ""
    return chunk.symbol.replace("::", ".").replace(":", ".").rpartition(".")[2]
