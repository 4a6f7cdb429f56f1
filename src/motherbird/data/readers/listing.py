"""The files of a directory: which are read, and which are skipped and why.

Hidden files and directories are not read. Links to files and directories inside the directory are
followed, and so are those of a snapshot in the Hugging Face Hub's cache to the blobs of its
repository; links that lead elsewhere are not. A file with several names is read once.

`RULES` are for working directories of code. The rules for files and directories are applied here,
those that need the text of a file by `generated`.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePath
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ...engine.states import States
from ..tally import Count, describe
from . import ignore
from .document import name_of, plain_name

Rule = Literal["gitignored", "vendored", "generated", "minified"]
RULES: tuple[Rule, ...] = get_args(Rule)
VENDORED = {
    "node_modules", "bower_components", "jspm_packages", "vendor", "vendored", "third_party",
    "third-party", "thirdparty", "3rdparty", "site-packages", "dist-packages", "__pypackages__",
    "_vendor", "Pods", "Carthage", "Godeps",
}  # fmt: skip
VIRTUALENV = "pyvenv.cfg"  # the file that makes a directory a virtual environment
CLOCK = 100_000_000  # nanoseconds; clocks of local file systems, but FAT's, are finer
HUB_REPOSITORIES = ("models--", "datasets--", "spaces--")

OTHER_SUFFIXES = "other suffixes"  # the reason for files without a reader that nothing selects

# Of a relative path: whether the file would be read; None if only its suffix is against it.
Wanted = Callable[[str], bool | None]


@dataclass
class Listing:
    """The files of a directory, sorted by name, and the number of those that are skipped."""

    root: Path = Path()
    names: list[str] = field(default_factory=list)  # paths in the directory, with /
    skipped: dict[str, Count] = field(default_factory=dict)  # by reason
    # Directories and files of patterns, with the time of their last change in nanoseconds.
    seen: dict[str, int] = field(default_factory=dict)

    def is_current(self) -> bool:
        """Return whether no directory and no file of patterns has changed since."""
        now = self._states.read()[:, 2]
        return bool(((now >= 0) & (now == self._times)).all())

    @cached_property
    def _states(self) -> States:
        return States(self.seen)

    @cached_property
    def _times(self) -> NDArray[np.int64]:
        return np.fromiter(self.seen.values(), np.int64)

    @cached_property
    def files(self) -> list[Path]:
        """The paths of the files."""
        return [self.root / name for name in self.names]

    def problems(self) -> str:
        """Describe what is skipped, apart from `RULES` and other suffixes; empty if nothing."""
        usual = (*RULES, OTHER_SUFFIXES)
        return describe({r: count for r, count in self.skipped.items() if r not in usual})


@dataclass(frozen=True)
class _Directory:
    path: str
    inside: str  # the path from the root, with / and one at the end; empty for the root
    real_paths: tuple[str, ...]  # those of the directories from the root to this one
    skipped_as: str | None  # the rule by which all of its files are skipped
    ignored: tuple[ignore.IgnoreFile, ...] = ()  # the .gitignore files from the root to this one


def list_files(
    folder: Path,
    wanted: Wanted,
    rules: Sequence[str] = (),
    follow_links: bool = True,
    ignored: Sequence[ignore.IgnoreFile] = (),
    names: Sequence[str] = (ignore.NAME,),
) -> Listing:
    """List the regular files below a directory that are wanted and not skipped by ``rules``.

    Args:
        folder: the directory.
        wanted: of a path in it, whether the file would be read.
        rules: some of `RULES`.
        follow_links: whether links to files and directories in the directory are followed.
        ignored: patterns for the whole directory, which those of the files in it can overrule.
        names: of the files with patterns, the last one overrules the others.

    Raises:
        InputError: a file with patterns cannot be read.
    """
    walk = _Walk(folder, wanted, rules, follow_links, ignored, names)
    return Listing(folder, sorted(walk.found.values(), key=_parts), walk.skipped, walk.seen)


def settled(changed: int) -> int:
    """Return a time of change in nanoseconds, or -1 if the next change could have the same time."""
    return changed if time.time_ns() - changed > CLOCK else -1


class _Walk:
    """A walk through a directory: files first, and then what links lead to."""

    def __init__(
        self,
        folder: Path,
        wanted: Wanted,
        rules: Sequence[str],
        follow_links: bool,
        ignored: Sequence[ignore.IgnoreFile],
        names: Sequence[str],
    ) -> None:
        self.wanted, self.rules, self.follow_links = wanted, rules, follow_links
        self.names = names
        self.root = os.fspath(folder)
        self.found: dict[str, str] = {}  # paths in the directory, by real path
        self.skipped: dict[str, Count] = {}
        self.seen: dict[str, int] = {}
        real = os.path.realpath(folder)
        self.targets = [Path(real), *_blobs(Path(real))]
        self.linked: dict[str, str] = {}  # links to files, by real path
        self.others: dict[str, str] = {}  # files with other suffixes, by real path
        self.walked_by_link: set[str] = set()
        # What links lead to is on the left.
        self.todo = deque([_Directory(self.root, "", (real,), None, tuple(ignored))])
        while self.todo:
            self.scan(self.todo.pop())
        self.found = {**self.linked, **self.found}
        self.count_others()

    def skip(self, reason: str, inside: str, size: int = 0) -> None:
        example = {"where": name_of(Path(inside))}
        self.skipped.setdefault(reason, Count()).add(size, example)

    def scan(self, at: _Directory) -> None:
        """Add the files of a directory, and its directories to ``todo``."""
        try:
            self.seen[at.path] = settled(os.stat(at.path).st_ctime_ns)
            with os.scandir(at.path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            self.skip("unreadable directories", at.inside)
            return
        names = {entry.name for entry in entries}
        if "vendored" in self.rules and VIRTUALENV in names and at.path != self.root:
            at = replace(at, skipped_as=at.skipped_as or "vendored")
        if "gitignored" in self.rules and not at.skipped_as:
            own = [self.patterns(at.path, name) for name in self.names if name in names]
            at = replace(at, ignored=(*at.ignored, *own))
        for entry in entries:
            if not entry.name.startswith("."):
                self.scan_entry(entry, at)

    def patterns(self, directory: str, name: str) -> ignore.IgnoreFile:
        """Read a file of patterns."""
        path = os.path.join(directory, name)
        self.seen[path] = settled(os.stat(path, follow_symlinks=False).st_ctime_ns)
        return ignore.read(Path(directory), name)

    def scan_entry(self, entry: "os.DirEntry[str]", at: _Directory) -> None:
        """Add a file, or add a directory to ``todo``."""
        path, inside = entry.path, at.inside + entry.name
        is_link = entry.is_symlink()
        if is_link and (at.skipped_as or not self.follow_links):
            return
        is_directory = _is(entry.is_dir)
        if is_link and (problem := self.problem(path, at)):
            if is_directory or self.wanted(inside):
                self.skip(problem, inside)
            return
        rule = at.skipped_as or self.rule(entry, is_directory, is_link, at)
        real = os.path.realpath(path) if is_link else os.path.join(at.real_paths[-1], entry.name)
        if not is_directory:
            self.add(entry, inside, rule, is_link, real)
            return
        directory = _Directory(path, f"{inside}/", (*at.real_paths, real), rule, at.ignored)
        if not is_link:
            self.todo.append(directory)
        elif real not in self.walked_by_link:
            self.walked_by_link.add(real)
            self.todo.appendleft(directory)

    def problem(self, path: str, at: _Directory) -> str | None:
        """Return why a link is not followed."""
        real = os.path.realpath(path)
        if not os.path.exists(path):
            return "broken links"
        if not any(Path(real).is_relative_to(target) for target in self.targets):
            return "links out of the directory"
        return "link loops" if real in at.real_paths else None

    def rule(
        self, entry: "os.DirEntry[str]", is_directory: bool, is_link: bool, at: _Directory
    ) -> str | None:
        """Return the rule by which a file or directory is skipped."""
        is_vendored = "vendored" in self.rules and is_directory and entry.name in VENDORED
        for file in reversed(at.ignored):
            # For git, a link to a directory is a file.
            found = file.ignores(entry.path, is_directory and not is_link)
            if found is None:
                continue
            if file.name == ignore.OWN:
                return "ignored" if found else None
            return "vendored" if is_vendored else "gitignored" if found else None
        return "vendored" if is_vendored else None

    def add(
        self, entry: "os.DirEntry[str]", inside: str, rule: str | None, is_link: bool, real: str
    ) -> None:
        """Add a file if it is wanted, or count it."""
        wanted = self.wanted(inside)
        if not wanted:
            if wanted is None and not rule and _is(entry.is_file):
                self.others.setdefault(real, inside)
        elif not _is(entry.is_file):
            self.skip("special files", inside)  # such as a pipe
        elif rule:
            self.skip(rule, inside, _size(entry.path))
        elif is_link:
            self.linked.setdefault(real, inside)
        else:
            self.found.setdefault(real, inside)

    def count_others(self) -> None:
        """Count the files with other suffixes, with an example of each of the most frequent."""
        by_suffix: dict[str, list[str]] = {}
        for real, inside in self.others.items():
            if real not in self.found:
                path = PurePath(inside)
                suffix = PurePath(plain_name(path)).suffix or path.suffix.lower() or "no suffix"
                by_suffix.setdefault(suffix, []).append(inside)
        for names in by_suffix.values():
            names.sort(key=_parts)
        ordered = sorted(by_suffix.items(), key=lambda item: (-len(item[1]), _parts(item[1][0])))
        total = Count()
        for suffix, names in ordered:
            first = {"where": name_of(Path(names[0])), "suffix": f"{suffix} {len(names):,}"}
            for name in names:
                size = _size(os.path.join(self.root, name))
                total.add(size, first if name is names[0] else None)
        if total.documents:
            self.skipped[OTHER_SUFFIXES] = total


def _size(path: str) -> int:
    """Return the bytes of a file, 0 if it was removed since."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def _parts(inside: str) -> list[str]:
    """Return the key by which `Path` sorts."""
    return inside.split("/")


def _is(kind: Callable[[], bool]) -> bool:
    """Return what an entry of a directory says of itself; False if it cannot, such as a loop."""
    try:
        return kind()
    except OSError:
        return False


def _blobs(real: Path) -> list[Path]:
    """Return the directory with the files of a snapshot in the Hub's cache."""
    return [
        parent.parent / "blobs"
        for parent in (real, *real.parents)
        if parent.name == "snapshots" and parent.parent.name.startswith(HUB_REPOSITORIES)
    ]
