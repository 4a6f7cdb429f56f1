"""Prepared text: the tokens of whole documents, and rows made of them for each sequence length.

A set is a directory; arrays are .npy files, tokens plain little-endian integers:

    motherbird.json           SHA-256 of every file below; its own is the set's fingerprint
    set.json                  `About`: what it was made of, and what is in it
    tokenizer.json
    tokens-00000.bin ...      ids of documents end to end, without special tokens
    documents.npy             a `DOCUMENT` each
    rows-1024.npy             for rows of 1,024 tokens: where each row's pieces begin, and their end
    pieces-1024.npy           a `PIECE` each: a stretch of a document
    rows-1024-held-out.npy, pieces-1024-held-out.npy

A piece takes two tokens more than its stretch: [CLS] before and [SEP] behind it. What is held out
is for the evaluation during a run.
"""

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt
from numpy.typing import NDArray

from ..core import tokenizer
from ..errors import DamagedError, InputError, require_extra
from ..files import (
    MANIFEST,
    check_directory,
    digests_of,
    read_json,
    sha256,
    unfinished,
    write_file,
    write_text,
)
from ..strict import build
from .packing import best_fit

KIND = "prepared-text"
ABOUT, DOCUMENTS = "set.json", "documents.npy"
FRAME = 2  # [CLS] and [SEP]
DOCUMENT = np.dtype(
    [
        ("shard", "<u4"),  # the file, and the first of its tokens in it
        ("start", "<u4"),
        ("tokens", "<u4"),
        ("hash", "<u8"),  # of its text
        ("source", "<u2"),  # number of the name in `About.sources`
        ("copies", "<u4"),  # how often it stands in an epoch; 0 where it is held out
        ("held_out", "?"),
    ]
)
PIECE = np.dtype([("document", "<u4"), ("first", "<u4"), ("tokens", "<u4")])


@dataclass(frozen=True)
class LengthAbout:
    """What rows of one length came to, for one epoch.

    Attributes:
        rows: how many.
        held_out_rows: for evaluation, beside them.
        pieces: documents and parts of documents in the rows.
        cut: documents that are longer than a row.
        tokens: in the rows, [CLS] and [SEP] included.
        efficiency: the share of the rows' places that these fill.
    """

    rows: int
    held_out_rows: int
    pieces: int
    cut: int
    tokens: int
    efficiency: float


@dataclass(frozen=True)
class SourceAbout:
    """What came of one source.

    Attributes:
        documents: kept, those held out included.
        tokens: of these, each once, without special tokens.
        held_out: documents set aside for evaluation.
        copies: how often a document stands in an epoch, in the mean: 1.5 is once for one half of
            the documents and twice for the other.
        dropped: documents, by reason.
        bad: how many could not be read.
        licence: of the text, as the mixture states it.
    """

    documents: int
    tokens: int
    held_out: int
    copies: float
    dropped: dict[str, int]
    bad: int
    licence: str = ""


@dataclass(frozen=True)
class About:
    """What a set was made of, and what is in it.

    Attributes:
        dtype: of the tokens.
        shards: files of tokens.
        sources: by name, in the order of their numbers.
        lengths: by row length.
        tokenizer: SHA-256 of tokenizer.json.
        seed: of the copies that a weight asks for.
        held_out: the share that is set aside, by the hash of the text.
        made_with: versions.
    """

    dtype: Literal["uint16", "uint32"]
    shards: int
    sources: dict[str, SourceAbout]
    lengths: dict[str, LengthAbout]
    tokenizer: str
    seed: int
    held_out: float
    made_with: dict[str, str]


