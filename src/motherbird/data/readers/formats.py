"""Formats of one text: plain text, HTML, and JSON with descriptions.

A reader maps a path, a field and an encoding to documents; see `readers`.
"""

import html
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import DamagedError, require_extra
from ...files import parse_json
from .document import COMPRESSED, Document, decode, name_of, whole

# Names for ``code`` in a mixture.
LANGUAGES = {
    "c": (".c", ".h"), "c++": (".cc", ".cpp", ".cxx", ".hpp", ".hh"), "c#": (".cs",),
    "go": (".go",), "java": (".java",), "javascript": (".js", ".jsx", ".mjs"), "julia": (".jl",),
    "kotlin": (".kt",), "lua": (".lua",), "php": (".php",), "python": (".py", ".pyi"),
    "r": (".r",), "ruby": (".rb",), "rust": (".rs",), "scala": (".scala",), "shell": (".sh",),
    "sql": (".sql",), "swift": (".swift",), "typescript": (".ts", ".tsx"),
}  # fmt: skip
PROSE = (".txt", ".md", ".markdown", ".rst", ".tex")
SETTINGS = (".toml", ".yaml", ".yml")
MIN_SPACES = 8  # a string in JSON with fewer is a name or a value, not a description
_BLOCK = re.compile(r"</(?:p|li|h\d|dd|tr|div)>|<br ?/?>")
_TAG = re.compile(r"<[^<>]*>")


def read_plain(path: Path, field: str, encoding: str) -> Iterator[Document]:
    """Yield the text of a file; ``field`` is ignored."""
    yield Document(decode(whole(path), name_of(path), encoding), name_of(path))


def read_html(path: Path, field: str, encoding: str) -> Iterator[Document]:
    """Yield the text of a page without navigation; its encoding is detected."""
    bytes_ = require_extra("resiliparse.parse.encoding", "data")
    html2text = require_extra("resiliparse.extract.html2text", "data")
    data = whole(path)
    page = bytes_.bytes_to_str(data, bytes_.detect_encoding(data))
    text = html2text.extract_plain_text(page, main_content=True)
    if not text.strip():  # no main content was found
        text = html2text.extract_plain_text(page)
    yield Document(text, name_of(path))


def read_descriptions(path: Path, field: str, encoding: str) -> Iterator[Document]:
    """Yield the long strings of a .json file, such as a schema, as paragraphs of one document.

    Raise DamagedError if it has records, each with a text: an array, or objects with ``field``.
    """
    stack = [json_value(path)]
    if _has_records(stack[0], field):
        what = "a .json file is read as one text, but this one has records"
        raise DamagedError(what, name_of(path), jsonl_hint(path))
    found: dict[str, Any] = {}  # in order, each once
    while stack:
        item = stack.pop()
        if isinstance(item, dict | list):
            stack += reversed(item.values() if isinstance(item, dict) else item)
        elif isinstance(item, str) and item.count(" ") >= MIN_SPACES:
            found[html.unescape(_TAG.sub("", _BLOCK.sub("\n\n", item))).strip()] = None
    yield Document("\n\n".join(found), name_of(path))


def json_value(path: Path) -> Any:
    """Return the value of a .json file, or raise DamagedError."""
    text = decode(whole(path), name_of(path))
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        what = f"the file is not valid JSON ({error})"
        raise DamagedError(what, name_of(path), jsonl_hint(path)) from error


def jsonl_hint(path: Path) -> str:
    """Return how a .json file can be converted."""
    name = path.name
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    command = f"jq -c '.[]' {shlex.quote(name)} > {shlex.quote(Path(name).stem + '.jsonl')}"
    return f"write one object per line to a .jsonl file (of an array: {command})"


def _has_records(value: Any, field: str) -> bool:
    if not isinstance(value, dict):
        return True
    inside = list(value.values())
    for each in value.values():
        inside += each if isinstance(each, list) else ()
    return any(isinstance(o, dict) and isinstance(o.get(field), str) for o in (value, *inside))
