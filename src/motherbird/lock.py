"""A lock file: one process at a time works in a directory.

filelock is not used because it does not say who holds a lock, and does not notice that the file of
a held lock was removed.
"""

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from .errors import InputError


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[Callable[[], None]]:
    """Hold a lock file, which the kernel releases when the process ends; it is not removed.

    If another process has the lock, wait for it, or raise InputError, which names the process.
    Yields a function that raises InputError if the file was removed or replaced in the meantime.
    """

    def is_held() -> bool:
        try:
            return os.name != "posix" or os.path.samestat(os.fstat(file.fileno()), path.stat())
        except FileNotFoundError:
            return False

    def check() -> None:
        if not is_held():
            raise InputError(
                "the lock was removed or replaced while it was held",
                str(path),
                "let one process at a time work there, and start again",
            )

    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        except FileNotFoundError:  # the previous holder removed the directory
            continue
        except FileExistsError:
            if os.path.lexists(path.parent) and not path.parent.is_dir():
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
        raise InputError(
            f"another process ({_holder(path)}) is working on it",
            str(path.parent),
            "wait for it, or stop it",
        ) from error


def _holder(path: Path) -> str:
    """Return who holds a lock; the holder writes that shortly after it gets the lock."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):
            if text := path.read_text().strip():
                return text
        time.sleep(0.01)
    return "unknown"
