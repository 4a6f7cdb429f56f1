"""Which files a search is limited to."""

import fnmatch
import re
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError
from .languages import LANGUAGES


@dataclass(frozen=True)
class Filters:
    """A file has to pass all of them.

    Attributes:
        inside: directories or files, relative to the root; one of them has to hold the file.
        paths: patterns such as ``*.py`` or ``src/*``; one has to match the path or the name.
        languages: such as "python"; one has to be that of the file.
        kind: "code" is a language, "prose" is not.

    Raises:
        InputError: a language or kind is unknown.
    """

    inside: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    kind: Literal["code", "prose"] | None = None

    def __post_init__(self) -> None:
        known = [language.name for language in LANGUAGES]
        for name in self.languages:
            if name not in known:
                raise InputError(f"unknown language {name!r}", how=f"use {', '.join(known)}")
        if self.kind not in (None, "code", "prose"):
            raise InputError(f"unknown kind {self.kind!r}", how="use code or prose")

    def __bool__(self) -> bool:
        return bool(self.inside or self.paths or self.languages or self.kind)

    def accept(self, path: str, language: str) -> bool:
        """Return whether a file passes, by its path relative to the root, with /."""
        if self.inside and not any(
            path == own or own in ("", ".") or path.startswith(own + "/") for own in self.inside
        ):
            return False
        if self.paths and not any(_matches(path, pattern) for pattern in self.paths):
            return False
        if self.languages and language not in self.languages:
            return False
        return self.kind is None or (language not in ("prose", "data")) == (self.kind == "code")


def _matches(path: str, pattern: str) -> bool:
    subject = path if "/" in pattern else path.rpartition("/")[2]
    return re.match(fnmatch.translate(pattern), subject) is not None
