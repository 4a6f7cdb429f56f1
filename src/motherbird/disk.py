"""The primitives of writing, with a hook that lets tests make each of them fail, and a lock.

Code that has to survive faults writes only with these. `watch` is None except in tests: it is
called before and after every primitive, and may raise an OSError or end the process.
"""

import errno
import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, Any

from .errors import InputError, NoRoomError, OutputExistsError, human

# Arguments: "before" or "after", the name of the primitive, the path, and other arguments.
Watch = Callable[[str, str, Path, Any], None]
watch: Watch | None = None
TRIES = 1000  # to create a directory that others may remove


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name the path in an OSError that has no file name, such as that of a failed write."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
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


def check_creatable(path: Path) -> None:
    """Raise InputError if nothing can be created at a path: its parent is a file or read-only.

    Missing parents are allowed.
    """
    parent = next((each for each in path.parents if os.path.lexists(each)), Path("."))
    if not parent.is_dir():
        what = "this is a file, not a directory" if parent.exists() else "this link leads nowhere"
        raise InputError(what, str(parent), "use another path")
    if not os.access(parent, os.W_OK | os.X_OK):
        what = "nothing can be created in this directory"
        raise InputError(what, str(parent), "check its permissions, or use another path")


def resolve(path: str | Path) -> Path:
    """Return a path without links, or raise InputError if a link leads to itself."""
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise InputError("this link leads to itself", str(path), "use another path") from error
    return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError in Python 3.11


def path_outside(path: Path, directories: Iterable[str | Path]) -> str:
    """Return a path with a similar name that does not exist, outside of all directories."""
    inside = [resolve(directory) for directory in directories]
    path = Path(os.path.abspath(path))
    home = resolve(path.parent)
    while home != home.parent and any(home.is_relative_to(each) for each in inside):
        home = home.parent
    number, free = 1, home / path.name
    while os.path.lexists(free) or free in inside:
        number += 1
        free = home / f"{path.stem}-{number}{path.suffix}"
    return os.path.relpath(free)


def check_outside(path: str | Path, inputs: Iterable[str | Path]) -> None:
    """Raise InputError if an output is one of the inputs, or inside one."""
    out = resolve(path)
    for given in inputs:
        found = resolve(given)
        if out == found or (found.is_dir() and found in out.parents):
            what = f"the output is inside the input {given}"
            how = f"use another path, such as {path_outside(Path(path), inputs)}"
            raise InputError("the output is the input" if out == found else what, str(path), how)


def check_place(directory: Path) -> None:
    """Raise OutputExistsError if a path is a link, or is or contains the current directory.

    A new directory of that name would replace the link, or leave the process in a removed one.
    """
    if directory.is_symlink():
        how = f"use the directory that it leads to: {resolve(directory)}"
        raise OutputExistsError("the output is a link", str(directory), how)
    with suppress(FileNotFoundError):  # the current directory was removed before
        here = resolve(Path.cwd())
        if resolve(directory) in (here, *here.parents):
            how = "use the name of a new one, such as ./NAME"
            raise OutputExistsError("the output is the current directory", str(directory), how)


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
        what = f"{human(1.1 * size, 'B')} are needed and {human(free, 'B')} are free"
        raise NoRoomError(what, str(directory), "free space; earlier files are unchanged")


@contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[Callable[[], None]]:
    """Hold a lock file, which the kernel releases when the process ends; it is not removed.

    If another process has the lock, wait for it, or raise InputError, which names the process.
    Yields a function that raises InputError if the file was removed or replaced in the meantime.
    filelock does not name the holder, and does not notice that the file was removed.
    """

    def is_held() -> bool:
        try:
            return os.name != "posix" or os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            return False

    def check() -> None:
        if not is_held():
            what = "the lock was removed or replaced while it was held"
            raise InputError(what, str(path), "run only one process at a time in this directory")

    for attempt in count():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        except (FileNotFoundError, FileExistsError):  # the previous holder removed the directory
            if attempt == TRIES:  # or nothing can be created there, as in /proc or in a file
                raise
            continue
        with file:
            if os.name == "posix":
                _acquire(file, path, wait)
            if not is_held():  # the previous holder removed it
                continue
            file.truncate(0)
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"pid {os.getpid()} on {platform.node()} since {since}")
            file.flush()
            try:
                yield check
            finally:
                file.truncate(0)
            return


def _acquire(file: IO[str], path: Path, wait: bool) -> None:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        what = f"another process ({_holder(path)}) is working on it"
        raise InputError(what, str(path.parent), "wait for it, or stop it") from error


def _holder(path: Path) -> str:
    """Return who holds a lock; the holder writes that shortly after it gets the lock."""
    for _ in range(100):
        with suppress(FileNotFoundError):
            if text := path.read_text().strip():
                return text
        time.sleep(0.01)
    return "unknown"
