"""Parquet files, and directories that `datasets.Dataset.save_to_disk` wrote."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DamagedError, InputError, RowError, require_extra
from ...files import parse_json, read_json_object
from .document import Document, Record, check_columns, column_texts, name_of

ROWS = 1024  # of a batch
PARTS = "dataset_dict.json"  # in a directory with several datasets, such as train and test


@dataclass
class _Position:
    """How far a file is read."""

    where: str
    rows: int = 0


def read(path: Path, field: str, encoding: str) -> Iterator[Document | DamagedError]:
    """Yield the column ``field`` of every row of Parquet, or an error; ``encoding`` is ignored."""
    yield from column_texts(records(path, [field]), field)


def records(path: Path, columns: Sequence[str] = ()) -> Iterator[Record | DamagedError]:
    """Yield every row of a Parquet file, with these columns or with all, or an error.

    Row groups are read one after the other, so that a damaged one does not affect those before it.
    Integers of a ClassLabel of the library datasets are replaced by the names of the classes.
    """
    parquet = require_extra("pyarrow.parquet", "data")
    position = _Position(name_of(path))
    with (
        _damage(position),
        parquet.ParquetFile(path, page_checksum_verification=True) as file,
    ):
        schema = file.schema_arrow
        check_columns(schema.names, columns, name_of(path))
        features = _features(schema.metadata)
        for group in range(file.num_row_groups):
            position.where = f"{name_of(path)}, row group {group} (from 0)"
            for batch in file.iter_batches(ROWS, row_groups=[group], columns=list(columns) or None):
                yield from _rows(batch, name_of(path), position, features)


def dataset_records(folder: Path) -> Iterator[Record | DamagedError]:
    """Yield every row of a directory of `datasets.Dataset.save_to_disk`, or an error.

    A directory with .parquet files, as datasets have on the Hub, is read file by file. Integers of
    a ClassLabel are replaced by the names of the classes.

    Raises:
        InputError: the directory contains several datasets, or none.
    """
    if not (folder / "state.json").is_file() and (files := sorted(folder.glob("*.parquet"))):
        for file in files:
            yield from records(file)
        return
    if (folder / PARTS).is_file():
        parts = read_json_object(folder / PARTS).get("splits", [])
        names = ", ".join(f'"{part}"' for part in parts)
        how = f"use one of them, such as {folder / (parts or ['train'])[0]}"
        raise InputError(f"the directory contains several datasets: {names}", str(folder), how)
    if not (folder / "state.json").is_file():
        how = "use a file, or a directory written by save_to_disk of the library datasets"
        raise InputError("the directory is not a dataset", str(folder), how)
    features = read_json_object(folder / "dataset_info.json").get("features") or {}
    arrow = require_extra("pyarrow", "data")
    position = _Position(name_of(folder))
    with _damage(position):
        for file in read_json_object(folder / "state.json").get("_data_files", []):
            path = folder / file["filename"]
            position.where = name_of(path)
            with arrow.OSFile(str(path)) as source, arrow.ipc.open_stream(source) as stream:
                check_columns(stream.schema.names, (), name_of(path))
                for batch in stream:
                    yield from _rows(batch, name_of(folder), position, features)


@contextmanager
def _damage(position: _Position) -> Iterator[None]:
    """Raise DamagedError with the position for what pyarrow raises."""
    arrow = require_extra("pyarrow", "data")
    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        what = f"the file cannot be read to its end ({str(error).splitlines()[0]})"
        raise DamagedError(what, f"{position.where}, after row {position.rows}") from error


def _rows(
    batch: Any, name: str, position: _Position, features: dict[str, Any]
) -> Iterator[Record | DamagedError]:
    """Yield the rows of a batch, and count them in ``position``."""
    columns = [
        (column, batch.column(index), _classes(features.get(column)))
        for index, column in enumerate(batch.schema.names)
    ]
    for row in range(batch.num_rows):
        position.rows += 1
        where = f"{name}:{position.rows}"
        values: dict[str, Any] = {}
        try:
            for column, array, classes in columns:
                values[column] = _named(array[row].as_py(), classes)
        except UnicodeDecodeError:
            yield RowError(f'column "{column}" is not UTF-8, not text', where)
        except IndexError:
            yield RowError(f'column "{column}" has a class without a name', where)
        else:
            yield Record(values, where)


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """Return the features that the library datasets stores in the schema of a file."""
    try:
        features = parse_json((metadata or {})[b"huggingface"].decode())["info"]["features"]
    except (KeyError, TypeError, ValueError):  # the file was written by another library
        return {}
    return features if isinstance(features, dict) else {}


def _classes(feature: Any) -> list[str]:
    """Return the names of the classes of a ClassLabel, or of a list of them, or []."""
    if isinstance(feature, list) and feature:  # as older versions describe a list
        return _classes(feature[0])
    if not isinstance(feature, dict):
        return []
    if isinstance(feature.get("feature"), dict):  # of a List or Sequence
        return _classes(feature["feature"])
    return feature["names"] if feature.get("_type") == "ClassLabel" else []


def _named(value: Any, classes: list[str]) -> Any:
    """Replace the index of a class by its name; -1 is a missing one, as in datasets."""
    if not classes or value is None:
        return value
    if isinstance(value, list):
        return [_named(one, classes) for one in value]
    if value < -1:
        raise IndexError
    return None if value == -1 else classes[value]
