"""Where shards are written: a local directory, or a URL of fsspec.

A file with its final name is complete: it is written under a temporary name and renamed. Object
stores have no rename, but there a file gets its name when its upload is complete.
"""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from .. import disk
from ..errors import InputError, StoreError, require_extra
from ..files import write_text

LOCK = ".lock"
# Protocols in which an upload gets its name at once, when it is complete.
ATOMIC = ("abfs", "abfss", "adl", "az", "gcs", "gs", "hf", "memory", "oci", "oss", "s3", "s3a")


@runtime_checkable
class Store(Protocol):
    """A place with files; it can be pickled."""

    def names(self) -> set[str]:
        """Return the names of the files, without hidden ones."""

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file completely or not at all; one of this name is replaced."""

    def prepare(self) -> None:
        """Remove what killed processes left."""


def is_url(out: str) -> bool:
    """Return whether an output is a URL, not a path."""
    return re.match(r"[a-z][a-z0-9+]*://", out) is not None


def open_store(out: str) -> Store:
    """Return the store of a path or a URL.

    Raises:
        InputError: fsspec is not installed, does not know the URL, or lacks a package for it.
    """
    if not is_url(out):
        return LocalStore(Path(out))
    if out.startswith("file://"):
        return LocalStore(Path(out.removeprefix("file://")))
    store = RemoteStore(out.rstrip("/"))
    store.open()
    return store


@contextmanager
def locked(store: Store) -> Iterator[None]:
    """Hold the lock of a local directory, which is created; other stores have none.

    Raises:
        InputError: another process holds it.
    """
    if not isinstance(store, LocalStore):
        yield
        return
    lock = store.directory / LOCK
    with disk.locked(lock):
        try:
            yield
        finally:
            with suppress(OSError):
                lock.unlink()


@dataclass(frozen=True)
class LocalStore:
    """A directory."""

    directory: Path

    def names(self) -> set[str]:
        """Return the names of the files, without hidden ones; none if it does not exist."""
        if not self.directory.exists():
            return set()
        return {path.name for path in self.directory.iterdir() if not path.name.startswith(".")}

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        return (self.directory / name).read_bytes()

    def write(self, name: str, data: bytes) -> None:
        """Write a file with `files.write_file`."""
        write_text(self.directory / name, data)

    def prepare(self) -> None:
        """Remove temporary files."""
        for path in self.directory.glob(".*.tmp"):
            disk.remove(path)


@dataclass(frozen=True)
class RemoteStore:
    """A URL of fsspec, such as s3://bucket/vectors."""

    url: str

    def open(self) -> tuple[Any, str]:
        """Return the file system, and the path in it."""
        fsspec = require_extra("fsspec", "data")
        try:
            found: tuple[Any, str] = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            what = f"the URL cannot be opened ({str(error).splitlines()[0]})"
            raise InputError(what, self.url, "use a protocol of fsspec") from error
        return found

    def names(self) -> set[str]:
        """Return the names of the files, without hidden ones; none if there is nothing."""
        with self._errors():
            system, root = self.open()
            system.invalidate_cache()
            try:
                found = [str(path).rsplit("/", 1)[-1] for path in system.ls(root, detail=False)]
            except FileNotFoundError:
                return set()
            return {name for name in found if name and not name.startswith(".")}

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        with self._errors():
            system, root = self.open()
            data: bytes = system.cat_file(f"{root}/{name}")
            return data

    def write(self, name: str, data: bytes) -> None:
        """Upload a file, under a temporary name if that is not atomic."""
        with self._errors():
            system, root = self.open()
            if self.url.partition("://")[0] in ATOMIC:
                system.pipe_file(f"{root}/{name}", data)
                return
            system.makedirs(root, exist_ok=True)
            temporary = f"{root}/.{name}.{uuid.uuid4().hex}.tmp"
            try:
                system.pipe_file(temporary, data)
                system.mv(temporary, f"{root}/{name}")
            except BaseException:
                with suppress(Exception):
                    system.rm_file(temporary)
                raise

    def prepare(self) -> None:
        """Do nothing: other processes may write."""

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise StoreError for what the library of a file system raises."""
        try:
            yield
        except (InputError, StoreError):
            raise
        except Exception as error:  # such as those of a client of HTTP
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            what = f"the files cannot be read or written ({reason})"
            raise StoreError(what, self.url, "check the URL, the credentials and the network"
                             ) from error  # fmt: skip
