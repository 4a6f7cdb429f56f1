"""Chunks of settings and data: JSON, YAML and TOML, by the keys of the highest level."""

import re
from collections.abc import Sequence

from .chunk import Chunk, parts

SUFFIXES = (".json", ".jsonc", ".yaml", ".yml", ".toml", ".ini", ".cfg")
SHORT = 12  # lines up to which neighbouring keys are joined
_KEYS = {
    ".json": re.compile(r'  ?"((?:[^"\\]|\\.)+)"\s*:|\t"((?:[^"\\]|\\.)+)"\s*:|    "([^"]+)"\s*:'),
    ".yaml": re.compile(r"([\w.\"'/-][^:#]*):(?:\s|$)"),
    ".toml": re.compile(r"\[+([^\]]+)\]"),
}
_SAME = {".jsonc": ".json", ".yml": ".yaml", ".ini": ".toml", ".cfg": ".toml"}


def chunks(name: str, lines: Sequence[str]) -> list[Chunk]:
    """Divide a file at its keys, or at its sections in TOML."""
    suffix = name[name.rfind(".") :]
    pattern = _KEYS[_SAME.get(suffix, suffix)]
    found: list[Chunk] = []
    first, symbol = 0, ""
    for number, line in enumerate(lines):
        key = pattern.match(line)
        if key and (number - first >= SHORT or not symbol):
            found += parts(lines, first, number - 1, symbol, "data")
            first, symbol = number, next(filter(None, key.groups()), "")
    return found + parts(lines, first, len(lines) - 1, symbol, "data")
