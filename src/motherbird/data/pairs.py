"""Queries with the documents that answer them, and documents that do not, for retrieval."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.rng import shuffled
from ..errors import DamagedError, InputError, counted
from .readers.document import Record, describe_type
from .readers.records import records

QUERIES: tuple[str, ...] = ("query", "anchor", "question", "premise")
DOCUMENTS: tuple[str, ...] = (
    "positive",
    "document",
    "documents",
    "answer",
    "passage",
    "hypothesis",
)
NEGATIVES = ("negative", "negatives")
SCORES = ("scores",)
QUERY_IDS, DOCUMENT_IDS = ("query_id", "qid"), ("document_ids", "doc_ids", "positive_id")
SPLIT = 0x7061697273  # first part of the key of the order of `split_off`


@dataclass(frozen=True)
class PairColumns:
    """Names of columns; those that are None are found by their usual names.

    Attributes:
        query: column of the queries.
        document: column of a document that answers, or of a list of documents.
        negative: column of a document that does not, or of a list of them.
        scores: column of a list of scores of a teacher, one for each document.
    """

    query: str | None = None
    document: str | None = None
    negative: str | None = None
    scores: str | None = None


@dataclass(frozen=True)
class Pairs:
    """Queries and their documents.

    Attributes:
        queries: a query for each row.
        documents: for each row its documents: the first one answers the query, others do not, or
            have scores.
        scores: for each row the scores of its documents, or nothing.
        where: where each row is, such as "pairs.jsonl:7".
    """

    queries: list[str]
    documents: list[list[str]]
    scores: list[list[float]]
    where: list[str]

    def __len__(self) -> int:
        return len(self.queries)

    def select(self, numbers: Sequence[int]) -> "Pairs":
        """Return some of the rows."""
        return Pairs(
            [self.queries[n] for n in numbers],
            [self.documents[n] for n in numbers],
            [self.scores[n] for n in numbers] if self.scores else [],
            [self.where[n] for n in numbers],
        )


Texts = Mapping[str, str]  # by their ids


def read_texts(path: str | Path) -> Texts:
    """Read texts by their ids: a column "id", "_id" or one that ends in "_id", and "text".

    Raises:
        InputError: a column is missing, an id occurs twice, or a text is empty or no text.
    """
    found: dict[str, str] = {}
    for row in records(path):
        if isinstance(row, DamagedError):
            raise row
        name = next((n for n in row.values if n in ("id", "_id") or n.endswith("_id")), None)
        if name is None or "text" not in row.values:
            listed = ", ".join(f'"{each}"' for each in row.values)[:300]
            raise InputError('no columns "id" and "text"', row.where, f"the columns are {listed}")
        key = str(row.values[name])
        if key in found:
            raise InputError(f'the id "{key}" occurs twice', row.where)
        [found[key]] = _texts(row, "text", single=True)
    return found


def read_pairs(
    paths: Sequence[str | Path],
    columns: PairColumns | None = None,
    negatives: int | None = None,
    *,
    queries: Texts | None = None,
    documents: Texts | None = None,
    scored: bool = True,
) -> Pairs:
    """Read rows of .jsonl, .csv, .tsv or .parquet files, or directories of datasets.

    Args:
        paths: the files, see `readers.records.records`.
        columns: names of columns.
        negatives: the largest number of documents of a row that do not answer, from its first.
        queries: texts of queries, of which rows have the ids.
        documents: texts of documents, of which rows have the ids.
        scored: whether scores are read.

    Raises:
        InputError: a column is missing, a text is empty or no text, scores are not a number for
            each document, there are no rows, or only some rows have scores.
    """
    found = Pairs([], [], [], [])
    for path in paths:
        for row in records(path):
            if isinstance(row, DamagedError):
                raise row
            query, own = _row(row, columns or PairColumns(), queries, documents)
            scores = _scores(row, columns or PairColumns(), len(own)) if scored else None
            last = None if negatives is None else 1 + negatives
            found.queries.append(query)
            found.documents.append(own[:last])
            found.scores.extend([] if scores is None else [scores[:last]])
            found.where.append(row.where)
    if not found.queries:
        raise InputError("there are no rows", ", ".join(map(str, paths)))
    if found.scores and len(found.scores) != len(found):
        what = f"{len(found.scores):,} of {len(found):,} rows have scores"
        raise InputError(what, ", ".join(map(str, paths)), "score all rows, or none")
    return found


def split_off(pairs: Pairs, fraction: float, seed: int, most: int) -> tuple[Pairs, Pairs]:
    """Set some rows aside, at least one; return the others, and these.

    Rows of the same query stay together, so that none is on both sides.
    """
    groups: dict[str, list[int]] = {}
    for number, query in enumerate(pairs.queries):
        groups.setdefault(query, []).append(number)
    own = list(groups.values())
    order = shuffled(range(len(own)), len(own), (SPLIT, seed)).tolist()
    count = max(1, min(most, int(fraction * len(own))))
    if count >= len(own):
        raise InputError("one query is too few to set some aside", how="pass --dev")
    dev = sorted(number for place in order[:count] for number in own[place])
    train = sorted(number for place in order[count:] for number in own[place])
    return pairs.select(train), pairs.select(dev)


def _row(
    row: Record, columns: PairColumns, query_texts: Texts | None, document_texts: Texts | None
) -> tuple[str, list[str]]:
    values = row.values
    names = QUERIES if query_texts is None else QUERY_IDS
    query = _find(row, "query", "--query", columns.query, names)
    names = DOCUMENTS if document_texts is None else DOCUMENT_IDS
    document = _find(row, "document", "--document", columns.document, names)
    assert query is not None and document is not None
    negative = _find(row, "negative", "--negative", columns.negative, NEGATIVES, needed=False)
    [text] = _texts(row, query, query_texts, single=True)
    documents = list(_texts(row, document, document_texts))
    if negative is not None and values[negative] not in (None, "", []):
        documents += _texts(row, negative, document_texts)
    if not documents:
        raise InputError(f'"{document}" has no document', row.where)
    return text, documents


def _scores(row: Record, columns: PairColumns, count: int) -> list[float] | None:
    """Return the scores of so many documents; None if there are none."""
    name = _find(row, "scores", "--scores", columns.scores, SCORES, needed=False)
    if name is None:
        return None
    scores = row.values[name]
    if not isinstance(scores, list):
        if columns.scores is None:  # such as a label of the pair
            return None
        what = f'"{name}" is {describe_type(scores)}, not a list of numbers'
        raise InputError(what, row.where)
    if len(scores) != count:
        found, wanted = counted(len(scores), "score"), counted(count, "document")
        raise InputError(f'"{name}" has {found} for {wanted}', row.where)
    if not all(isinstance(s, int | float) and abs(s) < float("inf") for s in scores):
        raise InputError(f'"{name}" has something other than finite numbers', row.where)
    return [float(score) for score in scores]


def _find(
    row: Record, what: str, option: str, given: str | None, usual: Sequence[str], *,
    needed: bool = True,
) -> str | None:  # fmt: skip
    names = [given] if given is not None else usual
    found = next((name for name in names if name in row.values), None)
    if found is None and (needed or given is not None):
        listed = ", ".join(f'"{name}"' for name in row.values)[:300]
        what = f'no column is called "{given}"' if given else f"no column is a {what} by its name"
        raise InputError(what, row.where, f"set {option} to one of the columns: {listed}")
    return found


def _texts(
    row: Record, name: str, known: Texts | None = None, *, single: bool = False
) -> Iterator[str]:
    """Yield the texts of a column, or those of its ids."""
    value: Any = row.values[name]
    for text in value if isinstance(value, list) and not single else [value]:
        if known is not None and isinstance(text, str | int):
            if str(text) not in known:
                raise InputError(f'there is no text with the id "{text}"', row.where)
            yield known[str(text)]
            continue
        if not isinstance(text, str):
            raise InputError(f'"{name}" is {describe_type(text)}, not a text', row.where)
        if not text.strip():
            raise InputError(f'"{name}" is empty', row.where, "remove the row, or fill it in")
        yield text
