"""Shards: how rows are divided, and the task that computes one.

A shard is a function of the settings and of its rows. It is written under a temporary name and
renamed, so that a task can be repeated, by any process and on any machine that has the model.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DamagedError, InputError, RowError, require_extra
from .store import open_store
from .vectors import Encoded, Settings, load, quiet

METADATA = b"motherbird"  # the key of a shard's numbers in its schema


@dataclass(frozen=True, slots=True)
class Row:
    """A text, where it is in its file (for errors), and its id if rows have one."""

    text: str
    where: str
    id: int | str | None = None


@dataclass(frozen=True)
class Source:
    """A file: its name, and a function that yields its rows, always the same."""

    name: str
    read: Callable[[], Iterator[Row]]


@dataclass
class Shard:
    """Rows that become one file; the lists are parallel."""

    number: int
    texts: list[str] = field(default_factory=list)
    where: list[str] = field(default_factory=list)  # where each is, for errors
    files: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)  # positions in the file, from 0
    ids: list[int | str | None] = field(default_factory=list)


@dataclass(frozen=True)
class Done:
    """A shard that was written."""

    number: int
    rows: int
    tokens: int
    truncated: int
    sha256: str


@dataclass(frozen=True)
class Job:
    """What a task needs besides rows; it can be pickled.

    Attributes:
        settings: of the vectors.
        out: an absolute path or a URL.
        id_type: None for the columns file and row, "int64" or "string" for a column id.
        plan: the SHA-256 of the plan, which is written into each shard.
    """

    settings: Settings
    out: str
    id_type: str | None
    plan: str


def name_of(number: int) -> str:
    """Return the name of a shard's file."""
    return f"part-{number:05d}.parquet"


def count_of(rows: int, size: int) -> int:
    """Return how many shards of at most ``size`` rows there are."""
    return -(-rows // size)


def divide(sources: Sequence[Source], size: int, wanted: Set[int], total: int) -> Iterator[Shard]:
    """Yield the wanted shards, in order; a shard has ``size`` consecutive rows of all sources.

    Raises:
        DamagedError: there are not ``total`` rows, as when they were counted.
    """
    count = 0
    shard = Shard(0)
    for source in sources:
        for position, row in enumerate(source.read()):
            number = count // size
            if number != shard.number:
                if shard.texts:
                    yield shard
                shard = Shard(number)
            if number in wanted:
                shard.texts.append(row.text)
                shard.where.append(row.where)
                shard.files.append(source.name)
                shard.rows.append(position)
                shard.ids.append(row.id)
            count += 1
    if count != total:
        what = f"the inputs have {count:,} rows, and had {total:,} when they were counted"
        raise DamagedError(what, ", ".join(source.name for source in sources)[:200])
    if shard.texts:
        yield shard


class ShardTask:
    """Computes and writes shards; calls ``on_batch`` with the number of texts of each batch."""

    def __init__(
        self,
        job: Job,
        encode: Callable[..., Encoded] | None = None,
        on_batch: Callable[[int], None] = lambda texts: None,
    ) -> None:
        self.job, self.on_batch = job, on_batch
        self.store = open_store(job.out)
        self.encode = load(job.settings)[1] if encode is None else encode

    def __call__(self, shard: Shard) -> Done:
        """Compute a shard, and write it.

        Raises:
            RowError: a text cannot be embedded, such as one that is too long.
        """
        try:
            with quiet():
                found = self.encode(shard.texts, shard.where, self.on_batch)
        except InputError as error:  # the work has begun
            raise RowError(error.what, error.where, error.how) from error
        data = to_parquet(shard, found, self.job)
        self.store.write(name_of(shard.number), data)
        digest = hashlib.sha256(data).hexdigest()
        return Done(shard.number, len(shard.texts), found.tokens, found.truncated, digest)


def to_parquet(shard: Shard, found: Encoded, job: Job) -> bytes:
    """Return the bytes of a shard's file.

    Columns: file and row, or id; then `vector`, a list of D float32 values, or with late
    interaction `vectors`, a list of such lists for each text.
    """
    arrow, parquet = require_extra("pyarrow", "data"), require_extra("pyarrow.parquet", "data")
    columns: dict[str, Any]
    if job.id_type is None:
        columns = {"file": arrow.array(shard.files, arrow.string()),
                   "row": arrow.array(shard.rows, arrow.int64())}  # fmt: skip
    else:
        ids = shard.ids if job.id_type == "int64" else list(map(str, shard.ids))
        columns = {"id": arrow.array(ids, getattr(arrow, job.id_type)())}
    small = list(columns)
    if isinstance(found.vectors, list):
        ends = np.cumsum([0, *map(len, found.vectors)], dtype=np.int32)
        values = _lists(arrow, np.concatenate(found.vectors))
        columns["vectors"] = arrow.ListArray.from_arrays(arrow.array(ends), values)
    else:
        columns["vector"] = _lists(arrow, found.vectors)
    numbers = {"plan": job.plan, "rows": len(shard.texts), "tokens": found.tokens,
               "truncated": found.truncated}  # fmt: skip
    table = arrow.table(columns).replace_schema_metadata({METADATA: json.dumps(numbers)})
    sink = arrow.BufferOutputStream()
    parquet.write_table(
        table, sink, row_group_size=max(1, len(table)), compression="none", use_dictionary=["file"],
        write_statistics=small,
    )  # fmt: skip
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _lists(arrow: Any, vectors: Any) -> Any:
    values = arrow.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    return arrow.FixedSizeListArray.from_arrays(values, vectors.shape[1])


def read_done(number: int, data: bytes, plan: str, where: str) -> Done:
    """Return what a written shard has, from its bytes.

    Raises:
        DamagedError: it is damaged, or was written by a run with another plan.
    """
    arrow, parquet = require_extra("pyarrow", "data"), require_extra("pyarrow.parquet", "data")
    how = "delete it, and repeat the command"
    try:
        found = parquet.read_metadata(arrow.BufferReader(data))
        numbers = json.loads((found.metadata or {})[METADATA])
    except (arrow.ArrowException, OSError, KeyError, ValueError) as error:
        raise DamagedError("the file is not a shard of motherbird", where, how) from error
    if numbers["plan"] != plan or numbers["rows"] != found.num_rows:
        raise DamagedError("the shard was written by a run with other settings", where, how)
    digest = hashlib.sha256(data).hexdigest()
    return Done(number, numbers["rows"], numbers["tokens"], numbers["truncated"], digest)
