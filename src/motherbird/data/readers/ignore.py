"""Patterns of .gitignore files, as git matches them.

pathspec matches files only: it cannot say whether a directory itself is ignored, which decides
about everything in it.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from .document import name_of

NAME = ".gitignore"
_CLASSES = {
    b"alnum": rb"0-9A-Za-z", b"alpha": rb"A-Za-z", b"blank": rb" \t", b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9", b"graph": rb"!-~", b"lower": rb"a-z", b"print": rb" -~",
    b"punct": rb"!-/:-@\[-`{-~", b"space": rb" \t-\r", b"upper": rb"A-Z", b"xdigit": rb"0-9A-Fa-f",
}  # fmt: skip
_TRAILING_SPACES = re.compile(rb"((?:[^\\]|\\.)*?) *", re.DOTALL)
_LITERAL = re.compile(rb"[^*?\[\\]*")
_STARS = re.compile(rb"\*+")


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

    def ignores(self, path: Path, is_directory: bool) -> bool | None:
        """Return whether a file or directory is ignored, or None if no pattern matches it."""
        inside = os.fsencode(path.relative_to(self.home))
        name = inside.rpartition(b"/")[2]
        for pattern in self.patterns:
            if pattern.of_directories and not is_directory:
                continue
            if pattern.regex.fullmatch(inside if pattern.of_paths else name):
                return pattern.ignores
        return None


def read(home: Path) -> IgnoreFile:
    """Read the .gitignore of a directory; InputError if it cannot be read.

    As in git, one that is a link or a directory has no patterns, and lines that cannot match
    anything are ignored.
    """
    path = home / NAME
    if path.is_symlink() or not path.is_file():
        return IgnoreFile(home, ())
    try:
        data = path.read_bytes()
    except OSError as error:
        how = 'check the permissions, or set skip without "gitignored"'
        what = f"the patterns cannot be read ({error.strerror})"
        raise InputError(what, name_of(path), how) from error
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    found = [_pattern(line.removesuffix(b"\r")) for line in lines]
    return IgnoreFile(home, tuple(pattern for pattern in reversed(found) if pattern))


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
    return None if regex is None else Pattern(regex, ignores, of_directories, of_paths)


def _regex(glob: bytes, of_paths: bool) -> re.Pattern[bytes] | None:
    """Return a glob as a regular expression, or None if it matches nothing."""
    any_byte = rb"[^/]" if of_paths else rb"."
    prefix = _LITERAL.match(glob)
    start = at = prefix.end() if prefix else 0
    parts = [re.escape(glob[:at])]
    while at < len(glob):
        byte = glob[at : at + 1]
        at += 1
        if byte == b"*":
            stars = _STARS.match(glob, at - 1)
            end = stars.end() if stars else at
            # git looks for ** after the literal prefix, so that what is before it does not count.
            first = at - 1 == start or glob[at - 2 : at - 1] == b"/"
            last = glob[end : end + 1] in (b"", b"/") or glob[end : end + 2] == rb"\/"
            deep = end > at and first and last
            at = end
            if of_paths and deep and glob[end : end + 1] == b"/":
                parts.append(rb"(?:.*/)?")
                at += 1
            else:
                parts.append((rb"." if deep else any_byte) + b"*")
        elif byte == b"?":
            parts.append(any_byte)
        elif byte == b"[":
            found = _byte_set(glob, at)
            if found is None:
                return None
            members, at = found
            parts.append((rb"(?!/)" if of_paths else b"") + members)
        else:
            if byte == b"\\":
                byte = glob[at : at + 1]
                if not byte:
                    return None
                at += 1
            parts.append(re.escape(byte))
    return re.compile(b"".join(parts), re.DOTALL)


def _byte_set(glob: bytes, at: int) -> tuple[bytes, int] | None:
    """Return the set after a [ as a regular expression, and where it ends; None if it does not."""
    negated = glob[at : at + 1] in (b"!", b"^")
    first = at = at + negated
    members: list[bytes] = []
    previous = b""  # the byte that a range can begin with
    while at == first or glob[at : at + 1] != b"]":
        byte = glob[at : at + 1]
        after = glob[at + 1 : at + 2]
        if byte == b"-" and previous and after not in (b"", b"]"):
            at += 1 + (after == b"\\")
            last = glob[at : at + 1]
            if last >= previous:
                members.append(re.escape(previous) + b"-" + re.escape(last))
            previous = b""
        elif byte == b"[" and after == b":":
            end = glob.find(b"]", at + 2)
            if end < 0:
                return None
            if glob[end - 1 : end] == b":" and end > at + 2:
                name = glob[at + 2 : end - 1]
                if name not in _CLASSES:
                    return None
                members.append(_CLASSES[name])
                previous = b""
                at = end
            else:  # like other members
                members.append(re.escape(byte))
                previous = byte
        else:
            if byte == b"\\":
                at += 1
                byte = glob[at : at + 1]
            members.append(re.escape(byte))
            previous = byte
        if not glob[at : at + 1]:
            return None
        at += 1
    inside = b"".join(members)
    if not inside:  # such as [z-a]
        return (rb"." if negated else rb"(?!)"), at + 1
    return b"[" + (b"^" if negated else b"") + inside + b"]", at + 1
