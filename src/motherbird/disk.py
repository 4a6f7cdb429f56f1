"""The primitives of writing, each a named point at which a test can make it fail, or die.

Whoever promises that something survives a fault writes through these alone. `watch` is None in the
product; a test sets it, is told of every primitive before it begins and after it is done, and may
raise an OSError, end the process, or take notes.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import MotherbirdError

# "before" or "after", the primitive's name, the path, and what else it was called with.
Watch = Callable[[str, str, Path, Any], None]
watch: Watch | None = None


class NoRoomError(MotherbirdError):
    """There is too little space for what is to be written."""

    code = "no-room"


@contextmanager
def _point(name: str, path: Path, detail: Any = None) -> Iterator[None]:
    try:
        if watch is not None:
            watch("before", name, path, detail)
        yield
        if watch is not None:
            watch("after", name, path, detail)
    except OSError as error:  # a write to a full disk does not say where it was
        error.filename = error.filename or str(path)
        raise


def mkdir(path: Path) -> None:
    """Make a directory; its parents are there."""
    with _point("mkdir", path):
        path.mkdir()


def write(path: Path, chunks: Iterable[bytes | memoryview], size: int) -> str:
    """Write a new file and wait until its bytes are on the disk.

    The space is reserved first, so that a full disk shows before anything is written. The file
    must not exist, and is no link.

    Args:
        path: the file.
        chunks: what it holds.
        size: bytes of all chunks together.

    Returns:
        SHA-256 of the bytes that were meant, in hexadecimal.

    Raises:
        OSError: naming the path; what is half written is left to the caller.
    """
    digest = hashlib.sha256()
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    with _point("create", path):
        handle = os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with _point("reserve", path, size):
            if size and hasattr(os, "posix_fallocate"):
                try:
                    os.posix_fallocate(handle, 0, size)
                except OSError as error:  # some file systems cannot
                    if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                        raise
        for chunk in chunks:
            rest = memoryview(chunk)
            digest.update(rest)
            while rest:
                with _point("write", path, rest):
                    done = os.write(handle, rest[: 1 << 30])
                rest = rest[done:]
        with _point("sync", path):
            os.fsync(handle)
    except BaseException:
        os.close(handle)
        raise
    with _point("close", path):
        os.close(handle)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Wait until a file's bytes, or the names in a directory, are on the disk."""
    # Windows can neither open nor sync a directory; there the rename has to do.
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        with _point("sync", path):
            os.fsync(handle)
    finally:
        os.close(handle)


def rename(old: Path, new: Path) -> None:
    """Give a file or a directory another name."""
    with _point("rename", old, new):
        os.rename(old, new)


def replace(old: Path, new: Path) -> None:
    """Give a file the name of another, which is gone in the same step."""
    with _point("replace", old, new):
        os.replace(old, new)


def rename_new(old: Path, new: Path) -> None:
    """`rename` that never takes a name that is there, not even an empty directory's.

    Raises:
        FileExistsError: the name is taken.
    """
    with _point("rename", old, new):
        done = _renameat2(old, new, 1)  # RENAME_NOREPLACE
        if done is None:
            if os.path.lexists(new):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
            os.rename(old, new)
        elif done:
            raise OSError(done, os.strerror(done), str(new))


def exchange(first: Path, second: Path) -> bool:
    """Swap two names in one step, so that no kill finds neither; False where none can."""
    with _point("exchange", first, second):
        return _renameat2(first, second, 2) == 0  # RENAME_EXCHANGE


def _renameat2(old: Path, new: Path, flag: int) -> int | None:
    """The errno of Linux' renameat2, 0 if it worked; None where there is none."""
    import ctypes

    here = -100  # AT_FDCWD
    library = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    call = getattr(library, "renameat2", None)
    if call is None:
        return None
    if call(here, os.fsencode(old), here, os.fsencode(new), flag) == 0:
        return 0
    number = ctypes.get_errno()
    return None if number in (errno.ENOSYS, errno.EINVAL) else number


def unlink(path: Path) -> None:
    """Remove a file."""
    with _point("unlink", path):
        path.unlink()


def remove(directory: Path) -> None:
    """Remove a directory with all that is in it, or a file; what is gone already is fine."""
    with _point("remove", directory):
        if directory.is_symlink() or not directory.is_dir():
            directory.unlink(missing_ok=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)


def check_room(directory: Path, size: int) -> None:
    """Refuse what will not fit; 10% are left for others.

    Raises:
        NoRoomError: with what is needed and what is free.
    """
    with _point("room", directory, size):
        free = shutil.disk_usage(directory).free
    if free < 1.1 * size:
        raise NoRoomError(
            f"{1.1 * size / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free",
            str(directory),
            "free space; what was saved before is untouched",
        )
