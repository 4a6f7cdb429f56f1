"""Real text that is on every machine: the documentation and sources of the running Python."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from .readers import Document

# Tests, demonstrations and generated tables: much text, little to learn from it or to find in it.
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idle_test", "idlelib", "lib2to3",
             "turtledemo", "encodings", "pydoc_data", "__phello__"}  # fmt: skip


def read() -> Iterator[Document]:
    """The modules of the standard library; ``source`` is the path in it, ``json/decoder.py``.

    Nothing outside the standard library is read: no other package's text.

    Raises:
        InputError: this Python comes without its sources.
    """
    library = Path(sysconfig.get_paths()["stdlib"])
    found = False
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if _LEFT_OUT.isdisjoint(parts) and path.is_file():
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            if len(text) > 200:
                found = True
                yield Document(text, "/".join(parts))
    if not found:
        raise InputError(
            "this Python has no sources of its standard library", str(library), "use --text PATH"
        )
