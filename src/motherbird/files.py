"""Atomic writes: a file or directory with its final name is complete.

A file is written under a temporary name in the same directory, synced, and renamed. A directory is
written in the same way, with a manifest: ``motherbird.json``, which lists its files with their
SHA-256. Only a directory with a manifest is ever replaced, and only if it has no other files.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

from . import disk
from .disk import locked
from .errors import DamagedError, InputError, OutputExistsError

log = logging.getLogger(__name__)

MANIFEST = "motherbird.json"
MAKERS = {"prepared-text": " (motherbird prepare makes one)"}  # by the kind of a directory
UNFINISHED, LOCK = ".unfinished", "lock"  # suffix of work directories; a file in each
KINDS = {"converted model": "an exported model", "model": "a saved model",
         "prepared-text": "a prepared dataset"}  # in errors  # fmt: skip
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
COPY, THREADS = "copy it from its source again", 16  # threads that hash files, at most


def check_utf_8(path: str | Path) -> None:
    """Raise InputError if a path is not UTF-8: JSON, tokenizers and safetensors need that."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        what, how = "the path is not valid UTF-8", "rename it, or use another path"
        raise InputError(what, ascii(str(path)), how) from error


def cache_directory() -> Path:
    """Return $XDG_CACHE_HOME/motherbird, or ~/.cache/motherbird if that is not set."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "motherbird"


def parse_json(text: str) -> Any:
    """Parse JSON; duplicate keys, NaN, Infinity and lone surrogates are ValueErrors too."""
    try:
        value = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except ValueError as error:
        if "set_int_max_str_digits" in str(error):
            raise ValueError("a number has more than 4,300 digits") from error
        raise
    if "\\u" in text:  # an escape can be a lone surrogate
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError("an escape such as \\ud83d is half a character") from error
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} occurs twice")
        result[key] = value
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def read_json(path: Path) -> Any:
    """Read a file with `parse_json`, or raise InputError."""
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read the file ({error.strerror})", str(path)) from error
    except (ValueError, RecursionError) as error:
        what, how = _why_not_json(path.read_bytes()[:1000]) or (str(error), "fix it")
        raise InputError(f"the file is not valid JSON ({what})", str(path), how) from error


def _why_not_json(start: bytes) -> tuple[str, str] | None:
    """Return what a file is in place of JSON, and what to do about it."""
    if start.startswith(LFS_POINTER):
        return "it is a Git LFS pointer", "download the files with git lfs pull"
    empty, html = not start.strip(), start.lstrip().startswith(b"<")
    found = "not UTF-8" if b"\0" in start else "empty" if empty else "HTML" if html else ""
    return (f"it is {found}", "download or copy it again") if found else None


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object with `read_json`; anything else is an InputError."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError("the file is not a JSON object", str(path))
    return value


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a temporary path, then rename that file to ``path``.

    An existing file is replaced; if an error occurs, it is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    with disk.named(path):
        try:
            write(temporary)
            disk.sync(temporary)
            disk.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    disk.sync(path.parent)


def write_text(path: Path, text: str | bytes) -> None:
    """Write text (as UTF-8) or bytes with `write_file`."""
    data = text.encode() if isinstance(text, str) else text
    write_file(path, lambda temporary: temporary.write_bytes(data))


def write_array(path: Path, array: Any) -> None:
    """Write a NumPy array with `write_file`, as .npy."""
    import numpy as np

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # numpy adds .npy to other names
            writer: Any = SimpleNamespace(write=file.write)  # errors of `tofile` have no errno
            np.lib.format.write_array(writer, np.asanyarray(array), allow_pickle=False)

    write_file(path, write)


def check_replaceable(directory: Path, kind: str, creatable: bool = True) -> None:
    """Raise OutputExistsError if `new_directory` may not replace a directory.

    It may if the directory is missing or empty, or if motherbird created it, it is of the same
    kind, and has no other files. With ``creatable``, InputError if nothing can be created there.
    """
    disk.check_place(directory)
    if creatable:
        disk.check_creatable(directory)
    if what := _why_not_replaceable(directory, kind):
        how = "choose another directory, or delete this one"
        raise OutputExistsError(what, str(directory), how)


def _why_not_replaceable(directory: Path, kind: str) -> str | None:
    if directory.exists() and not directory.is_dir():
        return "the output exists and is not a directory"
    if not directory.exists() or not any(directory.iterdir()):
        return None
    if not (directory / MANIFEST).is_file():
        return "the output directory was not created by motherbird"
    manifest = read_manifest(directory)
    if manifest.get("kind") != kind:
        return f"the output directory is {_name(manifest.get('kind'))}, not {_name(kind)}"
    others = sorted(_contents(directory) - {MANIFEST, *manifest["sha256"]})
    if others:
        return f"the output directory also contains {others[0]!r}, which motherbird did not write"
    return None


def _contents(directory: Path) -> set[str]:
    """Return the relative paths of all files, links and empty directories."""
    return {
        p.relative_to(directory).as_posix()
        for p in directory.rglob("*")
        if p.is_symlink() or not p.is_dir() or not any(p.iterdir())
    }


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read ``motherbird.json``: {"kind", "motherbird", "sha256": {name: digest}, "own"}.

    A file that is missing or not JSON is an InputError; one that is not a manifest, or names a
    file outside the directory, is a DamagedError.
    """
    path = directory / MANIFEST
    manifest = read_json(path)
    digests = manifest.get("sha256") if isinstance(manifest, dict) else None
    if not isinstance(digests, dict) or not all(isinstance(d, str) for d in digests.values()):
        raise DamagedError("the file is not a manifest of motherbird", str(path))
    for name in digests:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise DamagedError(f"the file {name!r} is outside the directory", str(path))
    return manifest


