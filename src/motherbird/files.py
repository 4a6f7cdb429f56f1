"""The one module that writes. What it names as finished is complete, or does not exist.

The protocol for a file: temporary name in the same directory, write, fsync, rename, fsync of the
directory. For a directory of our own the same, with ``motherbird.json`` inside: a list of the files
that we wrote, with the SHA-256 of each. That list is what makes a directory "ours": only such a
directory, and only while it holds nothing else, is ever replaced.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from . import disk
from .errors import DamagedError, InputError, OutputExistsError

MANIFEST = "motherbird.json"


def parse_json(text: str) -> Any:
    """Parse JSON strictly: duplicate keys, NaN, Infinity and lone surrogates are refused.

    Raises:
        ValueError, RecursionError: it is not strict JSON.
    """
    value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    if "\\u" in text:  # an escape can make a lone surrogate, which is no text
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} stands there twice")
        result[key] = value
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def read_json(path: Path) -> Any:
    """Read a file with `parse_json`.

    Raises:
        InputError: the file is missing, unreadable or not strict JSON.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the file ({error.strerror})", str(path)) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON ({error})", str(path), "repair or remove it") from error


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place in one step.

    An existing file is replaced; on any failure it is left as it was and nothing new remains.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        write(temporary)
        disk.sync(temporary)
        disk.replace(temporary, path)
    except OSError as error:  # a write to a full disk does not say where it was
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)
    disk.sync(path.parent)


def write_text(path: Path, text: str | bytes) -> None:
    """`write_file` for what is in memory."""
    data = text.encode() if isinstance(text, str) else text

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_file(path, write)


def write_array(path: Path, array: Any) -> None:
    """`write_file` for a NumPy array, as .npy."""
    import numpy as np

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # numpy would add .npy to a bare name
            np.save(file, array)

    write_file(path, write)


def check_replaceable(directory: Path, kind: str) -> None:
    """Refuse a directory that `new_directory` may not replace.

    Raises:
        OutputExistsError: it is a file, a link, not ours, of another kind, or holds files that we
            did not write.
    """
    how = "name a new folder, or remove this one yourself"
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise OutputExistsError("the output exists and is not a folder", str(directory), how)
    if not directory.exists() or not any(directory.iterdir()):
        return
    if not (directory / MANIFEST).is_file():
        raise OutputExistsError("the output folder was not made by motherbird", str(directory), how)
    manifest = read_manifest(directory)
    if manifest.get("kind") != kind:
        raise OutputExistsError(
            f"the output folder holds a {manifest.get('kind')}, not a {kind}", str(directory), how
        )
    ours = {MANIFEST, *manifest["sha256"]}
    foreign = sorted(_contents(directory) - ours)
    if foreign:
        raise OutputExistsError(
            f"the output folder also holds {foreign[0]!r}, which motherbird did not write",
            str(directory),
            how,
        )


def _contents(directory: Path) -> set[str]:
    return {
        p.relative_to(directory).as_posix()
        for p in directory.rglob("*")
        if p.is_symlink() or not p.is_dir() or not any(p.iterdir())
    }


