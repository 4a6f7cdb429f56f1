"""Descriptions inside a JSON file, as service models and schemas have them: its long strings.

Read only where a source names such files (``files = ["*.json"]``).
"""

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import DamagedError
from ...files import parse_json
from .document import Document, decode, name_of, whole

SUFFIXES = (".json",)
WORDS = 8  # a string with fewer is a name or a value, no description
_BLOCK = re.compile(r"</(?:p|li|h\d|dd|tr|div)>|<br ?/?>")
_TAG = re.compile(r"<[^<>]*>")


def read(path: Path, field: str, encoding: str) -> Iterator[Document]:
    """The file's descriptions, a paragraph each; other arguments have no meaning here."""
    text = decode(whole(path), name_of(path))
    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"not valid JSON ({error})", name_of(path)) from error
    yield Document("\n\n".join(dict.fromkeys(_descriptions(value))), name_of(path))


def _descriptions(value: Any) -> Iterator[str]:
    todo = [value]
    while todo:
        here = todo.pop()
        if isinstance(here, dict):
            todo += reversed(here.values())
        elif isinstance(here, list):
            todo += reversed(here)
        elif isinstance(here, str) and here.count(" ") >= WORDS:
            yield html.unescape(_TAG.sub("", _BLOCK.sub("\n\n", here))).strip()
