"""Retrieval sets in the layout of BEIR: documents, queries, and which documents are relevant."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.readers.document import Record
from ..data.readers.records import records
from ..errors import DamagedError, InputError

HEADER = ["query-id", "corpus-id", "score"]


@dataclass(frozen=True)
class RetrievalSet:
    """Documents, and the queries of a split with their relevant documents.

    Attributes:
        name: of the directory.
        split: the name of the split.
        document_ids: an id for each document.
        documents: title and text of each document, with a space between them.
        query_ids: an id for each query.
        queries: the text of each query.
        relevant: for each query, the grade of each relevant document by its position.
        without: queries of the split that have no relevant document, and are left out.
        empty: documents without text; nothing finds them.
    """

    name: str
    split: str
    document_ids: list[str]
    documents: list[str]
    query_ids: list[str]
    queries: list[str]
    relevant: list[dict[int, int]]
    without: int
    empty: int


def is_set(directory: Path) -> bool:
    """Return whether a directory is a retrieval set."""
    return (directory / "qrels").is_dir()


def find_sets(directory: str | Path) -> list[Path]:
    """Return the directories of the sets in a directory, which may be a set itself.

    Raises:
        InputError: there is none.
    """
    path = Path(directory)
    if not path.is_dir():
        raise InputError("the directory does not exist", str(path))
    found = [path] if is_set(path) else sorted(filter(is_set, path.iterdir()))
    if not found:
        how = "a set has corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv, also compressed (.gz)"
        raise InputError("there is no retrieval set", str(path), how)
    return found


def read_set(directory: str | Path, splits: str = "dev", limit: int | None = None) -> RetrievalSet:
    """Read a set.

    Args:
        directory: has corpus.jsonl and queries.jsonl (also .jsonl.gz), and qrels/SPLIT.tsv.
        splits: the split; of several names with commas between them, the first that exists.
        limit: number of queries, the first ones in the order of queries.jsonl.

    Raises:
        InputError: a file or a column is missing, there is no document or no query with a relevant
            document, an id occurs twice, or a judgement names an unknown id; with the line.
    """
    path = Path(directory)
    judgements, split = _judgements(path, splits)
    documents = dict(_texts(path, "corpus", "title"))
    if not any(text.strip() for text in documents.values()):
        raise InputError("there are no documents with text", str(_file(path, "corpus")))
    position = {name: number for number, name in enumerate(documents)}
    queries = dict(_texts(path, "queries"))
    found: dict[str, dict[int, int]] = {}
    for query, document, grade, where in _rows(judgements):
        if query not in queries:
            raise InputError(f"query {query!r} is not in queries.jsonl", where)
        if document not in position:
            raise InputError(f"document {document!r} is not in corpus.jsonl", where)
        own = found.setdefault(query, {})
        if grade > 0:
            own[position[document]] = grade
    chosen = [name for name in queries if found.get(name)][:limit]
    if not chosen:
        raise InputError("no query has a relevant document", str(judgements))
    return RetrievalSet(
        path.resolve().name, split, list(documents), list(documents.values()), chosen,
        [queries[name] for name in chosen], [found[name] for name in chosen],
        sum(not own for own in found.values()),
        sum(not text.strip() for text in documents.values()),
    )  # fmt: skip


def _judgements(path: Path, splits: str) -> tuple[Path, str]:
    names = [name.strip() for name in splits.split(",")]
    for name in names:
        file = path / "qrels" / f"{name}.tsv"
        if file.is_file():
            return file, name
    have = sorted(file.stem for file in (path / "qrels").glob("*.tsv"))
    how = f"use --split {', '.join(have)}" if have else "a set has qrels/SPLIT.tsv"
    raise InputError(f"there is no split {' or '.join(names)}", str(path / "qrels"), how)


def _file(path: Path, name: str) -> Path:
    """Return the path of corpus or queries."""
    for suffix in (".jsonl", ".jsonl.gz"):
        if (file := path / f"{name}{suffix}").is_file():
            return file
    raise InputError(f"{name}.jsonl is missing", str(path), "a set has it, also as .jsonl.gz")


def _texts(path: Path, name: str, title: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield the id and the text of each line."""
    seen: dict[str, str] = {}
    for row in records(_file(path, name)):
        if isinstance(row, DamagedError):
            raise row
        own = _text(row, "_id")
        if own in seen:
            raise InputError(f"id {own!r} occurs twice", row.where, f"the first is {seen[own]}")
        seen[own] = row.where
        parts = [_text(row, key) for key in (title, "text") if key and key in row.values]
        if "text" not in row.values:
            raise InputError('there is no "text"', row.where)
        yield own, " ".join(part for part in parts if part)


def _text(row: Record, key: str) -> str:
    value: Any = row.values.get(key)
    if not isinstance(value, str) or (key == "_id" and not value):
        raise InputError(f'"{key}" is not a text', row.where)
    return value


def _rows(file: Path) -> Iterator[tuple[str, str, int, str]]:
    """Yield query, document, grade and line of each judgement."""
    for number, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), 1):
        where, values = f"{file}:{number}", line.split("\t")
        if number == 1 and values == HEADER or not line:
            continue
        if number == 1:
            raise InputError("the first line is not query-id, corpus-id and score", where,
                             "separate the columns with tabs")  # fmt: skip
        if len(values) != 3:
            raise InputError("this is not a query, a document and a score", where)
        try:
            grade = int(values[2])
        except ValueError:
            raise InputError(f"the score {values[2]!r} is not an integer", where) from None
        yield values[0], values[1], grade, where
