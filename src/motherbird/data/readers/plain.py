"""Text, Markdown and source code: each file is a document."""

from collections.abc import Iterator
from pathlib import Path

from .document import Document, decode, name_of, whole

# Names for ``code`` in a mixture.
LANGUAGES = {
    "c": (".c", ".h"),
    "c++": (".cc", ".cpp", ".cxx", ".hpp", ".hh"),
    "c#": (".cs",),
    "go": (".go",),
    "java": (".java",),
    "javascript": (".js", ".jsx", ".mjs"),
    "julia": (".jl",),
    "kotlin": (".kt",),
    "lua": (".lua",),
    "php": (".php",),
    "python": (".py", ".pyi"),
    "r": (".r",),
    "ruby": (".rb",),
    "rust": (".rs",),
    "scala": (".scala",),
    "shell": (".sh",),
    "sql": (".sql",),
    "swift": (".swift",),
    "typescript": (".ts", ".tsx"),
}
PROSE = (".txt", ".md", ".markdown", ".rst", ".tex")
SETTINGS = (".toml", ".yaml", ".yml")
SUFFIXES = (*PROSE, *SETTINGS, *(suffix for each in LANGUAGES.values() for suffix in each))


def read(path: Path, field: str, encoding: str) -> Iterator[Document]:
    """Yield the text of the file; ``field`` is ignored."""
    yield Document(decode(whole(path), name_of(path), encoding), name_of(path))
