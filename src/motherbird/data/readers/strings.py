"""JSON files with descriptions, such as schemas: the long strings of a file are a document.

They are read only if a pattern of the source matches them (``files = ["*.json"]``).
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
MIN_SPACES = 8  # a string with fewer is a name or a value, not a description
_BLOCK = re.compile(r"</(?:p|li|h\d|dd|tr|div)>|<br ?/?>")
_TAG = re.compile(r"<[^<>]*>")


def read(path: Path, field: str, encoding: str) -> Iterator[Document]:
    """Yield the descriptions of the file as paragraphs; other arguments are ignored."""
    text = decode(whole(path), name_of(path))
    try:
        value = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"not valid JSON ({error})", name_of(path)) from error
    yield Document("\n\n".join(dict.fromkeys(_descriptions(value))), name_of(path))


def _descriptions(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack += reversed(item.values())
        elif isinstance(item, list):
            stack += reversed(item)
        elif isinstance(item, str) and item.count(" ") >= MIN_SPACES:
            yield html.unescape(_TAG.sub("", _BLOCK.sub("\n\n", item))).strip()
