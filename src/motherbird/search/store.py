"""The index of a directory in one file of SQLite: files, chunks, full text and vectors.

A transaction has whole files, so that an index that was interrupted has each file completely or not
at all. Readers see the state before or after a transaction; there is one writer at a time. SQLite's
full text (FTS5) computes BM25. Its table keeps no texts (contentless), and what is needed to remove
a file from it is kept compressed.
"""

import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import BusyError, DamagedError, InputError, NoRoomError
from .chunks import Chunk
from .entry import Entry, InBytes, State, StoredChunk, defined_name

VERSION = 4  # of the tables, chunks and terms; with another one the index is made again
WAIT = 10.0  # seconds for which a writer waits for another
# Weights of the terms of a path, a symbol and a text.
WEIGHTS = (4.0, 6.0, 1.0)
_TABLES = """
create table left_out (
    path blob primary key, size integer not null, changed integer not null, reason text not null
) without rowid;
create table files (
    id integer primary key, path blob not null unique, size integer not null,
    changed integer not null, digest blob not null, language text not null, text blob not null,
    terms blob not null
);
create table chunks (
    id integer primary key, file integer not null, first integer not null, last integer not null,
    symbol text not null, name text not null, kind text not null
);
create index chunks_of_file on chunks (file);
create index chunks_by_name on chunks (name) where name != '';
create table vectors (
    file integer not null, model text not null, first integer not null, scales blob not null,
    data blob not null, primary key (file, model)
) without rowid;
create table listing (key blob primary key, data blob not null) without rowid;
create virtual table terms using fts5 (
    path, symbol, body, content='',
    tokenize="unicode61 remove_diacritics 0 categories 'L* N* Co Mn Mc Pc'"
);
"""