def digests_of(manifest: Path) -> dict[str, str]:
    """SHA-256 by name of a manifest from elsewhere; no name leads out of its folder.

    Raises:
        DamagedError: it is none, or one does.
    """
    try:
        digests = read_json(manifest)["sha256"]
        names = [PurePosixPath(name) for name in digests]
        digests = dict(digests)
    except (InputError, TypeError, KeyError, ValueError) as error:
        raise DamagedError("not a manifest of motherbird", str(manifest)) from error
    for name in names:
        if name.is_absolute() or ".." in name.parts or "\\" in str(name):
            raise DamagedError(f"it names a file outside its folder, {str(name)!r}", str(manifest))
    return digests


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read ``motherbird.json``: {"kind", "motherbird", "sha256": {name: digest}, "own"}."""
    manifest = read_json(directory / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("sha256"), dict):
        raise DamagedError("not a manifest of motherbird", str(directory / MANIFEST))
    return manifest


def check_files(directory: Path, names: list[str]) -> None:
    """Compare files with the manifest beside them or one folder up, where there is one.

    Raises:
        DamagedError: a file's bytes are not those that were written.
    """
    for home in (directory, directory.parent):
        if not (home / MANIFEST).is_file():
            continue
        digests = read_manifest(home)["sha256"]
        for name in names:
            file = directory / name
            wanted = digests.get(file.relative_to(home).as_posix())
            if wanted is not None and sha256(file) != wanted:
                raise DamagedError(
                    "the file was changed after it was written (its SHA-256 differs)",
                    str(file),
                    "copy it again from its source",
                )


def check_directory(directory: Path, kind: str) -> None:
    """Verify a directory of ours, whole: every file is there and as written, and nothing else is.

    Raises:
        InputError: it is missing, not ours, or of another kind.
        DamagedError: what is wrong, with the file's name.
    """
    if not (directory / MANIFEST).is_file():
        what = "not a folder that motherbird finished" if directory.is_dir() else "no such folder"
        raise InputError(f"{what} (it would hold {MANIFEST})", str(directory))
    try:
        manifest = read_manifest(directory)
    except InputError as error:
        raise DamagedError(error.what, error.where) from error
    if (directory / MANIFEST).read_bytes() != _manifest_text(manifest).encode():
        raise DamagedError("the file was changed after it was written", str(directory / MANIFEST))
    if manifest.get("kind") != kind:
        raise InputError(f"it holds a {manifest.get('kind')}, not a {kind}", str(directory))
    names = set(manifest["sha256"])
    there = _contents(directory) - {MANIFEST}
    for name in sorted(names ^ there):
        what = "is missing" if name in names else "is not in the folder's manifest"
        raise DamagedError(f"the file {what}", str(directory / name))
    for name in [MANIFEST, *sorted(names)]:
        if (directory / name).is_symlink() or not (directory / name).is_file():
            raise DamagedError("it is a link or a folder, not a file", str(directory / name))
    check_files(directory, sorted(names))


def _manifest_text(manifest: dict[str, Any]) -> str:
    """A manifest as it is written, with a SHA-256 of what it says: a change in itself is found."""
    said = {key: value for key, value in manifest.items() if key != "own"}
    own = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    return json.dumps({**said, "own": own}, indent=1) + "\n"


@contextlib.contextmanager
def unfinished(
    directory: Path, kind: str, plan: dict[str, Any], *, wait: bool = False
) -> Iterator[Path]:
    """A hidden folder beside ``directory`` for work that takes long, and goes on after a kill.

    What an earlier try left there is kept if its plan was the same, and removed if not. At the end
    of the block the folder is removed; whatever fails inside the block leaves it.

    Args:
        directory: what is to be made, by `new_directory` inside the block.
        kind: of it.
        plan: what the work depends on, as JSON.
        wait: for another process that is at it, instead of refusing.

    Raises:
        OutputExistsError: see `check_replaceable`.
        InputError: another process is at it.
    """
    directory = Path(os.path.abspath(directory))
    check_replaceable(directory, kind)
    work = directory.parent / f".{directory.name}.unfinished"
    lock = work / "lock"
    with locked(lock, wait):
        text = json.dumps(plan, sort_keys=True)
        written = work / "plan.json"
        if not written.is_file() or written.read_text(encoding="utf-8") != text:
            _empty(work, but=lock)
            write_text(written, text)
        for path in work.glob(".*.tmp"):  # of writes that were killed
            path.unlink() if path.is_file() else shutil.rmtree(path)
        done = False
        try:
            yield work
            done = True
        finally:
            if done or set(work.iterdir()) <= {lock, written}:  # or nothing was done yet
                _empty(work, but=lock)
                with contextlib.suppress(OSError):  # who waits for it may have a new lock there
                    lock.unlink()
                    work.rmdir()


def _empty(folder: Path, but: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path != but:
            path.unlink()


@contextlib.contextmanager
def locked(path: Path, wait: bool = False) -> Iterator[Callable[[], None]]:
    """Hold a lock that the kernel releases when the process ends, however it ends.

    Yields a function that raises InputError if the lock's file is no longer the one that is held.

    Args:
        path: the file; it stays when the lock is given back.
        wait: for who has it, instead of refusing.

    Raises:
        InputError: another process has it; which one, where, and since when.
    """
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        except FileNotFoundError:
            continue  # as below
        except FileExistsError:  # no folder, or one that was moved while mkdir looked at it
            if os.path.lexists(path.parent) and not path.parent.is_dir():
                raise
            continue
        with file:
            if os.name == "posix":
                import fcntl

                try:
                    fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                except OSError as error:
                    raise InputError(
                        f"another process ({_holder(path)}) is working on it",
                        str(path.parent),
                        "wait for it, or stop it",
                    ) from error
                if not _is_still(file.fileno(), path):
                    continue  # who held it has finished, and removed it
            file.truncate(0)
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"pid {os.getpid()} on {platform.node()} since {since}")
            file.flush()

            try:
                yield partial(_check_lock, file.fileno(), path)
            finally:
                file.truncate(0)  # whoever comes next is not to be taken for us
            return


def _holder(path: Path) -> str:
    """Who holds a lock; it has a moment to write that down."""
    for _ in range(100):
        with contextlib.suppress(FileNotFoundError):
            if text := path.read_text().strip():
                return text
        time.sleep(0.01)
    return "unknown"


def _check_lock(handle: int, path: Path) -> None:
    if os.name == "posix" and not _is_still(handle, path):
        raise InputError(
            "the lock was removed or replaced while it was held",
            str(path),
            "let one process at a time work there, and start again",
        )


def _is_still(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def new_directory(
    directory: Path,
    kind: str,
    work: Path | None = None,
    digests: dict[str, str] | None = None,
) -> Iterator[Path]:
    """Give a temporary directory to fill; at the end of the block it becomes ``directory``.

    A directory of our own is replaced, an empty one too; whatever fails inside the block leaves
    the old one as it was.

    Args:
        directory: what is made.
        kind: of it, for its manifest.
        work: where the temporary one lies, such as a folder of `unfinished`; beside it if not set.
        digests: SHA-256 by name of files that the block writes by `disk.write`, which it enters
            here; such a directory is new, and replaces nothing.

    Raises:
        OutputExistsError: see `check_replaceable`.
    """
    from . import __version__

    directory = Path(os.path.abspath(directory))
    check_replaceable(directory, kind)
    directory.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    fresh = (work or directory.parent) / f".{directory.name}.{token}.tmp"
    old = directory.parent / f".{directory.name}.{token}.old"
    disk.mkdir(fresh)
    try:
        yield fresh
        known = digests or {}
        names = sorted(_contents(fresh))
        hashes = {name: known.get(name) or sha256(fresh / name) for name in names}
        manifest = {"kind": kind, "motherbird": __version__, "sha256": hashes}
        text = _manifest_text(manifest).encode()
        disk.write(fresh / MANIFEST, [text], len(text))
        for path in [*fresh.rglob("*"), fresh]:
            if path.relative_to(fresh).as_posix() not in {MANIFEST, *(digests or {})}:
                disk.sync(path)
        if digests is None:
            check_replaceable(directory, kind)
        if digests is not None:
            disk.rename_new(fresh, directory)
        elif not directory.exists():
            disk.rename(fresh, directory)
        elif not disk.exchange(fresh, directory):  # if so, the old one is now called `fresh`
            disk.rename(directory, old)
            try:
                disk.rename(fresh, directory)
            except BaseException:
                disk.rename(old, directory)
                raise
            shutil.rmtree(old, ignore_errors=True)
        try:
            disk.sync(directory.parent)
        except OSError:
            if digests is not None:  # a name that may be gone tomorrow is none
                with contextlib.suppress(OSError):
                    disk.rename(directory, fresh)
            raise
    except OSError as error:
        error.filename = error.filename or str(directory)
        raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
