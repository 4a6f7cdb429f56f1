"""A prepared dataset: the tokens of whole documents, and packed rows for each sequence length.

It is a directory. Arrays are .npy files, tokens little-endian integers:

    motherbird.json           SHA-256 of every file below; its SHA-256 is the fingerprint
    set.json                  `DatasetInfo`
    tokenizer.json
    tokens-00000.bin ...      ids of concatenated documents, without special tokens
    documents.npy             a `packing.DOCUMENT` for each document
    rows-1024.npy             for rows of 1,024 tokens: the index of the first piece of each row,
                              and the number of pieces
    pieces-1024.npy           a `packing.PIECE` for each piece: a span of a document
    rows-1024-held-out.npy, pieces-1024-held-out.npy

In a row, each piece is preceded by [CLS] and followed by [SEP]. Held-out documents are used for
evaluation during training.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import files
from ..arrays import Int, Shaped, UInt
from ..core import tokenizer
from ..core.arguments import check_integer, check_path
from ..errors import DamagedError, InputError, require_extra, with_article
from ..strict import build
from .packing import GROUP, PIECE, SPECIAL_TOKENS, Selection, packed_rows, write_rows
from .tally import Count
from .verified import verify as verify_files

KIND = "prepared-text"
ROWS_KIND = "packed-rows"
INFO, DOCUMENTS = "set.json", "documents.npy"
IN_MEMORY = 1 << 20  # pieces of selected rows that are packed in memory; more go to a cache
OPEN_SHARDS = 256  # token files that are open at a time


@dataclass(frozen=True)
class LengthInfo:
    """Rows of one length, for one epoch."""

    rows: int  # number of rows
    held_out_rows: int  # number of rows of held-out documents
    pieces: int  # number of pieces in the rows
    cut: int  # number of documents that are longer than a row
    tokens: int  # tokens in the rows, including [CLS] and [SEP]
    efficiency: float  # tokens / (rows x length)


@dataclass(frozen=True)
class SourceInfo:
    """One source of a prepared dataset."""

    documents: int  # number of documents, including held-out ones
    tokens: int  # their tokens, without repetitions and special tokens
    held_out: int  # number of held-out documents
    copies: float  # average repetitions of a document in an epoch; with 1.5, half are used twice
    dropped: dict[str, int]  # number of dropped documents by reason
    bad: int  # number of documents that could not be read
    licence: str = ""  # the license of the text, from the mixture
    skipped: dict[str, Count] = field(default_factory=dict)  # files that were not used, by reason


@dataclass(frozen=True)
class DatasetInfo:
    """The content of set.json."""

    dtype: Literal["uint16", "uint32"]  # dtype of the tokens
    shards: int  # number of token files
    sources: dict[str, SourceInfo]  # sources by name
    lengths: dict[str, LengthInfo]  # rows by length
    tokenizer: str  # SHA-256 of tokenizer.json
    seed: int  # seed of fractional repetitions
    held_out: float  # fraction of documents that are held out
    made_with: dict[str, str]  # versions


@dataclass(frozen=True, eq=False)
class Rows:
    """Packed rows of one length."""

    prepared: "PreparedDataset"
    starts: Int[np.ndarray, " R_plus_1"]  # first piece of each row, and the number of pieces
    pieces: Shaped[np.ndarray, " pieces"]  # `PIECE` records, row by row

    def __len__(self) -> int:
        return len(self.starts) - 1

    def pieces_of(self, row: int) -> Shaped[np.ndarray, " pieces"]:
        """Return the pieces of a row."""
        return self.pieces[self.starts[row] : self.starts[row + 1]]

    def gather(
        self, numbers: Sequence[int] | Int[np.ndarray, " rows"]
    ) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " S"], Int[np.ndarray, " rows"]]:
        """Concatenate rows: their ids (int64), the tokens of each piece, and those of each row."""
        each = [self.pieces_of(number) for number in np.asarray(numbers).tolist()]
        pieces = np.concatenate(each)
        lengths = pieces["tokens"].astype(np.int64) + SPECIAL_TOKENS
        ends = lengths.cumsum()
        ids = np.empty(ends[-1], np.int64)
        ids[ends - lengths] = self.prepared.cls_id
        ids[ends - 1] = self.prepared.sep_id
        documents = self.prepared.documents[pieces["document"]]
        firsts = documents["start"].astype(np.int64) + pieces["first"]
        shard_tokens = self.prepared.shard_tokens
        for shard, first, length, end in zip(
            documents["shard"].tolist(),
            firsts.tolist(),
            lengths.tolist(),
            ends.tolist(),
            strict=True,
        ):
            last = first + length - SPECIAL_TOKENS
            ids[end - length + 1 : end - 1] = shard_tokens(shard)[first:last]
        row_tokens = np.add.reduceat(lengths, np.cumsum([0, *map(len, each[:-1])]))
        return ids, lengths, row_tokens


class PreparedDataset:
    """A prepared dataset on disk, memory-mapped.

    When it is opened, it is verified: a file that is missing, was changed or was added is an
    error. Files of 16 MB or more that did not change since they were last verified are not hashed
    again, except with ``verify="all"``; with False, nothing is verified.
    """

    def __init__(self, directory: str | Path, *, verify: bool | Literal["all"] = True) -> None:
        self.directory = check_path(directory, "the dataset", "pass the directory of one")
        if verify:
            verify_files(self.directory, KIND, everything=verify == "all")
        path = self.directory / INFO
        self.about = build(DatasetInfo, files.read_json(path), str(path))
        self.tokenizer = tokenizer.load(self.directory, split_special_tokens=True)
        self.cls_id, self.sep_id = (self.tokenizer.id_of(role) for role in ("cls", "sep"))
        self.documents = _array(self.directory / DOCUMENTS)
        # Opens few files at a time: a process may open 1,024 by default.
        self.shard_tokens = lru_cache(OPEN_SHARDS)(self._shard_tokens)

    @classmethod
    def fetch(cls, url: str, cache: str | Path | None = None) -> "PreparedDataset":
        """Download a dataset from an fsspec URL ("s3://...", "file://...") to a cache and open it.

        Files of an earlier or interrupted download are not downloaded again. The cache is "sets" in
        `files.cache_directory` if not given. Raise InputError if there is no dataset at the URL,
        and DamagedError if a downloaded file does not match the manifest.
        """
        fsspec = require_extra("fsspec", "data")
        try:
            system, root = fsspec.url_to_fs(url)
            manifest = system.cat_file(f"{root}/{files.MANIFEST}")
        except (OSError, ValueError, ImportError) as error:
            raise InputError(f"there is no prepared dataset ({error})", url) from error
        home = Path(cache) if cache is not None else files.cache_directory() / "sets"
        fingerprint = hashlib.sha256(manifest).hexdigest()
        folder = home / fingerprint
        if folder.exists():
            return cls(folder)
        with files.resumable_directory(folder, KIND, {"set": fingerprint}, wait=True) as work:
            if not folder.exists():  # else another process was faster
                incoming = work / "set"
                files.write_text(incoming / files.MANIFEST, manifest)
                for path in incoming.glob(".*.tmp"):  # from an interrupted download
                    path.unlink()
                for name in files.read_manifest(incoming)["sha256"]:
                    if not (incoming / name).exists():
                        files.write_file(
                            incoming / name, partial(system.get_file, f"{root}/{name}")
                        )
                try:
                    files.check_directory(incoming, KIND)
                except DamagedError:
                    shutil.rmtree(incoming)  # so that it is downloaded again
                    raise
                incoming.rename(folder)
        return cls(folder, verify=False)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the manifest, which identifies the whole content."""
        return files.sha256(self.directory / files.MANIFEST)

    def _shard_tokens(self, number: int) -> UInt[np.ndarray, " tokens"]:
        """Return the tokens of a file, memory-mapped."""
        path = self.directory / shard_name(number)
        return np.asarray(np.memmap(path, self.about.dtype, mode="r"))

    def check_lengths(self, seq_lens: Sequence[int]) -> None:
        """Raise InputError if there are no rows of one of these lengths."""
        known = sorted(map(int, self.about.lengths))
        if missing := sorted({*seq_lens} - {*known}):
            what = f"the dataset has no rows of {' or '.join(map(str, missing))} tokens"
            has = " and ".join(", ".join(map(str, known)).rsplit(", ", 1))
            needed = ",".join(map(str, sorted({*known, *missing})))  # other runs may use the others
            how = f"it has rows of {has}; prepare it again with --seq-len {needed}"
            raise InputError(what, str(self.directory), how)

    def rows(
        self,
        seq_len: int,
        *,
        held_out: bool = False,
        sources: Sequence[str] | None = None,
        min_tokens: int = 0,
    ) -> Rows:
        """Return the rows of a length.

        If only some sources or long documents are selected, their rows are packed now. Those of
        more than `IN_MEMORY` pieces are written to the cache directory, and used again. Raise
        InputError if there is no such length or source, or no document is left.
        """
        check_selection(seq_len, sources, min_tokens)
        self.check_lengths([seq_len])
        names = row_files(seq_len, held_out)
        folder = self.directory
        if sources is not None or min_tokens:
            numbers = None if sources is None else self._source_numbers(sources)
            selection = Selection(held_out, numbers, min_tokens)
            count = selection.count(self.documents, seq_len)
            if not held_out and not count:
                how = f"min_tokens = {min_tokens}, sources = {list(sources) if sources else 'all'}"
                what = "no documents match sources and min_tokens"
                raise InputError(what, str(self.directory), how)
            if count <= IN_MEMORY:
                none = np.zeros(1, np.int64), np.empty(0, PIECE)
                return Rows(self, *next(packed_rows(self.documents, seq_len, selection), none))
            folder = self._packed(seq_len, selection)
        return Rows(self, *(_array(folder / name) for name in names))

    def _source_numbers(self, names: Sequence[str]) -> tuple[int, ...]:
        known = list(self.about.sources)
        for name in names:
            if name not in known:
                how = f"the sources are {', '.join(known)}"
                raise InputError(f"there is no source {name!r}", str(self.directory), how)
        return tuple(sorted({known.index(name) for name in names}))

    def _packed(self, seq_len: int, selection: Selection) -> Path:
        """Return a directory in the cache with the rows of selected documents."""
        plan = {"set": self.fingerprint, "seq_len": seq_len, "group": GROUP, **vars(selection)}
        key = hashlib.sha256(json.dumps(plan).encode()).hexdigest()[:32]
        folder = files.cache_directory() / "rows" / key
        if not folder.exists():
            with files.resumable_directory(folder, ROWS_KIND, plan, wait=True) as work:
                if not folder.exists():  # else another process was faster
                    with files.new_directory(folder, ROWS_KIND, work) as fresh:
                        groups = packed_rows(self.documents, seq_len, selection)
                        write_rows(fresh, row_files(seq_len, selection.held_out), groups)
        return folder


def check_selection(seq_len: Any, sources: Any, min_tokens: Any) -> None:
    """Raise InputError if an argument of `PreparedDataset.rows` is of another type."""
    check_integer(seq_len, "seq_len", 1)
    check_integer(min_tokens, "min_tokens", 0)
    if sources is not None and not isinstance(sources, list | tuple):
        kind = "string" if isinstance(sources, str) else type(sources).__name__
        raise InputError(f"sources is {with_article(kind)}", how="pass a tuple of names")


def _array(path: Path) -> NDArray[Any]:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DamagedError(f"the file is not an array ({error})", str(path)) from error


def shard_name(number: int) -> str:
    """Return the name of a token file."""
    return f"tokens-{number:05}.bin"


def row_files(seq_len: int, held_out: bool) -> tuple[str, str]:
    """Return the names of the files with the first piece of each row, and with the pieces."""
    end = f"-{seq_len}{'-held-out' if held_out else ''}.npy"
    return f"rows{end}", f"pieces{end}"
