"""Source code that was not written by hand: generated and minified files."""

import re
from collections.abc import Sequence
from pathlib import Path

from .readers import plain_name
from .readers.formats import LANGUAGES

HEAD_LINES, HEAD_CHARS = 10, 2000  # where the mark of a generator is looked for
MINIFIED_LINE = 110  # average characters of a line, as in GitHub's linguist

_CODE = sum(LANGUAGES.values(), ())
_SCRIPTS = LANGUAGES["javascript"] + LANGUAGES["typescript"]
_NAMES = re.compile(r"_pb2(_grpc)?\.pyi?$|\.pb(\.gw)?\.(go|cc|h)$|\.g\.(cs|dart)$|\.designer\.cs$")
_MINIFIED_NAMES = re.compile(r"[.-]min\.m?js$")
_MARK = re.compile(
    r"@generated\b|\bauto(?:matically)?[- ]?generated (?:by|from|using|with|file|code)\b"
    r"|\bfile (?:is|was) (?:auto(?:matically)?[- ]?)?generated\b"
    r"|\bgenerated\b(?s:.*)\bdo not (?:edit|modify|change)\b"
    r"|\bdo not (?:edit|modify|change)\b(?s:.*)\bgenerated\b",
    re.IGNORECASE,
)


def code_rule(where: str, text: str, rules: Sequence[str]) -> str | None:
    """Return the rule, "generated" or "minified", by which a file of source code is skipped.

    A file is generated if its name or one of its first ten lines says so. A file of JavaScript or
    TypeScript is minified if its name says so, or if its lines have on average more than 110
    characters.
    """
    name = plain_name(Path(where))
    if not name.endswith(_CODE):
        return None
    if "generated" in rules:
        head = "\n".join(text[:HEAD_CHARS].split("\n")[:HEAD_LINES])
        if _NAMES.search(name) or _MARK.search(head):
            return "generated"
    if "minified" in rules and name.endswith(_SCRIPTS):
        lines = text.count("\n") + (not text.endswith("\n"))
        if _MINIFIED_NAMES.search(name) or len(text) > MINIFIED_LINE * lines:
            return "minified"
    return None
