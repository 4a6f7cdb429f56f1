"""The source code of Python's standard library, as text that every machine has."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from .readers import Document

# Tests, demonstrations and generated tables.
_EXCLUDED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3",
             "turtledemo", "encodings", "pydoc_data", "__phello__"}  # fmt: skip


def read() -> Iterator[Document]:
    """Yield the modules of the standard library; ``source`` is a relative path, json/decoder.py."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = False
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if _EXCLUDED.isdisjoint(parts) and path.is_file():
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            if len(text) > 200:
                found = True
                yield Document(text, "/".join(parts))
    if not found:
        what = "this Python has no sources of its standard library"
        raise InputError(what, str(library), "use --text PATH")
