"""`Index`: search over the files of a directory."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import disk, workers
from ..core import threads
from ..core.arguments import check_integer, check_path, check_text
from ..core.hub import NANO
from ..data.readers.listing import Listing, settled
from ..engine.states import States
from ..errors import BusyError, InputError, MotherbirdError
from .build import PASSING, fill, path_text, read_entry, text_of
from .cache import home_of, root_of
from .chunks import language
from .entry import Entry, State
from .filters import Filters
from .lookup import Hit, Mode, check_mode, find, ranked
from .pdf import is_pdf
from .query import Query
from .scan import Scan
from .store import Store
from .tree import find_files, from_bytes, global_ignore, state_of, to_bytes
from .vectors import Vectors, load

BATCH = 64  # files of a transaction
# Files and bytes that a search adds to the index before it answers.
FEW, LITTLE = 200, 4_000_000
WAIT = 10.0  # seconds for which one process waits for another that indexes


@dataclass(frozen=True)
class Result:
    """The answer to a query.

    Attributes:
        hits: the best first.
        files, chunks: what the index has.
        pending: files that are not in the index yet, changed since, or without vectors, if they
            are many. The hits are then of the files with the most words of the query.
        skipped: files that are left out, by reason.
    """

    hits: list[Hit]
    files: int
    chunks: int
    pending: int
    skipped: Mapping[str, int]


@dataclass
class Changes:
    """The files of a directory, compared with the index."""

    files: list[bytes] = field(default_factory=list)  # that may be searched
    new: list[bytes] = field(default_factory=list)  # or changed
    gone: list[bytes] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)  # number of files by reason
    size: int = 0  # bytes of new files
    settled: dict[bytes, State] = field(default_factory=dict)  # states of files that are the same
    bare: int = 0  # number of files that the index has without vectors of the model


class Index:
    """The index of a directory, open for search.

    Args:
        root: the directory.
        path: the file of the index.
        vectors: for `mode` "dense" and "hybrid"; None for full text alone.
    """

    def __init__(self, root: Path, path: Path, vectors: Vectors | None = None) -> None:
        self.root, self.path, self.vectors = root, path, vectors
        self.store = Store(path)
        # What the last search read.
        self._listing: Listing | None = None
        self._keys: list[bytes] = []  # its files, as the index has them
        self._read_states = States(())  # of these files
        self._unsaved = False  # whether the index does not have the listing
        self._known: tuple[Any, tuple[dict[bytes, State], dict[Any, str]]] | None = None
        self._aligned: tuple[Any, NDArray[np.int64]] | None = None  # known states of its files
        self._filled: Any = None  # the version of the index in which no vectors were missing

    @classmethod
    def open(cls, directory: str | Path, model: str | Path | Vectors | None = NANO) -> "Index":
        """Open the index of a directory, which is in the cache of the user.

        Args:
            directory: in a repository, the index is that of the whole repository.
            model: for `mode` "dense" and "hybrid": static vectors, or an encoder initialized
                from them; None for full text alone.

        Raises:
            InputError: there is no such directory, or no such model.
            DamagedError: the index or the model is damaged.
        """
        root, vectors = root_of(check_path(directory, "the directory")), load(model)
        home = home_of(root)
        if not home.database.exists():
            home.remove_older()
        return cls(root, home.database, vectors)

    def close(self) -> None:
        """Close the index."""
        self.store.close()

    def changes(self) -> Changes:
        """Compare the files of the directory with the index."""
        listing = self._list()
        found = Changes(skipped={reason: n.documents for reason, n in listing.skipped.items()})
        known, left_out = self._known_states()
        states = self._read_states.read()[:, :2]
        absent = set()
        for number in np.flatnonzero((states != self._states_of(known)).any(axis=1)).tolist():
            key, state = self._keys[number], State(*states[number].tolist())
            if state.size < 0:  # it was removed since
                absent.add(key)
                continue
            if (reason := left_out.get((key, state))) is not None:
                found.skipped[reason] = found.skipped.get(reason, 0) + 1
                absent.add(key)
                continue
            if known.get(key) != (state.size, -1) or not self._is_same(key, found):
                found.new.append(key)
                found.size += state.size
        found.files = [key for key in self._keys if key not in absent] if absent else self._keys
        here = set(found.files)
        found.gone = [key for key in known if key not in here]
        if self.vectors is not None and self._filled != self.store.version():
            found.bare = len(self.store.without_vectors(self.vectors.name))
            self._filled = None if found.bare else self.store.version()
        return found

    def _list(self) -> Listing:
        """Return the files of the directory: as they were listed before, if nothing has changed."""
        found = self._listing
        if found is None:
            with self.store.reading():
                stored = self.store.listing(self._listing_key())
            found = None if stored is None else from_bytes(self.root, stored)
        if found is None or not found.is_current():
            found, self._unsaved = find_files(self.root), True
        if found is not self._listing:
            start = os.path.join(self.root, "")
            self._keys = [os.fsencode(name) for name in found.names]
            self._read_states = States(start + name for name in found.names)
            self._listing, self._aligned = found, None
        return found

    def _listing_key(self) -> bytes:
        return b"\0".join(map(os.fsencode, (self.root, global_ignore())))

    def _save_listing(self) -> None:
        """Keep the listing for other processes; within `writing`."""
        if self._unsaved and self._listing is not None:
            self.store.put_listing(self._listing_key(), to_bytes(self._listing))
            self._unsaved = False

    def _known_states(self) -> tuple[dict[bytes, State], dict[tuple[bytes, State], str]]:
        """Return the states of files in the index, and the reasons of those that are left out."""
        with self.store.reading():
            version = self.store.version()
            if self._known is None or self._known[0] != version:
                self._known = (version, (self.store.states(), self.store.left_out()))
        return self._known[1]

    def _states_of(self, known: dict[bytes, State]) -> NDArray[np.int64]:
        """Return the known states of the files of the listing, -2 where there is none."""
        if self._aligned is None or self._aligned[0] is not known:
            none = State(-2, -2)
            rows = [known.get(key, none) for key in self._keys]
            self._aligned = (known, np.array(rows, np.int64).reshape(-1, 2))
        return self._aligned[1]

    def _is_same(self, key: bytes, found: Changes) -> bool:
        """Return whether a file has the content that the index has; note its state if it has."""
        with self.store.reading():
            known = self.store.digests([key])
        read = read_entry(self.root, key, known=known.get(key))
        if isinstance(read, State):
            found.settled[key] = read
        return isinstance(read, State)

    def refresh(
        self,
        found: Changes | None = None,
        on_files: Callable[[int, int], None] = lambda done, total: None,
    ) -> Changes:
        """Make the index equal to the directory; an interrupted call is continued by the next.

        Args:
            found: what `changes` returned.
            on_files: called with the number of files that are done, and of all.

        Raises:
            BusyError: another process has been indexing the directory for 10 seconds.
            DamagedError: the index is damaged.
        """
        with self.store.errors():
            return self._refresh(found, on_files)

    def _refresh(self, found: Changes | None, on_files: Callable[[int, int], None]) -> Changes:
        found = found or self.changes()
        if not found.new and not found.gone and not found.bare:
            self._touch(found)
            return found
        with _alone(self.path.with_suffix(".lock")):
            with self.store.writing():
                self.store.remove(found.gone)
                self._save_listing()
            done = 0
            for some, read in self._read(found):
                with self.store.writing():
                    self._put(some, read, found)
                done += len(some)
                on_files(done, len(found.new))
            if found.bare and self.vectors is not None:
                fill(self.store, self.vectors)
        return found

    def _touch(self, found: Changes) -> None:
        """Note the states of files that were read again, and are the same."""
        settled = {key: state for key, state in found.settled.items() if state.changed != -1}
        if settled:
            with self.store.writing():
                for key, state in settled.items():
                    self.store.touch(key, state)
        if self._unsaved:  # a search does not fail where that cannot be written
            with suppress(MotherbirdError), self.store.writing():
                self._save_listing()

    def _put(
        self, paths: Sequence[bytes], read: Sequence[Entry | State | str], found: Changes
    ) -> None:
        self.store.put(entry for entry in read if isinstance(entry, Entry))
        for key, reason in zip(paths, read, strict=True):
            if isinstance(reason, State):
                self.store.touch(key, reason)
            elif isinstance(reason, str):
                self.store.remove([key])
                found.skipped[reason] = found.skipped.get(reason, 0) + 1
                state = _state_or_none(self.root / os.fsdecode(key))
                if state is not None and reason not in PASSING:
                    self.store.leave_out(key, state, reason)

    def _read(self, found: Changes) -> Iterator[tuple[list[bytes], list[Entry | State | str]]]:
        """Yield files and what was read of them, in batches; many are read by processes."""
        known = self.store.digests(found.new)
        batches = [found.new[n : n + BATCH] for n in range(0, len(found.new), BATCH)]
        requests = [[(path, known.get(path)) for path in batch] for batch in batches]
        count = threads.count() if found.size > LITTLE else 1
        reader = Reader(self.root, self.vectors)
        with workers.pool(count if count > 1 else 0, Reader, (self.root, self.vectors)) as pool:
            answers = workers.in_order(pool, iter(requests)) if pool else map(reader, requests)
            yield from zip(batches, answers, strict=True)

    def search(
        self,
        text: str,
        count: int = 10,
        mode: Mode = "hybrid",
        filters: Filters = Filters(),  # noqa: B008
        *,
        use_rules: bool = True,
    ) -> Result:
        """Search the files as they are now.

        Args:
            text: a question, words, or a name.
            count: of hits, at most.
            mode: "bm25" for full text, "dense" for vectors, "hybrid" for both.
            filters: which files are searched.
            use_rules: whether rules beside words and vectors rank; see `rules`.

        Raises:
            InputError: the query is empty, or an argument is invalid.
            BusyError: another process has been indexing the directory for 10 seconds.
            DamagedError: the index is damaged.
        """
        query = Query(check_text(text, "the query"))
        count = check_integer(count, "count", 1)
        check_mode(mode, self.vectors)
        with self.store.errors():
            return self._search(query, count, mode, filters, use_rules)

    def _search(
        self, query: Query, count: int, mode: Mode, filters: Filters, use_rules: bool
    ) -> Result:
        found = self.changes()
        pending = len(found.new) + (0 if mode == "bm25" else found.bare)
        if pending <= FEW and found.size <= LITTLE:
            found = self.refresh(found)
            files, chunks = self.store.counts()
            hits = find(self.store, self.vectors, query, count, mode, filters, use_rules=use_rules)
            return Result(hits, files, chunks, 0, found.skipped)
        wanted = [key for key in found.files if _accepts(filters, key)]
        scan = Scan(self.root, wanted, query, None if mode == "bm25" else self.vectors)
        bm25 = {} if mode == "dense" else scan.bm25
        hits = ranked(scan.store, query, bm25, scan.near, count, use_rules=use_rules)
        files, chunks = self.store.counts()
        return Result(hits, files, chunks, pending, found.skipped)

    def similar(self, path: str, line: int, count: int = 10) -> list[Hit]:
        """Return the parts of files that are most like the one with a line of a file.

        Args:
            path: of the file, relative to the directory.
            line: of the file, from 1.
            count: of hits, at most.

        Raises:
            InputError: the file is not searched, or has no such line.
        """
        lines = self.read(path)
        with self.store.errors():
            chunks = self.store.chunks_of(self._file(path))
        found = next((chunk for chunk in chunks if chunk.start <= line <= chunk.end), None)
        if found is None:
            raise InputError(f"line {line} is empty, or not in the file", path)
        query = Query(text_of(found, lines))
        hits = find(self.store, self.vectors, query, count + 1, use_rules=False)
        return [hit for hit in hits if (hit.path, hit.start) != (path, found.start)][:count]

    def read(self, path: str) -> list[str]:
        """Return the lines of a file that is searched, as it is now.

        Raises:
            InputError: the file is not searched.
        """
        self.refresh()
        with self.store.errors():
            return self.store.text(self._file(path)).split("\n")

    def _file(self, path: str) -> int:
        """Return the id of a file."""
        wanted = os.fsencode(path.replace("/", os.sep))
        if (found := self.store.file(wanted)) is None:
            raise InputError("the file is not searched", path, "motherbird index --report says why")
        return found


class Reader:
    """Reads files for the index, in a process of its own if there are many."""

    def __init__(self, root: Path, vectors: Vectors | None) -> None:
        self.root, self.vectors = root, vectors

    def __call__(self, files: Sequence[tuple[bytes, bytes | None]]) -> list[Entry | State | str]:
        """Return what `read_entry` does for each file, given its path and digest."""
        return [read_entry(self.root, path, self.vectors, known) for path, known in files]


def _accepts(filters: Filters, key: bytes) -> bool:
    """Return whether a scan reads a file: PDF takes too long."""
    path = path_text(key)
    return filters.accept(path, language(path)) and not is_pdf(path)


def _state_or_none(path: Path) -> State | None:
    """Return the state of a file that is left out, or None if it was removed."""
    try:
        found = state_of(path)
    except OSError:
        return None
    return State(found.size, settled(found.changed))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Be the only process that indexes; wait for another one for some seconds."""
    end = time.monotonic() + WAIT
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(disk.locked(path))
                break
            except InputError as error:
                if time.monotonic() > end:
                    raise BusyError(error.what, error.where, error.how) from error
                time.sleep(0.1)
        yield
