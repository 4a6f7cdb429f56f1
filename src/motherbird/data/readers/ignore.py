"""Patterns of .gitignore files, as git matches them.

pathspec matches files only: it cannot say whether a directory itself is ignored, which decides
about everything in it.
"""

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...errors import InputError
from .document import name_of

NAME = ".gitignore"
OWN = ".motherbirdignore"  # the same for motherbird search, which can take files back in
_CLASSES = {
    b"alnum": rb"0-9A-Za-z", b"alpha": rb"A-Za-z", b"blank": rb" \t", b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9", b"graph": rb"!-~", b"lower": rb"a-z", b"print": rb" -~",
    b"punct": rb"!-/:-@\[-`{-~", b"space": rb" \t-\r", b"upper": rb"A-Z", b"xdigit": rb"0-9A-Fa-f",
}  # fmt: skip
_TRAILING_SPACES = re.compile(rb"((?:[^\\]|\\.)*?) *", re.DOTALL)
_LITERAL = re.compile(rb"[^*?\[\\]*")
_TOKEN = re.compile(
    rb"""(?P<stars>\*+)(?P<slash>/?)
    |(?P<any_byte>\?)
    |\[(?P<negation>[!^]?+)(?P<content>
        (?>\](?:-(?:\\.|[^\]\\]))?)?+  # a ] that comes first is a member
        (?>\[:[^\]]*:\]|(?:\\.|[^\]\\])(?:-(?:\\.|[^\]\\]))?)*+  # classes, members and ranges
    )\]
    |(?P<byte>\\.|[^\[\\])""",
    re.DOTALL | re.VERBOSE,
)
_MEMBERS = re.compile(rb"\[:([^\]]*):\]|\\?(.)(?:-\\?(.))?", re.DOTALL)


@dataclass(frozen=True)
class Pattern:
    """A line of a .gitignore file."""

    regex: re.Pattern[bytes]
    ignores: bool  # False for a pattern that begins with !
    of_directories: bool  # it ends with /
    of_paths: bool  # it contains another /, and is matched with the path, not only with the name


@dataclass(frozen=True)
class IgnoreFile:
    """The patterns of a .gitignore file, the last one first."""

    home: Path
    patterns: tuple[Pattern, ...]
    name: str = NAME

    @cached_property
    def _length(self) -> int:
        """The number of bytes of ``home`` before the path of a file in it."""
        home = os.fsencode(self.home)
        return 0 if home == b"." else len(os.path.join(home, b""))

    def ignores(self, path: str | Path, is_directory: bool) -> bool | None:
        """Return whether a file or directory is ignored, or None if no pattern matches it."""
        inside = os.fsencode(path)[self._length :]
        name = inside.rpartition(b"/")[2]
        for pattern in self.patterns:
            if pattern.of_directories and not is_directory:
                continue
            if pattern.regex.fullmatch(inside if pattern.of_paths else name):
                return pattern.ignores
        return None


def read(home: Path, name: str = NAME) -> IgnoreFile:
    """Read the .gitignore of a directory; InputError if it cannot be read.

    As in git, one that is a link or a directory has no patterns, and lines that cannot match
    anything are ignored.
    """
    path = home / name
    if path.is_symlink():
        return IgnoreFile(home, (), name)
    return read_file(path, home, name)


def read_file(path: Path, home: Path, name: str = NAME) -> IgnoreFile:
    """Read patterns for the files of a directory from any file, or none if there is no such file.

    Raises:
        InputError: it cannot be read.
    """
    if not path.is_file():
        return IgnoreFile(home, (), name)
    try:
        data = path.read_bytes()
    except OSError as error:
        how = 'check the permissions, or set skip without "gitignored"'
        what = f"the patterns cannot be read ({error.strerror})"
        raise InputError(what, name_of(path), how) from error
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    found = [_pattern(line.removesuffix(b"\r")) for line in lines]
    return IgnoreFile(home, tuple(pattern for pattern in reversed(found) if pattern), name)


def _pattern(line: bytes) -> Pattern | None:
    line = line.partition(b"\0")[0]
    if not line or line.startswith(b"#"):
        return None
    if spaceless := _TRAILING_SPACES.fullmatch(line):  # not if it ends with an escape of nothing
        line = spaceless[1]
    ignores = not line.startswith(b"!")
    line = line.removeprefix(b"!")
    of_directories = line.endswith(b"/")
    line = line.removesuffix(b"/")
    of_paths = b"/" in line
    regex = _regex(line.removeprefix(b"/"), of_paths)
    if regex is None:
        return None
    return Pattern(re.compile(regex, re.DOTALL), ignores, of_directories, of_paths)


def _regex(glob: bytes, of_paths: bool) -> bytes | None:
    """Return a glob as a regular expression, or None if it matches nothing."""
    tokens = list(_TOKEN.finditer(glob))
    if b"".join(token[0] for token in tokens) != glob:  # it has an open set, or a \ at its end
        return None
    prefix = _LITERAL.match(glob)
    parts = []
    for token in tokens:
        stars, slash, any_byte, negation, content, byte = token.groups()
        if stars:
            # git looks for ** after the literal prefix, so that what is before it does not count.
            at, end = token.start(), token.end(1)
            first = (prefix and at == prefix.end()) or glob[at - 1 : at] == b"/"
            last = glob[end : end + 1] in (b"", b"/") or glob[end : end + 2] == rb"\/"
            if of_paths and len(stars) > 1 and first and last:
                parts.append(rb"(?:.*/)?" if slash else rb".*")
            else:
                parts.append(rb"[^/]*" + slash)
        elif any_byte:
            parts.append(rb"[^/]")
        elif content:
            members = _members(content)
            if members is None:
                return None
            parts.append(rb"(?!/)[" + (b"^" if negation else b"") + members + b"]")
        else:
            parts.append(re.escape(byte[-1:]))
    return b"".join(parts)


def _members(content: bytes) -> bytes | None:
    """Return the content of a set as that of a regular expression; None for an unknown class."""
    members = []
    for name, first, last in _MEMBERS.findall(content):
        if not first and name not in _CLASSES:
            return None
        members.append(re.escape(first) if first else _CLASSES[name])
        if last >= first > b"":
            members.append(re.escape(first) + b"-" + re.escape(last))
    return b"".join(members)
