"""Passages for search: parts of documents, each with a question that it answers."""

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from .readers import Document

DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
SHORTEST, LONGEST = 200, 1200  # characters of a passage of prose


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a document."""

    source: str  # the source of the document
    title: str  # a dotted name in code, empty in prose
    text: str  # the text to embed for search
    question: str  # text from the document that can serve as a query
    answer: str  # the passage without the question, so that a model cannot match them literally


def passages(document: Document) -> Iterator[Passage]:
    """Yield docstrings of public names with their code for Python, and paragraphs otherwise."""
    found = list(_python(document)) if document.source.endswith(".py") else []
    yield from found or _prose(document)


def _python(document: Document) -> Iterator[Passage]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for example about invalid escapes
            tree = ast.parse(document.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    path = PurePath(document.source).with_suffix("")
    parts = path.parts[-2:] if path.is_absolute() else path.parts
    module = ".".join(parts).removesuffix(".__init__")
    todo: list[tuple[str, ast.AST]] = [(module, tree)]
    while todo:
        name, node = todo.pop()
        assert isinstance(node, ast.Module | DEFINITIONS)
        names = [n for n in ast.iter_child_nodes(node) if hasattr(n, "name")]
        todo += [(f"{name}.{n.name}", n) for n in names
                 if isinstance(n, DEFINITIONS) and not n.name.startswith("_")]  # fmt: skip
        docstring = ast.get_docstring(node)
        if not docstring:
            continue
        docstring = docstring.encode(errors="replace").decode()  # without lone surrogates
        first = docstring.split("\n\n")[0]
        code = "" if isinstance(node, ast.Module) else _source(node.body[1:])
        rest = docstring[len(first) :].strip()[:LONGEST]
        answer = f"{name} {' '.join(n.name for n in names)}\n{rest}\n{code}"
        yield Passage(document.source, name, f"{name}\n{docstring[:LONGEST]}", first, answer)


def _source(body: list[ast.stmt]) -> str:
    try:
        return "\n".join(map(ast.unparse, body))[:LONGEST]
    except (RecursionError, ValueError):  # a sum of a thousand terms; some f-strings
        return ""


def _prose(document: Document) -> Iterator[Passage]:
    text = ""
    paragraphs = [
        paragraph[i : i + LONGEST - SHORTEST]
        for paragraph in re.split(r"\n\s*\n", document.text)
        for i in range(0, max(1, len(paragraph)), LONGEST - SHORTEST)
    ]
    for paragraph in [*paragraphs, None]:
        if paragraph is not None and len(text) < SHORTEST:
            text = f"{text}\n{paragraph.strip()}".strip()
            if len(text) < SHORTEST:
                continue
        text = text[:LONGEST]
        sentences = re.split(r"(?<=[.!?])\s+|\n", text)
        if text.strip():
            question = max(sentences, key=len) if len(sentences) > 1 else text
            rest = text.replace(question, " ") if len(sentences) > 1 else text
            yield Passage(document.source, "", text, question, rest)
        text = ""