class Store:
    """An open index.

    Args:
        path: the file; it is created if it does not exist.

    Raises:
        DamagedError: the file is damaged, or not an index of this version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._allowed = ""  # a condition on the files of chunks and vectors in SQL
        # What was read last, and of which state of the index: counts, and vectors.
        self._counts: tuple[object, tuple[int, int]] | None = None
        self._kept: tuple[object, tuple[NDArray[np.int64], InBytes]] | None = None
        with self.errors():
            # Threads may share it, but only one of them may use it at a time.
            self.db = sqlite3.connect(
                path, timeout=WAIT, isolation_level=None, check_same_thread=False
            )
            self.db.execute("pragma journal_mode = wal")
            self.db.execute("pragma synchronous = normal")
            version = self.db.execute("pragma user_version").fetchone()[0]
            if version == 0:
                self._create()
            elif version != VERSION:
                what = f"the index has version {version}, and this motherbird reads {VERSION}"
                raise DamagedError(what, str(path), "delete it with motherbird index --delete")

    def close(self) -> None:
        """Close the file."""
        self.db.close()

    def _create(self) -> None:
        with self.writing():
            if self.db.execute("pragma user_version").fetchone()[0] == 0:
                for statement in _TABLES.split(";\n"):
                    self.db.execute(statement)
                self.db.execute(f"pragma user_version = {VERSION}")

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise errors of motherbird in place of those of SQLite and zlib."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error) or "busy" in str(error):
                what = f"another process has been writing for {WAIT:.0f} seconds"
                raise BusyError(what, str(self.path), "wait for it, or stop it") from error
            if "full" in str(error):
                what = "the disk is full; the index is as it was before"
                raise NoRoomError(what, str(self.path), "free some space") from error
            raise InputError(f"the index cannot be used ({error})", str(self.path)) from error
        except (sqlite3.DatabaseError, zlib.error) as error:
            what = f"the index is damaged ({error})"
            how = "motherbird index --delete removes it, and the next search makes a new one"
            raise DamagedError(what, str(self.path), how) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Change the index in a transaction: completely, or not at all."""
        with self.errors():
            self.db.execute("begin immediate")
            try:
                yield
                self.db.execute("commit")
            except BaseException:
                if self.db.in_transaction:
                    self.db.execute("rollback")
                raise

    @contextmanager
    def reading(self) -> Iterator[None]:
        """See one state of the index in all queries of the block."""
        with self.errors():
            self.db.execute("begin")
            try:
                yield
            finally:
                self.db.execute("rollback")

    # Files

    def states(self) -> dict[bytes, State]:
        """Return the state of every file by its path."""
        rows = self.db.execute("select path, size, changed from files")
        return {path: State(size, changed) for path, size, changed in rows}

    def put(self, entries: Iterable[Entry]) -> None:
        """Add files, or replace them; within `writing`."""
        for entry in entries:
            self.remove([entry.path])
            self.db.execute("delete from left_out where path = ?", (entry.path,))
            terms = zlib.compress(json.dumps(entry.terms).encode(), 1)
            text = zlib.compress(entry.text.encode("utf-8", "surrogatepass"), 1)
            file = self.db.execute(
                "insert into files (path, size, changed, digest, language, text, terms) "
                "values (?, ?, ?, ?, ?, ?, ?)",
                (entry.path, *entry.state, entry.digest, entry.language, text, terms),
            ).lastrowid
            first = self._next_chunk()
            ids = range(first, first + len(entry.chunks))
            self.db.executemany(
                "insert into chunks values (?, ?, ?, ?, ?, ?, ?)",
                ((number, file, chunk.start, chunk.end, chunk.symbol, defined_name(chunk),
                  chunk.kind) for number, chunk in zip(ids, entry.chunks, strict=True)),
            )  # fmt: skip
            self.db.executemany(
                "insert into terms (rowid, path, symbol, body) values (?, ?, ?, ?)",
                ((number, *own) for number, own in zip(ids, entry.terms, strict=True)),
            )
            for model, data in entry.vectors.items():
                self.put_vectors(int(file or 0), model, first, data)

    def _next_chunk(self) -> int:
        found = self.db.execute("select max(id) from chunks").fetchone()[0]
        return (found or 0) + 1

    def remove(self, paths: Iterable[bytes]) -> int:
        """Remove files, and return how many there were; within `writing`."""
        count = 0
        for path in paths:
            row = self.db.execute("select id, terms from files where path = ?", (path,)).fetchone()
            if row is None:
                continue
            file, terms = row
            ids = self.db.execute("select id from chunks where file = ? order by id", (file,))
            self.db.executemany(
                "insert into terms (terms, rowid, path, symbol, body) "
                "values ('delete', ?, ?, ?, ?)",
                ((number, *own)
                 for [number], own in zip(ids.fetchall(), json.loads(zlib.decompress(terms)),
                                          strict=True)),
            )  # fmt: skip
            for table in ("chunks", "vectors"):
                self.db.execute(f"delete from {table} where file = ?", (file,))
            self.db.execute("delete from files where id = ?", (file,))
            count += 1
        return count

    def digests(self, paths: Iterable[bytes]) -> dict[bytes, bytes]:
        """Return the digests of those of some files that there are."""
        found = {}
        for path in paths:
            row = self.db.execute("select digest from files where path = ?", (path,)).fetchone()
            if row is not None:
                found[path] = row[0]
        return found

    def touch(self, path: bytes, state: State) -> None:
        """Note that a file has another state and the same content; within `writing`."""
        self.db.execute("update files set size = ?, changed = ? where path = ?",
                        (state.size, state.changed, path))  # fmt: skip

    def languages(self) -> list[tuple[int, bytes, str]]:
        """Return the id, path and language of every file."""
        return self.db.execute("select id, path, language from files").fetchall()

    def file(self, path: bytes) -> int | None:
        """Return the id of a file, or None."""
        row = self.db.execute("select id from files where path = ?", (path,)).fetchone()
        return None if row is None else int(row[0])

    def text(self, file: int) -> str:
        """Return the text of a file by its id."""
        row = self.db.execute("select text from files where id = ?", (file,)).fetchone()
        return zlib.decompress(row[0]).decode("utf-8", "surrogatepass") if row else ""

    def counts(self) -> tuple[int, int]:
        """Return the number of files and of chunks; they are remembered until something changes."""
        version = self.version()
        if self._counts is None or self._counts[0] != version:
            [row] = self.db.execute(
                "select (select count(*) from files), (select count(*) from chunks)"
            )
            self._counts = (version, (row[0], row[1]))
        return self._counts[1]

    # Queries

    @contextmanager
    def restricted(self, files: Iterable[int] | None) -> Iterator[None]:
        """Within this block, find chunks of these files only; None for all."""
        if files is not None:
            self.db.execute("create temp table if not exists allowed (file integer primary key)")
            self.db.execute("delete from allowed")
            self.db.executemany("insert into allowed values (?)", ((file,) for file in files))
        self._allowed = "" if files is None else "file in (select file from allowed)"
        try:
            yield
        finally:
            self._allowed = ""

    def best(self, terms: Sequence[str], limit: int) -> list[tuple[int, float]]:
        """Return the chunks with the largest BM25 for any of some terms, and BM25.

        Args:
            terms: of a query, each once.
            limit: of chunks.
        """
        if not terms:
            return []
        query = " OR ".join(f'"{term}"' for term in terms)
        weights = ", ".join(map(str, WEIGHTS))
        allowed = self._allowed and f"and rowid in (select id from chunks where {self._allowed}) "
        rows = self.db.execute(
            f"select rowid, -bm25(terms, {weights}) as score from terms where terms match ? "
            f"{allowed}order by score desc, rowid limit ?",
            (query, limit),
        )
        return [(number, score) for number, score in rows]

    def named(self, name: str, limit: int) -> list[int]:
        """Return chunks that define a name."""
        allowed = self._allowed and f"and {self._allowed} "
        rows = self.db.execute(
            f"select id from chunks where name = ? {allowed}order by id limit ?", (name, limit)
        )
        return [number for [number] in rows]

    def candidates(self, ids: Iterable[int]) -> list[StoredChunk]:
        """Return chunks by their ids, in the order of ids."""
        wanted = sorted(set(ids))
        found: list[StoredChunk] = []
        for first in range(0, len(wanted), 500):
            some = wanted[first : first + 500]
            marks = ", ".join("?" * len(some))
            rows = self.db.execute(
                "select chunks.id, file, path, language, first, last, symbol, kind from chunks "
                f"join files on files.id = file where chunks.id in ({marks}) order by chunks.id",
                some,
            )
            found += [StoredChunk(number, file, path, language, Chunk(*rest))
                      for number, file, path, language, *rest in rows]  # fmt: skip
        return found

    # Vectors

    def put_vectors(self, file: int, model: str, first: int, vectors: InBytes) -> None:
        """Store the vectors of the chunks of a file, whose ids begin with one; in `writing`."""
        self.db.execute("insert or replace into vectors values (?, ?, ?, ?, ?)",
                        (file, model, first, *vectors))  # fmt: skip

    def version(self) -> tuple[int, int]:
        """Return what is another one after any change of the index."""
        return self.db.execute("pragma data_version").fetchone()[0], self.db.total_changes

    def vectors(self, model: str) -> tuple[NDArray[np.int64], InBytes]:
        """Return the ids of chunks and their vectors; they are remembered until something changes.

        Args:
            model: whose vectors.
        """
        key = (model, self.version())
        if self._kept is not None and self._kept[0] == key and not self._allowed:
            return self._kept[1]
        allowed = self._allowed and f"and {self._allowed} "
        rows = self.db.execute(
            f"select first, scales, data from vectors where model = ? {allowed}", (model,)
        ).fetchall()
        rows.sort()  # SQLite would copy them for that
        whole = InBytes(*(b"".join(row[n] for row in rows) for n in (1, 2)))
        firsts = np.array([first for first, *_ in rows], np.int64)
        counts = np.array([len(scales) // 4 for _, scales, _ in rows], np.int64)
        before = np.cumsum(counts) - counts
        ids = np.repeat(firsts - before, counts) + np.arange(counts.sum())
        if not self._allowed:
            self._kept = (key, (ids, whole))
        return ids, whole

    def without_vectors(self, model: str) -> list[tuple[int, bytes]]:
        """Return the ids and paths of files without vectors of a model."""
        return self.db.execute(
            "select id, path from files "
            "where id not in (select file from vectors where model = ?) order by id",
            (model,),
        ).fetchall()

    def first_chunk(self, file: int) -> int:
        """Return the id of the first chunk of a file, 0 if it has none."""
        row = self.db.execute("select min(id) from chunks where file = ?", (file,)).fetchone()
        return row[0] or 0

    def chunks_of(self, file: int) -> list[Chunk]:
        """Return the chunks of a file in order."""
        rows = self.db.execute(
            "select first, last, symbol, kind from chunks where file = ? order by id", (file,)
        )
        return [Chunk(*row) for row in rows]

    # The listing of the directory

    def listing(self, key: bytes) -> bytes | None:
        """Return what `put_listing` stored with the same key, if it is there."""
        row = self.db.execute("select data from listing where key = ?", (key,)).fetchone()
        return None if row is None else zlib.decompress(row[0])

    def put_listing(self, key: bytes, data: bytes) -> None:
        """Store a listing, in place of others; within `writing`.

        Args:
            key: what it depends on, besides the files.
            data: see `tree.to_bytes`.
        """
        self.db.execute("delete from listing")
        self.db.execute("insert into listing values (?, ?)", (key, zlib.compress(data, 1)))

    # Files that are left out

    def leave_out(self, path: bytes, state: State, reason: str) -> None:
        """Note why a file is left out, until it changes; within `writing`."""
        self.db.execute(
            "insert or replace into left_out values (?, ?, ?, ?)",
            (path, state.size, state.changed, reason),
        )

    def left_out(self) -> dict[tuple[bytes, State], str]:
        """Return the reasons of `leave_out`, by path and state."""
        rows = self.db.execute("select path, size, changed, reason from left_out")
        return {(path, State(size, changed)): reason for path, size, changed, reason in rows}

    def problems(self) -> list[str]:
        """Return what is wrong with the index; nothing if it is whole."""
        found = [row for [row] in self.db.execute("pragma integrity_check") if row != "ok"]
        try:
            self.db.execute("insert into terms (terms) values ('integrity-check')")
        except sqlite3.DatabaseError as error:
            found.append(f"full text: {error}")
        for file, path in self.db.execute("select id, path from files").fetchall():
            terms = self.db.execute("select terms from files where id = ?", (file,)).fetchone()[0]
            name = path.decode("utf-8", "replace")
            try:
                if len(json.loads(zlib.decompress(terms))) != len(self.chunks_of(file)):
                    found.append(f"{name}: the number of chunks is another")
                self.text(file)
            except (zlib.error, ValueError) as error:
                found.append(f"{name}: {error}")
        return found
