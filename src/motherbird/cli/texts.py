"""The texts of a file or of standard input, and the JSON lines of a command that streams."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from ..errors import counted
from . import options
from .output import print_json, progress

if TYPE_CHECKING:
    from ..bulk.shards import Row
    from ..data.readers import Document
    from ..models.label_model import DocumentModel

F = TypeVar("F", bound=Callable[..., Any])
GROUP, GROUP_CHARACTERS = 2048, 4_000_000  # texts that are computed at once, at most

Pair = tuple["Document", "Document"]


def inputs_of(file: str, model: str) -> list[str]:
    """Return the inputs of a command that an output may not replace.

    Raises:
        InputError: the file is a directory.
    """
    from ..errors import InputError

    if file not in ("", "-") and Path(file).is_dir():
        raise InputError("this is a directory", file, "use a file")
    return [*options.directories(model), *([file] if file != "-" else [])]


def read_texts(file: str, column: str | None, allow_empty: bool = False) -> "Iterator[Document]":
    """Yield the texts of a table, or the lines of any other file; "-" is standard input.

    The first text is read at once. With ``allow_empty``, texts may be empty or contain a NUL.

    Raises:
        InputError: there is no text, or one is empty.
        DamagedError: the file, or a line of it, cannot be read.
    """
    from ..errors import InputError

    if is_table(file):
        texts = _column(file, column or "text", "--column")
    elif column is not None:
        how = f"use a file that ends in {', '.join(_table_suffixes())}"
        raise InputError("--column is for tables, and this is not one", file, how)
    else:
        texts = _lines(file)
    texts = texts if allow_empty else map(_checked, texts)
    return _from_first(texts, file, "write one text per line")


def read_rows(file: str, column: str | None, id_column: str | None) -> "Iterator[Row]":
    """Yield the texts of `read_texts`, each with the id in a column if one is named.

    The first row is read at once. Errors are those of `read_texts`.
    """
    from ..bulk.shards import Row
    from ..errors import InputError

    if id_column is None:
        return (Row(text.text, text.source) for text in read_texts(file, column))
    if not is_table(file):
        how = f"use a file that ends in {', '.join(_table_suffixes())}"
        raise InputError("--id-column is for tables, and this is not one", file, how)
    return _from_first(_rows_with_ids(file, column or "text", id_column), file, "write rows")


def read_pairs(file: str, columns: str | None) -> "Iterator[Pair]":
    """Yield the pairs of texts of two columns of a table, or of lines with a tab between the texts.

    The first pair is read at once. Errors are those of `read_texts`.
    """
    from ..errors import InputError

    if is_table(file):
        names = [name.strip() for name in (columns or "text_a,text_b").split(",")]
        if len(names) != 2 or not all(names) or names[0] == names[1]:
            what = "--columns are not two different names"
            raise InputError(what, repr(columns), "separate them with a comma")
        pairs: Iterator[Pair]
        first, second = (_column(file, name, "--columns") for name in names)
        pairs = zip(first, second, strict=True)
    elif columns is not None:
        how = f"use a file that ends in {', '.join(_table_suffixes())}"
        raise InputError("--columns are for tables, and this is not one", file, how)
    else:
        pairs = map(_divided, _lines(file))
    checked = ((_checked(a), _checked(b)) for a, b in pairs)
    return _from_first(checked, file, "write two texts per line, with a tab between them")


def is_table(file: str) -> bool:
    """Return whether a file has columns, by its name; a .json file is an InputError."""
    from ..data.readers import formats, plain_name
    from ..errors import InputError

    name = "" if file == "-" else plain_name(Path(file))
    if name.endswith(".json"):
        raise InputError("this is JSON, not lines of text", file, formats.jsonl_hint(Path(file)))
    return name.endswith(_table_suffixes())


def _table_suffixes() -> tuple[str, ...]:
    from ..data.readers import TABLES, jsonl

    return (*TABLES, *jsonl.SUFFIXES, ".parquet")


T = TypeVar("T")


def _from_first(items: Iterator[T], file: str, how: str) -> Iterator[T]:
    """Return the items, the first of which is read now, so that its errors come before any work."""
    from ..errors import InputError

    for first in items:
        return chain([first], items)
    raise InputError("there is no text", file, how)


def _checked(text: "Document") -> "Document":
    from ..core.arguments import check_text
    from ..errors import NotTextError

    if "\0" in text.text:
        raise NotTextError("the text contains a NUL", text.source, "remove it")
    check_text(text.text, text.source)
    return text


def _divided(line: "Document") -> "Pair":
    from ..data.readers import Document
    from ..errors import InputError

    parts = line.text.split("\t")
    if len(parts) != 2:
        what = f"the line has {len(parts) - 1} tabs"
        raise InputError(what, line.source, "write two texts with one tab between them")
    return Document(parts[0], line.source), Document(parts[1], line.source)


def _column(file: str, column: str, option: str) -> "Iterator[Document]":
    from ..data.readers import read
    from ..errors import FieldError, InputError

    is_first = True
    try:
        for text in read(file, field=column, keep_empty=True):
            yield text
            is_first = False
    except FieldError as error:
        if not is_first:  # only some rows have no text
            raise
        how = f"set {option} to the name of the texts; {error.how}"
        raise InputError(error.what, error.where, how) from error


def _rows_with_ids(file: str, column: str, id_column: str) -> "Iterator[Row]":
    from ..bulk.shards import Row
    from ..data.readers import missing
    from ..data.readers.document import describe_type, text_of
    from ..data.readers.records import records
    from ..errors import DamagedError, FieldError, InputError, RowError, RowFieldError

    if not Path(file).exists():
        raise missing(file)
    is_first = True
    try:
        for record in records(file, [column, id_column]):
            if isinstance(record, DamagedError):
                raise record
            text = text_of(record.values, column, record.where)
            if isinstance(text, DamagedError):
                raise text
            if id_column not in record.values:
                raise RowFieldError(f'no field is called "{id_column}"', record.where)
            if type(own := record.values[id_column]) not in (str, int):
                what = f'"{id_column}" is {describe_type(own)}, not an integer or a text'
                raise RowError(what, record.where, "use another --id-column")
            yield Row(_checked(text).text, record.where, own)
            is_first = False
    except FieldError as error:
        if not is_first:  # only some rows lack it
            raise
        how = f"set --column and --id-column to names of the table; {error.how}"
        raise InputError(error.what, error.where, how.removesuffix("; ")) from error


def _lines(file: str) -> "Iterator[Document]":
    from ..data.readers import Document, check_pointer, chunks, decode, missing
    from ..data.readers.document import split_lines
    from ..errors import InputError, NotTextError

    path = Path(file)
    if file == "-":
        found = _standard_input()
    elif not path.exists():
        raise missing(file, "use - for standard input")
    elif path.is_char_device() or path.is_block_device():  # may have no end
        raise InputError("this is a device", file, "use a text file")
    else:
        check_pointer(path)
        found = chunks(path)
    start, end = next(found, b""), 0
    for number, line in enumerate(split_lines(chain([start], found), file), 1):
        where = f"{file}:{number}"
        end += len(line)
        try:
            text = decode(line, where)
        except NotTextError:
            if end <= len(start):  # binary files and encodings are recognized by their first bytes
                decode(start, file)
            raise
        if text:  # a file may have a byte order mark and nothing else
            yield Document(text.removesuffix("\n").removesuffix("\r"), where)


def _standard_input() -> Iterator[bytes]:
    from ..data.readers.document import CHUNK

    if sys.stdin is not None:
        buffer: Any = sys.stdin.buffer
        yield from iter(lambda: buffer.read1(CHUNK), b"")


def of_file(function: F) -> F:
    """Add the options that commands with a result for each text of FILE have in common."""
    for decorate in (
        click.option("--json", "json_", is_flag=True, help="Print the summary as JSON."),
        options.loading,
        click.option("--split-special-tokens", is_flag=True,
                     help="Treat [SEP] and other special tokens in a text like other text."),
        click.option("--truncate", is_flag=True,
                     help="Truncate longer texts; without it, they are an error."),
        click.option("--max-length", type=int, metavar="N",
                     help="Maximum number of tokens per text (default: the model's limit)."),
        click.option("--out", metavar="OUT.jsonl", callback=options.not_empty,
                     help="The file to write (default: standard output)."),
        click.option("--model", required=True, metavar="MODEL", callback=options.not_empty,
                     help="A model directory, or owner/name on the Hub."),
        click.argument("file", metavar="FILE"),
    ):  # fmt: skip
        function = decorate(function)
    return function


@dataclass
class Results:
    """What a model computes for a group of texts."""

    rows: list[dict[str, Any]]  # the JSON object of each text
    truncated: int
    found: list[str] = field(default_factory=list)  # what the summary counts, such as labels


def check_out(file: str, model: str, out: str | None) -> Path | None:
    """Return the output path of a command that streams, or None for standard output."""
    inputs = inputs_of(file, model)
    return None if out is None else options.output_file(out, inputs, "--out", ".jsonl")


def rounded(value: Any) -> Any:
    """Return a probability with six digits, and any other value as it is."""
    return round(value, 6) if isinstance(value, float) else value


def label_results(
    model: "DocumentModel", ids: list[list[int]], truncated: int, every: bool
) -> Results:
    """Compute the labels of documents; ``every`` adds the probability of every label."""
    probabilities = model.probabilities_of_ids(ids)
    rows: list[dict[str, Any]] = []
    labels: list[str] = []
    for found, row in zip(model.predictions(probabilities), probabilities.tolist(), strict=True):
        result: dict[str, Any] = {"label": found.label, "probability": rounded(found.probability)}
        if model.head_config.kind == "multi":
            result["labels"] = list(found.labels)
        if every:
            result["probabilities"] = dict(zip(model.labels, map(rounded, row), strict=True))
        rows.append(result)
        labels += found.labels
    return Results(rows, truncated, labels)


def stream(
    items: Iterable[T],
    size: Callable[[T], int],
    compute: Callable[[list[T]], Results],
    out: Path | None,
    about: dict[str, Any],
    json_: bool,
    counts_of: str = "labels",
) -> None:
    """Write the results of all items as JSON lines, and then a summary.

    With ``out``, the lines are written to this file, which is complete or unchanged, and the
    summary to standard output. Otherwise the lines are written to standard output, and the summary
    to standard error.

    Args:
        items: what results are computed for, in order.
        size: the number of characters of an item.
        compute: computes the results of a group of items.
        out: the file, or None.
        about: further keys of the summary.
        json_: whether the summary is JSON.
        counts_of: the key of the counts in the summary.
    """
    from ..files import write_file

    counts: Counter[str] = Counter()
    summary: dict[str, Any] = {"out": None if out is None else str(out), "texts": 0, "truncated": 0,
                               counts_of: {}, **about}  # fmt: skip
    start = time.perf_counter()

    def run(file: IO[str] | None) -> None:
        with progress("computing", total=None, quiet=json_) as update:
            for group in _groups(items, size):
                results = compute(group)
                _write(results.rows, file)
                summary["texts"] += len(group)
                summary["truncated"] += results.truncated
                counts.update(results.found)
                update(text=f"{summary['texts']:,} texts")

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8") as file:
            run(file)

    if out is None:
        run(None)
    else:
        write_file(out, write)
    summary[counts_of] = dict(counts.most_common())
    summary["seconds"] = round(time.perf_counter() - start, 3)
    _show(summary, counts_of, json_)


def _groups(items: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    group: list[T] = []
    characters = 0
    for item in items:
        group.append(item)
        characters += size(item)
        if len(group) == GROUP or characters > GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


def _write(rows: list[dict[str, Any]], file: IO[str] | None) -> None:
    unicode = file is not None or "utf" in (getattr(sys.stdout, "encoding", None) or "").lower()
    text = "\n".join(json.dumps(row, ensure_ascii=not unicode) for row in rows)
    click.echo(text, file=file)


def _show(summary: dict[str, Any], counts_of: str, json_: bool) -> None:
    to_error = summary["out"] is None
    if json_:
        print_json(summary, err=to_error)
        return
    counts = list(summary[counts_of].items())
    shown = ", ".join(f"{name} {count:,}" for name, count in counts[:10])
    shown += f", and {len(counts) - 10} more" if counts[10:] else ""
    where = "" if to_error else f"{summary['out']}: "
    text = f"{where}{counted(summary['texts'], 'text')}, {summary['seconds']:.1f} s"
    click.echo(text + (f": {shown}" if shown else ""), err=to_error)
