"""``motherbird embed`` into a directory: Parquet shards, which can be resumed."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..errors import counted
from . import options
from .output import print_result, progress
from .texts import inputs_of, read_rows

if TYPE_CHECKING:
    from ..bulk.shards import Done, Job, Shard, Source
    from ..bulk.store import Store
    from ..bulk.vectors import Encode, Settings

ROWS = 10_000  # of a shard


@dataclass(frozen=True)
class Layout:
    """The options of shards."""

    column: str | None
    id_column: str | None
    shard_rows: int | None
    workers: int | None
    engine: str | None
    ray_address: str | None

    def check_unused(self, kind: str | None) -> None:
        """Raise InputError if an option of shards is given for a .npy file."""
        from ..errors import InputError

        given = {"--id-column": self.id_column, "--shard-rows": self.shard_rows, "--kind": kind,
                 "--workers": self.workers, "--engine": self.engine,
                 "--ray-address": self.ray_address}  # fmt: skip
        for option, value in given.items():
            if value is not None:
                raise InputError(f"{option} is for shards", how="use a directory as --out")


def is_directory(out: str, format_: str | None) -> bool:
    """Return whether shards are written: --format says so, or --out has no suffix or is a URL."""
    from ..bulk.store import is_url

    if format_ is not None or not out:
        return format_ == "parquet"
    if out.lower().endswith(".npy"):
        return False
    return is_url(out) or Path(out).is_dir() or not PurePosixPath(out).suffix


def embed_shards(
    files: tuple[str, ...],
    out: str,
    layout: Layout,
    given: dict[str, Any],
    prompt_name: str | None,
    json_: bool,
) -> None:
    """Write a vector for each text of some files as Parquet shards.

    Args:
        files: their names.
        out: a directory or a URL.
        layout: the options of shards.
        given: fields of `bulk.vectors.Settings`.
        prompt_name: of the model.
        json_: whether the result is printed as JSON.

    Raises:
        InputError: something cannot be used; found before any work.
        OutputExistsError: the output was begun with other settings, or has other files.
        RowError: a text cannot be embedded.
        StoppedError: a signal stopped the work.
    """
    from ..bulk import run
    from ..bulk.vectors import Settings, load
    from ..errors import require_extra

    store = _check_out(files, given["model"], out, layout)
    require_extra("pyarrow.parquet", "data")
    if layout.engine == "ray":
        require_extra("ray", "ray")
    sources = _sources(files, layout)
    with progress("reading", total=None, quiet=json_) as advance:
        inputs, id_type = run.survey(sources, advance)
    settings, encode = load(Settings(**given), prompt_name)
    size = layout.shard_rows or ROWS
    plan = run.make_plan(settings, inputs, {
        "format": "parquet", "shard_rows": size, "column": layout.column,
        "id_column": layout.id_column, "id_type": id_type,
    })  # fmt: skip
    work = _Work(store, out, layout, settings, encode, sources, inputs, id_type, plan, size)
    del encode  # so that the model can be freed
    work.do(json_)


def _check_out(files: tuple[str, ...], model: str, out: str, layout: Layout) -> "Store":
    """Return where shards are written, or raise InputError for what cannot be."""
    from ..bulk import run
    from ..bulk.store import LocalStore, open_store
    from ..errors import InputError

    inputs = [each for file in files for each in inputs_of(file, model)]
    for file in files:
        if file == "-" or (os.path.exists(file) and not os.path.isfile(file)):
            what = "the texts of shards are read twice, and from a file"
            raise InputError(what, file, "write them to a file first")
    if files[len(set(files)) :]:
        raise InputError("a file is given twice", max(files, key=files.count), "give it once")
    if layout.ray_address is not None and layout.engine != "ray":
        raise InputError("--ray-address is for --engine ray", how="add --engine ray")
    store = open_store(out)
    if isinstance(store, LocalStore):
        options.output(str(store.directory), inputs)
        if store.directory.exists() and not store.directory.is_dir():
            raise InputError("--out is a file", out, "use the name of a directory")
    elif out.startswith("memory://") and (layout.workers or layout.engine == "ray"):
        what = "memory:// is the memory of one process"
        raise InputError(what, out, "leave out --workers and --engine")
    run.check_empty(store, out)
    return store


def _sources(files: tuple[str, ...], layout: Layout) -> "list[Source]":
    from ..bulk.shards import Source

    return [Source(file, partial(read_rows, file, layout.column, layout.id_column))
            for file in files]  # fmt: skip


@dataclass
class _Work:
    """What `embed_shards` has found out, and the work itself."""

    store: "Store"
    out: str
    layout: Layout
    settings: "Settings"
    encode: "Encode | None"
    sources: "list[Source]"
    inputs: list[Any]
    id_type: str | None
    plan: str
    size: int

    def do(self, json_: bool) -> None:
        """Compute the shards that are missing, write the manifest, and print the result."""
        from ..bulk import run, shards, store
        from ..models.text_model import warn_truncated

        start = time.perf_counter()
        rows = sum(one.rows for one in self.inputs)
        total = shards.count_of(rows, self.size)
        with store.locked(self.store):
            run.begin(self.store, self.plan, self.out)
            done = run.written(self.store, total, self.plan, self.out)
            wanted = set(range(total)) - done.keys()
            if wanted:
                with _stopping(self.store, self.out, total):
                    self._compute(done, wanted, rows, json_)
            if wanted or run.MANIFEST not in self.store.names():
                run.finish(self.store, self.plan, self.inputs, done)
        truncated = sum(each.truncated for each in done.values())
        warn_truncated(truncated, rows, self.settings.max_length or 0)
        self._show(done, len(wanted), time.perf_counter() - start, json_)

    def _compute(self, done: "dict[int, Done]", wanted: set[int], rows: int, json_: bool) -> None:
        from ..bulk import run, shards

        with progress("embedding", total=rows, quiet=json_) as advance:
            advance(sum(each.rows for each in done.values()))
            is_fine = self.layout.engine != "ray" and self.layout.workers is None
            asked = shards.divide(self.sources, self.size, wanted, rows)
            found = self._engine(asked, advance)
            run.collect(found, done, lambda each: None if is_fine else advance(each.rows))

    def _engine(self, asked: "Iterator[Shard]", advance: Callable[..., None]) -> "Iterator[Done]":
        """Return what computes the shards; the model of this process is kept only if it does."""
        from ..bulk import local
        from ..bulk.shards import ShardTask
        from ..core import threads

        job, encode = self._job(), self.encode
        if self.layout.engine != "ray" and self.layout.workers is None:
            return map(ShardTask(job, encode, advance), asked)
        self.encode = encode = None
        each = threads.chosen() or 1
        if self.layout.engine != "ray":
            return local.in_workers(job, asked, self.layout.workers or 1, each)
        from ..bulk.ray import in_ray

        return in_ray(job, asked, self.layout.workers, each, self.layout.ray_address)

    def _job(self) -> "Job":
        from ..bulk.run import digest
        from ..bulk.shards import Job
        from ..bulk.store import LocalStore
        from ..bulk.vectors import absolute

        store = self.store
        out = os.path.abspath(store.directory) if isinstance(store, LocalStore) else self.out
        return Job(absolute(self.settings), out, self.id_type, digest(self.plan))

    def _show(self, done: "dict[int, Done]", computed: int, seconds: float, json_: bool) -> None:
        from .. import __version__

        settings = self.settings
        names = ("model", "revision", "dtype", "pooling", "prompt", "normalize", "max_length",
                 "split_special_tokens", "kind")  # fmt: skip
        about = {
            "out": self.out, "texts": sum(each.rows for each in done.values()),
            "dimensions": settings.dimensions,
            "tokens": sum(each.tokens for each in done.values()),
            "truncated": sum(each.truncated for each in done.values()),
            "shards": len(done), "computed": computed,
            **{name: getattr(settings, name) for name in names},
            "motherbird": __version__, "seconds": round(seconds, 3),
        }  # fmt: skip
        text = (
            f"{self.out}: {counted(about['texts'], 'text')}, vectors of {settings.dimensions} "
            f"dimensions, {counted(len(done), 'shard')} ({computed:,} computed), {seconds:.1f} s"
        )
        print_result(about, text, json_)


@contextmanager
def _stopping(store: "Store", out: str, total: int) -> Iterator[None]:
    """Raise StoppedError for SIGINT and SIGTERM, which says how many shards there are."""
    from ..bulk.shards import name_of
    from ..errors import StoppedError

    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code != 143:
            raise
        is_interrupt = isinstance(error, KeyboardInterrupt)
        what = "stopped by Ctrl-C" if is_interrupt else "stopped by a signal"
        written = len(store.names() & set(map(name_of, range(total))))
        how = (
            f"{written:,} of {counted(total, 'shard')} are written; repeat the command to "
            "compute the others"
        )
        raise StoppedError(what, out, how, signal=2 if is_interrupt else 15) from error
