"""Where indexes are kept: one for each directory, in the cache of the user."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .. import disk
from ..errors import InputError, require_extra
from ..files import read_json
from .store import VERSION


@dataclass(frozen=True)
class Home:
    """The directory of an index."""

    path: Path

    @property
    def database(self) -> Path:
        """The index itself; another version of motherbird has another file."""
        return self.path / f"index-{VERSION}.db"

    @property
    def root(self) -> Path | None:
        """The directory that it is of; None if that cannot be read."""
        try:
            return Path(os.fsdecode(bytes.fromhex(read_json(self.path / "root.json")["root"])))
        except (OSError, ValueError, KeyError, TypeError, InputError):
            return None

    def remove_older(self) -> None:
        """Remove the indexes that earlier versions of motherbird made, if none uses them."""
        for version in range(1, VERSION):
            database = self.path / f"index-{version}.db"
            lock = database.with_suffix(".lock")
            if database.exists():
                with suppress(OSError, InputError), disk.locked(lock):
                    for path in (*self.path.glob(f"{database.name}*"), lock):
                        path.unlink(missing_ok=True)

    def size(self) -> int:
        """Return the number of bytes of its files."""
        return sum(path.stat().st_size for path in self.path.iterdir() if path.is_file())


def directory() -> Path:
    """Return the directory of all indexes; $MOTHERBIRD_CACHE, or that of the system for caches."""
    if found := os.environ.get("MOTHERBIRD_CACHE"):
        return Path(found) / "index"
    platformdirs = require_extra("platformdirs", "search")
    return Path(platformdirs.user_cache_dir("motherbird")) / "index"


def home_of(root: Path, *, create: bool = True) -> Home:
    """Return the directory of the index of a directory; only the user can read it."""
    name = os.fsencode(root)
    readable = "".join(c if c.isalnum() else "-" for c in root.name)[:40] or "root"
    found = Home(directory() / f"{readable}-{hashlib.sha256(name).hexdigest()[:16]}")
    if create and not (found.path / "root.json").is_file():
        found.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = found.path / f"root.json.{os.getpid()}"
        temporary.write_text(
            json.dumps({"root": name.hex(), "path": str(root)}), "utf-8", "replace"
        )
        temporary.replace(found.path / "root.json")
    return found


def homes() -> Iterator[Home]:
    """Yield the directories of all indexes."""
    folder = directory()
    if folder.is_dir():
        yield from (Home(path) for path in sorted(folder.iterdir()) if path.is_dir())


def root_of(path: Path) -> Path:
    """Return the directory whose index has a path: its repository, or itself.

    Raises:
        InputError: there is no such file or directory.
    """
    if not path.exists():
        raise InputError("the file or directory does not exist", str(path))
    found = path.resolve()
    directory = found if found.is_dir() else found.parent
    return next((p for p in (directory, *directory.parents) if (p / ".git").exists()), directory)