class Rows:
    """Rows of one length: which pieces stand in each, and their tokens.

    Args:
        prepared: the set.
        seq_len: tokens that a row has room for.
        starts: (R + 1,) the first piece of each row, and the number of pieces.
        pieces: `PIECE` each, row by row.
    """

    def __init__(
        self,
        prepared: "PreparedDataset",
        seq_len: int,
        starts: Int[np.ndarray, " R_plus_1"],
        pieces: Shaped[np.ndarray, " pieces"],
    ) -> None:
        self.prepared, self.seq_len, self.starts, self.pieces = prepared, seq_len, starts, pieces

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of(self, row: int) -> Shaped[np.ndarray, " pieces"]:
        """The pieces of a row."""
        return self.pieces[self.starts[row] : self.starts[row + 1]]

    def gather(
        self, numbers: Sequence[int] | Int[np.ndarray, " rows"]
    ) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " S"], Int[np.ndarray, " rows"]]:
        """Rows end to end.

        Returns:
            Their ids (T,) int64, the tokens of each piece (S,), and the tokens of each row.
        """
        each = [self.of(number) for number in np.asarray(numbers).tolist()]
        pieces = np.concatenate(each)
        lengths = pieces["tokens"].astype(np.int64) + FRAME
        ends = lengths.cumsum()
        ids = np.empty(ends[-1], np.int64)
        ids[ends - lengths] = self.prepared.cls_id
        ids[ends - 1] = self.prepared.sep_id
        documents = self.prepared.documents[pieces["document"]]
        firsts = documents["start"].astype(np.int64) + pieces["first"]
        shards = self.prepared.shards
        for shard, first, length, end in zip(
            documents["shard"].tolist(), firsts.tolist(), lengths.tolist(), ends.tolist(),
            strict=True,
        ):  # fmt: skip
            ids[end - length + 1 : end - 1] = shards[shard][first : first + length - FRAME]
        row_tokens = np.add.reduceat(lengths, np.cumsum([0, *map(len, each[:-1])]))
        return ids, lengths, row_tokens


