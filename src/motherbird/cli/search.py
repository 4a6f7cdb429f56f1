"""``motherbird search``."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options
from .output import has_color, print_json

if TYPE_CHECKING:
    from ..search.index import Result
    from ..search.lookup import Hit
    from ..search.query import Query

SHOWN = 5  # lines of a hit


@click.command(name="search")
@click.argument("query", callback=options.as_utf_8)
@click.argument("paths", nargs=-1, type=click.Path(), metavar="[PATHS]...")
@click.option("-k", "--count", default=10, show_default=True, metavar="K",
              type=click.IntRange(1, 1000), help="Number of results.")  # fmt: skip
@click.option("-C", "--context", type=click.IntRange(0), metavar="N",
              help="Show the whole part, and N lines around it.")  # fmt: skip
@click.option("--files", "files_only", is_flag=True, help="Print paths only, each once.")
@click.option("--path", "patterns", multiple=True, metavar="PATTERN",
              help="Search files whose name or path matches, such as '*.py' or 'src/*'; "
              "repeatable.")  # fmt: skip
@click.option("--language", "languages", multiple=True, metavar="NAME",
              help="Search files of a language, such as python; repeatable.")  # fmt: skip
@click.option("--type", "kind", type=click.Choice(["code", "prose"]),
              help="Search code only, or text only.")  # fmt: skip
@click.option("--mode", type=click.Choice(["hybrid", "bm25", "dense"]), default="hybrid",
              show_default=True,
              help="Full text (bm25), vectors (dense), or both.")  # fmt: skip
@options.static_model
@click.option("--no-background", is_flag=True,
              help="Do not make the index of many new files in the background.")  # fmt: skip
@click.option("--explain", is_flag=True, help="Show what each score consists of.")
@options.as_json
def command(query: str, paths: tuple[str, ...], json_: bool, **given: Any) -> None:
    """Search the files below PATHS (default: the current directory).

    \b
    motherbird search "where are routes registered"
    motherbird search HTTPAdapter.send src tests --language python

    QUERY is a question, some words, or a name. Results are functions, classes, sections and other
    parts of files, the best first, with their lines. The index of a directory, or of the whole
    repository that it is in, is kept in the cache of the user and follows every change of the
    files. If there are many new files, the answer is from a scan of them, and a process in the
    background adds them to the index. Files that git ignores, and vendored, generated and binary
    files are left out (motherbird index --report).

    With --json: {"query", "hits": [{"path", "start", "end", "symbol", "kind", "score", "text"}],
    "index": {"files", "chunks", "pending", "skipped"}, "seconds"}; lines from 1, paths relative to
    the directory of the index; with --explain also "parts" of each hit.
    """  # noqa: D301
    from ..search.query import Query

    start = time.perf_counter()
    root, found = _search(query, paths, **given)
    started = bool(found.pending) and not given["no_background"]
    if started:
        from ..search import background

        started = background.start(root, given["model"])
    seconds = round(time.perf_counter() - start, 3)
    if json_:
        hits = [
            hit.as_json() | ({"parts": _rounded(hit.parts)} if given["explain"] else {})
            for hit in found.hits
        ]
        about = {"files": found.files, "chunks": found.chunks, "pending": found.pending,
                 "skipped": dict(found.skipped)}  # fmt: skip
        print_json({"query": query, "hits": hits, "index": about, "seconds": seconds})
        return
    prefix = _prefix(root)
    if given["files_only"]:
        for path in dict.fromkeys(hit.path for hit in found.hits):
            click.echo(prefix + _printable(path))
    else:
        for hit in found.hits:
            click.echo(_shown(hit, Query(query), prefix, root, given))
    _notes(found, seconds, started)


def _search(
    query: str, paths: Sequence[str], *, count: int, patterns: tuple[str, ...],
    languages: tuple[str, ...], kind: Any, mode: Any, model: str, **rest: Any,
) -> "tuple[Path, Result]":  # fmt: skip
    """Return the root of the index, and the result."""
    from ..errors import InputError
    from ..search.cache import root_of
    from ..search.filters import Filters
    from ..search.index import Index

    targets = [Path(path) for path in paths or (".",)]
    roots = {root_of(target) for target in targets}
    if len(roots) > 1:
        some = ", ".join(sorted(map(str, roots)))
        raise InputError(f"the paths are in different directories: {some}", how="search one")
    [root] = roots
    inside = tuple(target.resolve().relative_to(root).as_posix() for target in targets)
    filters = Filters(() if "." in inside else inside, patterns, languages, kind)
    index = Index.open(targets[0], None if mode == "bm25" else model)
    try:
        return root, index.search(query, count, mode, filters)
    finally:
        index.close()


def _rounded(parts: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in parts.items()}


def _shown(hit: "Hit", query: "Query", prefix: str, root: Path, given: dict[str, Any]) -> str:
    """Return a hit as text: its place, what it is, and lines of it."""
    from ..search.lines import around, best_lines

    def colored(text: str, **style: Any) -> str:
        return click.style(text, **style) if has_color() else text

    what = f"{hit.kind} {hit.symbol}" if hit.symbol else hit.kind
    first, lines = best_lines(hit.text, query, SHOWN)
    first += hit.start
    if given["context"] is not None:
        first, lines = around(root / hit.path, hit.start, hit.end, given["context"])
    path = colored(f"{prefix}{_printable(hit.path)}", fg="magenta")
    head = f"{path}:{colored(str(hit.start), fg='green')}  {what}"
    if given["explain"]:
        parts = "  ".join(f"{name} {value:.2f}" for name, value in hit.parts.items() if value)
        head += f"\n    {hit.score:.2f}: {parts}"
    body = [f"  {colored(f'{n:>5}', fg='green')}  {_printable(line)}" for n, line in
            enumerate(lines, first)]  # fmt: skip
    return "\n".join([head, *body, ""])


def _notes(found: "Result", seconds: float, started: bool) -> None:
    """Say what was not found, or not searched, on standard error."""
    from ..errors import counted

    if not found.hits:
        click.echo(f"nothing found in {counted(found.files or found.pending, 'file')}", err=True)
    if found.pending:
        what = "it is being made in the background" if started else "motherbird index makes it"
        click.echo(f"{counted(found.pending, 'file')} not in the index yet, of which the best by "
                   f"words were searched ({seconds:.1f} s); {what}", err=True)  # fmt: skip


def _prefix(root: Path) -> str:
    """Return what comes before the path of a hit so that it can be opened from here."""
    import os

    relative = os.path.relpath(root)
    return "" if relative == "." else f"{relative}/"


def _printable(text: str) -> str:
    """Escape what a terminal would obey."""
    return "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in text)