def check_files(directory: Path, names: list[str]) -> None:
    """Raise DamagedError if a file was changed, by the manifest in its directory or the parent."""
    for home in (directory, directory.parent):
        if not (home / MANIFEST).is_file():
            continue
        digests = read_manifest(home)["sha256"]
        paths = [directory / name for name in names]
        wanted = {path: digests.get(path.relative_to(home).as_posix()) for path in paths}
        _hash_all((path for path in paths if wanted[path] is not None), wanted)


def _hash_all(paths: Iterable[Path], wanted: dict[Path, str | None] | None = None) -> list[str]:
    """Return the SHA-256 of files, computed in threads; DamagedError if one is not as wanted."""

    def digest(path: Path) -> str:
        found = sha256(path)
        if wanted is not None and found != wanted[path]:
            what = "the file was changed after it was written (its SHA-256 differs)"
            raise DamagedError(what, str(path), COPY)
        return found

    # hashlib releases the GIL. After the first error, waiting files are not hashed.
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        return list(pool.map(digest, paths))


def check_directory(directory: Path, kind: str) -> None:
    """Verify all files of a directory by its manifest; see `check_names`.

    Raises:
        InputError: the directory is missing, has no manifest, or is of another kind.
        DamagedError: a file is missing, was changed, or is not in the manifest; it is named.
    """
    check_files(directory, check_names(directory, kind))


def check_names(directory: Path, kind: str) -> list[str]:
    """Return the names of the files in a directory's manifest, in order; they are not hashed.

    Raises:
        InputError: the directory is missing, has no manifest, or is of another kind.
        DamagedError: a file is missing or is not in the manifest, or the manifest was changed.
    """
    if not (directory / MANIFEST).is_file():
        how = f"use the directory of {_name(kind)}"
        if directory.is_file():
            raise InputError("this is a file, not a directory", str(directory), how)
        gone = not directory.is_dir()
        what = "does not exist" if gone else f"is not {_name(kind)} ({MANIFEST} is missing)"
        if not gone:
            how = f"{how}{MAKERS.get(kind, '')}; of a copy, copy {MANIFEST} too"
        raise InputError(f"the directory {what}", str(directory), how)
    try:
        manifest = read_manifest(directory)
    except InputError as error:
        raise DamagedError(error.what, error.where, COPY) from error
    if (directory / MANIFEST).read_bytes() != _manifest_text(manifest).encode():
        what = "the file was changed after it was written"
        raise DamagedError(what, str(directory / MANIFEST), COPY)
    if manifest.get("kind") != kind:
        what = f"this is {_name(manifest.get('kind'))}, not {_name(kind)}"
        raise InputError(what, str(directory), f"use the directory of {_name(kind)}")
    names = set(manifest["sha256"])
    for name in sorted(names ^ (_contents(directory) - {MANIFEST})):
        if name in names:
            raise DamagedError("the file is missing", str(directory / name), COPY)
        what = "the file is not in the directory's manifest"
        raise DamagedError(what, str(directory / name), "delete it, or move it elsewhere")
    for name in [MANIFEST, *sorted(names)]:
        if (directory / name).is_symlink() or not (directory / name).is_file():
            raise DamagedError("this is a link or a directory, not a file", str(directory / name))
    return sorted(names)


