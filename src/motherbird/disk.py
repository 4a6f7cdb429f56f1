"""The primitives of writing, with a hook that lets tests make each of them fail.

Code that has to survive faults writes only with these. `watch` is None except in tests: it is
called before and after every primitive, and may raise an OSError or end the process.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import NoRoomError

# Arguments: "before" or "after", the name of the primitive, the path, and other arguments.
Watch = Callable[[str, str, Path, Any], None]
watch: Watch | None = None


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name the path in an OSError that has no file name, such as that of a failed write."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def _point(name: str, path: Path, detail: Any = None) -> Iterator[None]:
    with named(path):
        if watch is not None:
            watch("before", name, path, detail)
        yield
        if watch is not None:
            watch("after", name, path, detail)


def mkdir(path: Path) -> None:
    """Create a directory in an existing one."""
    with _point("mkdir", path):
        path.mkdir()


def write(path: Path, chunks: Iterable[bytes | memoryview], size: int) -> str:
    """Write a new file of ``size`` bytes, wait until they are on the disk; return their SHA-256.

    The space is reserved first, so that a full disk is noticed before anything is written. The
    file must not exist, and links are not followed. If an error occurs, a partly written file is
    not removed.
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
                except OSError as error:  # not supported by some file systems
                    if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                        raise
        for chunk in chunks:
            left = memoryview(chunk)
            digest.update(left)
            while left:
                with _point("write", path, left):
                    done = os.write(handle, left[: 1 << 30])
                left = left[done:]
        with _point("sync", path):
            os.fsync(handle)
    except BaseException:
        os.close(handle)
        raise
    with _point("close", path):
        os.close(handle)
    return digest.hexdigest()


def sync(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a directory, are on the disk."""
    # Windows cannot open a directory to sync it.
    if os.name == "nt" and path.is_dir():
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        with _point("sync", path):
            os.fsync(handle)
    finally:
        os.close(handle)


def rename(old: Path, new: Path) -> None:
    """Rename a file or a directory."""
    with _point("rename", old, new):
        os.rename(old, new)


def replace(old: Path, new: Path) -> None:
    """Rename a file, and replace an existing file of that name."""
    with _point("replace", old, new):
        os.replace(old, new)


def rename_new(old: Path, new: Path) -> None:
    """Rename to a name that does not exist, not even as an empty directory (FileExistsError)."""
    with _point("rename", old, new):
        done = _renameat2(old, new, 1)  # RENAME_NOREPLACE
        if done is None:
            if os.path.lexists(new):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
            os.rename(old, new)
        elif done:
            raise OSError(done, os.strerror(done), str(new))


def exchange(first: Path, second: Path) -> bool:
    """Exchange two names atomically; returns False if the system does not support that."""
    with _point("exchange", first, second):
        return _renameat2(first, second, 2) == 0  # RENAME_EXCHANGE


def _renameat2(old: Path, new: Path, flag: int) -> int | None:
    """Call Linux' renameat2; returns its errno, 0 for success, or None if not supported."""
    import ctypes

    cwd = -100  # AT_FDCWD
    library = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    call = getattr(library, "renameat2", None)
    if call is None:
        return None
    if call(cwd, os.fsencode(old), cwd, os.fsencode(new), flag) == 0:
        return 0
    number = ctypes.get_errno()
    return None if number in (errno.ENOSYS, errno.EINVAL) else number


def remove(directory: Path) -> None:
    """Remove a file, or a directory with its content; a missing one is ignored."""
    with _point("remove", directory):
        if directory.is_symlink() or not directory.is_dir():
            directory.unlink(missing_ok=True)
        else:
            shutil.rmtree(directory, ignore_errors=True)


def check_room(directory: Path, size: int) -> None:
    """Raise NoRoomError if there is not enough space for ``size`` bytes and 10% more."""
    with _point("room", directory, size):
        free = shutil.disk_usage(directory).free
    if free < 1.1 * size:
        raise NoRoomError(
            f"{1.1 * size / 1e6:,.0f} MB are needed and {free / 1e6:,.0f} MB are free",
            str(directory),
            "free space; earlier files are unchanged",
        )
