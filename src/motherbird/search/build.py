"""From a file to what the index has of it."""

import codecs
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..arrays import Float32
from ..data.generated import code_rule
from ..data.readers.listing import settled
from ..engine.words import dot_products
from . import pdf
from .chunks import Chunk, chunks, language
from .entry import Entry, InBytes, State
from .terms import joined
from .tree import reason_against, state_of
from .vectors import Vectors

if TYPE_CHECKING:
    from .store import Store

# Reasons that may not hold at the next time.
CHANGED, REMOVED = "changed while they were read", "removed while they were read"
PASSING = (CHANGED, REMOVED, pdf.MISSING)
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"),
          (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip


def read_entry(
    root: Path, path: bytes, vectors: Vectors | None = None, known: bytes | None = None
) -> Entry | State | str:
    """Read a file, or return its state if it is as it was before, or why it is left out.

    Args:
        root: the directory that is searched.
        path: of the file, relative to it.
        vectors: computes those of chunks.
        known: the digest that it had before.
    """
    name, full = path_text(path), root / os.fsdecode(path)
    try:
        state = state_of(full)
        if reason := reason_against(name, state):
            return reason
        content = full.read_bytes()
        if state_of(full) != state:
            return CHANGED
        # A file that changes again in the same moment must not look as it does now.
        state = State(state.size, settled(state.changed))
    except FileNotFoundError:
        return REMOVED
    except OSError as error:
        return f"not readable ({error.strerror})"
    digest = hashlib.blake2b(content, digest_size=16).digest()
    if digest == known:
        return state
    text = decoded(name, content)
    if text is None:
        return "PDF that cannot be read" if pdf.is_pdf(name) else "not text"
    if rule := code_rule(name, text, ("generated", "minified")):
        return rule
    return entry_of(path, name, text, state, digest, vectors)


def entry_of(
    path: bytes, name: str, text: str, state: State, digest: bytes, vectors: Vectors | None = None
) -> Entry:
    """Divide a text, and return what the index has of it.

    Args:
        path: by which the index knows the file.
        name: the same as text, which says what format it has.
        text: of the file.
        state: that of the file when it was read.
        digest: of its content.
        vectors: computes those of chunks.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found, lines = chunks(name, text), text.split("\n")
    of_path = joined(os.path.splitext(name)[0])
    own = [(of_path, joined(chunk.symbol), joined(text_of(chunk, lines))) for chunk in found]
    packed = {}
    if vectors is not None:
        texts = [text_to_embed(name, chunk, lines) for chunk in found]
        packed[vectors.name] = pack(vectors.embed(texts)) if texts else InBytes(b"", b"")
    return Entry(path, state, digest, language(name), text, found, own, packed)


def fill(store: "Store", vectors: Vectors) -> None:
    """Compute the vectors of files that an index has without those of a model."""
    for file, path in store.without_vectors(vectors.name):
        found, lines = store.chunks_of(file), store.text(file).split("\n")
        texts = [text_to_embed(path_text(path), chunk, lines) for chunk in found]
        packed = pack(vectors.embed(texts)) if texts else InBytes(b"", b"")
        with store.writing():
            store.put_vectors(file, vectors.name, store.first_chunk(file), packed)


def path_text(path: bytes) -> str:
    """Return a path as text, with / between directories."""
    return path.decode("utf-8", "replace").replace(os.sep, "/")


def decoded(name: str, content: bytes) -> str | None:
    """Return the text of a file by its name; None if it has none."""
    return pdf.read(content) if pdf.is_pdf(name) else decode(content)


def decode(content: bytes) -> str | None:
    """Return the text of a file: UTF-8, UTF-16 with a mark, or Latin-1; None if it is not text."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            try:
                return content.decode(encoding)
            except UnicodeDecodeError:
                return None
    if b"\0" in content:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
        control = sum(c < " " and c not in "\t\n\r\f\v\x1b" for c in text[:4096])
        return None if control > len(text[:4096]) / 100 else text


def text_of(chunk: Chunk, lines: Sequence[str]) -> str:
    """Return the text of a chunk."""
    return "\n".join(lines[chunk.start - 1 : chunk.end])


def text_to_embed(name: str, chunk: Chunk, lines: Sequence[str]) -> str:
    """Return what the vector of a chunk is computed of: its path, symbol and text."""
    path = os.path.splitext(name)[0].replace("/", " ").replace("_", " ")
    return f"{path} {chunk.symbol.replace('_', ' ')}\n{text_of(chunk, lines)}"


# Vectors are kept in 8 bits, each with the scale of its own.


def pack(vectors: Float32[np.ndarray, "n D"]) -> InBytes:
    """Return vectors in 8 bits."""
    largest = np.abs(vectors).max(axis=1, keepdims=True).clip(min=1e-12)
    data = np.rint(vectors / largest * 127).astype(np.int8)
    return InBytes((largest / 127).astype("<f4").tobytes(), data.tobytes())


def cosines(packed: InBytes, query: Float32[np.ndarray, " D"]) -> Float32[np.ndarray, " n"]:
    """Return the products of vectors of `pack` with one vector."""
    rows = np.frombuffer(packed.data, np.int8).reshape(-1, len(query))
    return dot_products(rows, query) * np.frombuffer(packed.scales, "<f4")