def _name(kind: Any) -> str:
    return KINDS.get(str(kind), f"a {kind}")


def _manifest_text(manifest: dict[str, Any]) -> str:
    """Return the text of a manifest; "own" is the SHA-256 of its other keys."""
    content = {key: value for key, value in manifest.items() if key != "own"}
    own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps({**content, "own": own}, indent=1) + "\n"


@contextlib.contextmanager
def resumable_directory(
    directory: Path, kind: str, plan: Any, *, wait: bool = False
) -> Iterator[Path]:
    """Provide a hidden work directory next to ``directory`` for long work that can be resumed.

    The files of an earlier, interrupted attempt are kept if its plan was the same, and removed
    otherwise. The work directory is removed at the end of the block, unless an error occurs.

    ``directory`` is created with `new_directory` inside the block, and has to pass
    `check_replaceable`. The plan is everything that the work depends on, as JSON. If another
    process works on it, raise InputError, or ``wait`` for it.
    """
    check_replaceable(directory, kind)
    directory = Path(os.path.abspath(directory))
    work = directory.parent / f".{directory.name}{UNFINISHED}"
    lock = work / LOCK
    with locked(lock, wait):
        text = json.dumps(plan, sort_keys=True)
        plan_file = work / "plan.json"
        if not plan_file.is_file() or plan_file.read_text(encoding="utf-8") != text:
            discard(work)
            write_text(plan_file, text)
        for path in work.glob(".*.tmp"):  # from interrupted writes
            disk.remove(path)
        done = False
        try:
            yield work
            done = True
        finally:
            if done or set(work.iterdir()) <= {lock, plan_file}:  # or nothing was written
                discard(work)
                with contextlib.suppress(OSError):  # a waiting process may have a new lock there
                    lock.unlink()
                    work.rmdir()
            elif not directory.parent.name.endswith(UNFINISHED):  # else it is a part of other work
                log.warning("unfinished work is kept in %s: repeat the call, or delete it", work)


def discard(work: Path) -> None:
    """Remove the files of a `resumable_directory`: a repeated call cannot use them."""
    for path in work.iterdir():
        if path.name != LOCK:
            disk.remove(path)


@contextlib.contextmanager
def new_directory(
    directory: Path, kind: str, work: Path | None = None, digests: dict[str, str] | None = None
) -> Iterator[Path]:
    """Provide a temporary directory that is renamed to ``directory`` at the end of the block.

    An existing directory that `check_replaceable` allows is replaced. If an error occurs inside the
    block, it is unchanged.

    The parent of the temporary directory is ``work``, for example a `resumable_directory`, or that
    of ``directory``. ``digests`` are filled inside the block with the SHA-256 by name of files
    written with `disk.write`; a directory with digests never replaces another one.
    """
    from . import __version__

    check_replaceable(directory, kind, creatable=digests is None)
    directory = Path(os.path.abspath(directory))
    directory.parent.mkdir(parents=True, exist_ok=True)
    fresh = (work or directory.parent) / f".{directory.name}.{uuid.uuid4().hex}.tmp"
    disk.mkdir(fresh)
    try:
        with disk.named(directory):
            yield fresh
            known = digests or {}
            names = sorted(_contents(fresh))
            found = iter(_hash_all(fresh / name for name in names if name not in known))
            hashes = {name: known.get(name) or next(found) for name in names}
            manifest = {"kind": kind, "motherbird": __version__, "sha256": hashes}
            text = _manifest_text(manifest).encode()
            disk.write(fresh / MANIFEST, [text], len(text))
            for path in [*fresh.rglob("*"), fresh]:
                if path.relative_to(fresh).as_posix() not in {MANIFEST, *known}:
                    disk.sync(path)
            if digests is None:
                check_replaceable(directory, kind)
                _replace_directory(fresh, directory)
                disk.sync(directory.parent)
                return
            disk.rename_new(fresh, directory)
            try:
                disk.sync(directory.parent)
            except OSError:  # the name could be lost in a power failure
                with contextlib.suppress(OSError):
                    disk.rename(directory, fresh)
                raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _replace_directory(fresh: Path, directory: Path) -> None:
    if not directory.exists():
        disk.rename(fresh, directory)
    elif not disk.exchange(fresh, directory):  # after an exchange, `fresh` is the old directory
        old = directory.parent / f"{fresh.stem}.old"
        disk.rename(directory, old)
        try:
            disk.rename(fresh, directory)
        except BaseException:
            disk.rename(old, directory)
            raise
        shutil.rmtree(old, ignore_errors=True)
