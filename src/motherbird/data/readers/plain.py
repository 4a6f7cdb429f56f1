"""Text, Markdown and source code: a file is a document."""

from collections.abc import Iterator
from pathlib import Path

from .document import Document, decode, name_of, whole

# By name, so that a mixture can ask for code = ["python"].
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
    """The file's text; ``field`` has no meaning here."""
    yield Document(decode(whole(path), name_of(path), encoding), name_of(path))
