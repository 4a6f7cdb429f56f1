"""Parquet: each row is a document, read by pyarrow."""

from collections.abc import Iterator
from pathlib import Path

from ...errors import DamagedError, require_extra
from .document import Document, name_of

SUFFIXES = (".parquet",)


def read(path: Path, field: str, encoding: str) -> Iterator[Document | DamagedError]:
    """Yield the column ``field`` of every row, or an error; ``encoding`` is ignored."""
    arrow, parquet = require_extra("pyarrow", "data"), require_extra("pyarrow.parquet", "data")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                known = ", ".join(file.schema_arrow.names)
                raise DamagedError(f'no column "{field}"', name_of(path), f"it has {known}")
            for batch in file.iter_batches(batch_size=1024, columns=[field]):
                for value in batch.column(0):
                    number += 1
                    where = f"{name_of(path)}:{number}"
                    try:
                        text = value.as_py()
                    except UnicodeDecodeError:
                        text = None
                    if isinstance(text, str):
                        yield Document(text, where)
                    else:
                        yield DamagedError(f'no text in column "{field}"', where)
    except (arrow.ArrowException, OSError) as error:
        what = f"cannot be read to its end ({str(error).splitlines()[0]})"
        raise DamagedError(what, f"{name_of(path)}, after row {number}") from error