class PreparedDataset:
    """A set on disk, verified when it is opened.

    Args:
        directory: the set.
        verify: compare every file's SHA-256 first; workers, whose parent did, need not.

    Raises:
        InputError: it is no set of prepared text.
        DamagedError: a file is missing, too much, or not what was written; it is named.
    """

    def __init__(self, directory: str | Path, *, verify: bool = True) -> None:
        self.directory = Path(directory)
        if verify:
            check_directory(self.directory, KIND)
        self.about = build(About, read_json(self.directory / ABOUT), str(self.directory / ABOUT))
        self.tokenizer = tokenizer.load(self.directory)
        self.cls_id, self.sep_id = (self.tokenizer.id_of(role) for role in ("cls", "sep"))
        self.documents = self._array(DOCUMENTS)

    @classmethod
    def fetch(cls, url: str, cache: str | Path | None = None) -> "PreparedDataset":
        """Open a set behind any fsspec URL ("s3://...", "file://..."), by way of a local cache.

        What was fetched before, or by a try that was killed, is not fetched again.

        Args:
            url: of the directory.
            cache: a folder for sets; ~/.cache/motherbird/sets if not given.

        Raises:
            InputError: there is no set.
            DamagedError: what arrived is not what the set's manifest says.
        """
        fsspec = require_extra("fsspec", "data")
        try:
            system, root = fsspec.url_to_fs(url)
            manifest = system.cat_file(f"{root}/{MANIFEST}")
        except (OSError, ValueError, ImportError) as error:
            raise InputError(f"there is no prepared text ({error})", url) from error
        home = Path(cache) if cache is not None else Path.home() / ".cache" / "motherbird" / "sets"
        fingerprint = hashlib.sha256(manifest).hexdigest()
        folder = home / fingerprint
        if folder.exists():
            return cls(folder)
        with unfinished(folder, KIND, {"set": fingerprint}, wait=True) as work:
            if not folder.exists():  # no other process was faster
                incoming = work / "set"
                write_text(incoming / MANIFEST, manifest)
                for path in incoming.glob(".*.tmp"):  # of a try that was killed
                    path.unlink()
                for name in digests_of(incoming / MANIFEST):
                    if not (incoming / name).exists():
                        write_file(incoming / name, partial(system.get_file, f"{root}/{name}"))
                try:
                    check_directory(incoming, KIND)
                except DamagedError:
                    shutil.rmtree(incoming)  # so that another try fetches it again
                    raise
                incoming.rename(folder)
        return cls(folder, verify=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest, and so of everything."""
        return sha256(self.directory / MANIFEST)

    @cached_property
    def shards(self) -> list[UInt[np.ndarray, " tokens"]]:
        """The tokens, mapped into memory."""
        return [
            np.asarray(np.memmap(self.directory / shard_name(i), self.about.dtype, mode="r"))
            for i in range(self.about.shards)
        ]

    def rows(
        self,
        seq_len: int,
        *,
        held_out: bool = False,
        sources: Sequence[str] | None = None,
        min_tokens: int = 0,
    ) -> Rows:
        """The rows of a length; of some sources or long documents only, they are packed now.

        Raises:
            InputError: the set has no such length or source, or nothing is left.
        """
        if str(seq_len) not in self.about.lengths:
            known = ", ".join(self.about.lengths)
            raise InputError(
                f"it was not prepared for rows of {seq_len} tokens",
                str(self.directory),
                f"it has {known}; run prepare again with --seq-len",
            )
        if sources is None and min_tokens == 0:
            return Rows(
                self,
                seq_len,
                self._array(rows_name(seq_len, held_out)),
                self._array(pieces_name(seq_len, held_out)),
            )
        chosen = self.documents["tokens"] >= min_tokens
        if sources is not None:
            for name in sources:
                if name not in self.about.sources:
                    raise InputError(
                        f"there is no source {name!r}",
                        str(self.directory),
                        f"it has {', '.join(self.about.sources)}",
                    )
            numbers = [list(self.about.sources).index(name) for name in sources]
            chosen &= np.isin(self.documents["source"], numbers)
        return Rows(self, seq_len, *packed_rows(self.documents, seq_len, held_out, chosen))

    def _array(self, name: str) -> NDArray[Any]:
        path = self.directory / name
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DamagedError(f"not an array ({error})", str(path)) from error


def shard_name(number: int) -> str:
    """The file of a shard."""
    return f"tokens-{number:05}.bin"


def rows_name(seq_len: int, held_out: bool) -> str:
    """The file that says where rows begin."""
    return f"rows-{seq_len}{'-held-out' if held_out else ''}.npy"


def pieces_name(seq_len: int, held_out: bool) -> str:
    """The file of their pieces."""
    return f"pieces-{seq_len}{'-held-out' if held_out else ''}.npy"


def packed_rows(
    documents: Shaped[np.ndarray, " documents"],
    seq_len: int,
    held_out: bool,
    chosen: Bool[np.ndarray, " documents"] | None = None,
) -> tuple[Int[np.ndarray, " R_plus_1"], Shaped[np.ndarray, " pieces"]]:
    """Cut documents that are too long, and fit all pieces into rows.

    Args:
        documents: `DOCUMENT` each.
        seq_len: tokens of a row.
        held_out: those that are held out, or the others.
        chosen: which of them; all if not given.

    Returns:
        ``starts`` and ``pieces`` of `Rows`.

    Raises:
        InputError: no document is left.
    """
    room = seq_len - FRAME
    wanted = documents["held_out"] == held_out
    if chosen is not None:
        wanted &= chosen
    copies = np.where(held_out, 1, documents["copies"]) * wanted
    numbers = np.repeat(np.arange(len(documents)), copies)
    if not len(numbers):
        if held_out:
            return np.zeros(1, np.int64), np.empty(0, PIECE)
        raise InputError("no document is left to make rows of")
    tokens = documents["tokens"][numbers].astype(np.int64)
    counts = -(-tokens // room)
    pieces = np.empty(int(counts.sum()), PIECE)
    which = np.repeat(np.arange(len(numbers)), counts)
    pieces["document"] = numbers[which]
    within = np.arange(len(pieces)) - np.repeat(counts.cumsum() - counts, counts)
    pieces["first"] = within * room
    pieces["tokens"] = np.minimum(room, tokens[which] - within * room)
    rows = best_fit((pieces["tokens"].astype(np.int64) + FRAME).tolist(), seq_len)
    starts = np.cumsum([0, *map(len, rows)])
    return starts, pieces[np.concatenate([np.array(row) for row in rows])]
