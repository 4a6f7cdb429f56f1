"""``motherbird index``."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options
from .output import human, print_json, progress

if TYPE_CHECKING:
    from ..search.cache import Home


@click.command(name="index")
@click.argument("paths", nargs=-1, type=click.Path(), metavar="[PATHS]...")
@options.static_model
@click.option("--watch", "watched", is_flag=True,
              help="Go on, and add every change of the files when it happens; Ctrl-C ends it.",
              )  # fmt: skip
@click.option("--report", is_flag=True, help="Say which files are left out, and why.")
@click.option("--list", "list_", is_flag=True, help="List all indexes, with their sizes.")
@click.option("--delete", is_flag=True, help="Delete the index of PATHS.")
@click.option("--check", is_flag=True, help="Verify the index; exit code 1 if it is damaged.")
@options.threads
@options.as_json
def command(
    paths: tuple[str, ...], model: str, watched: bool, report: bool, list_: bool,
    delete: bool, check: bool, json_: bool,
) -> None:  # fmt: skip
    """Make or update the index of PATHS (default: the current directory) for motherbird search.

    \b
    motherbird index
    motherbird index --report
    motherbird index --list

    A search does the same for a few changed files; for many, this is faster. There is one index
    for each repository, or for each directory that is in none, in the cache of the user
    ($MOTHERBIRD_CACHE changes the place). It may be interrupted: what is done is kept.

    With --json: [{"root", "index", "files", "chunks", "bytes", "new", "removed", "skipped",
    "seconds"}], one for each index; with --list and --delete [{"root", "index", "bytes"}]; with
    --check [{"root", "index", "problems"}].
    """  # noqa: D301
    from ..errors import InputError
    from ..search.cache import homes

    if sum((list_, delete, check, watched)) > 1:
        raise InputError("--list, --delete, --check and --watch exclude each other")
    if watched and len(_roots(paths)) > 1:
        raise InputError("--watch is for one directory", how="start a process for each")
    if list_:
        _print([_about(home) for home in homes()], json_, "no index")
    elif delete:
        _print(_delete(paths), json_, "there was no index")
    elif check:
        _check(paths, json_)
    else:
        _make(paths, model, report, json_)
        if watched:
            _watch(paths, model)


def _watch(paths: tuple[str, ...], model: str) -> None:
    from ..search.index import Index
    from ..search.watch import watch

    [root] = _roots(paths)
    watch(Index.open(root, model))


def _roots(paths: tuple[str, ...]) -> list[Path]:
    from ..search.cache import root_of

    return list(dict.fromkeys(root_of(Path(path)) for path in paths or (".",)))


def _about(home: "Home") -> dict[str, Any]:
    root = str(home.root) if home.root else None
    return {"root": root, "index": str(home.path), "bytes": home.size()}


def _print(found: list[dict[str, Any]], json_: bool, none: str) -> None:
    if json_:
        print_json(found)
        return
    for each in found:
        click.echo(f"{human(each['bytes'], 'B'):>8}  {each['root'] or each['index']}")
    if not found:
        click.echo(none)


def _delete(paths: tuple[str, ...]) -> list[dict[str, Any]]:
    """Delete indexes, also of directories that exist no more, and return which."""
    import shutil

    from ..search.cache import home_of, root_of

    found = []
    for path in paths or (".",):
        target = Path(path)
        home = home_of(root_of(target) if target.exists() else target.absolute(), create=False)
        if home.path.is_dir():
            found.append(_about(home))
            shutil.rmtree(home.path)
    return found


def _check(paths: tuple[str, ...], json_: bool) -> None:
    from ..errors import DamagedError
    from ..search.cache import home_of
    from ..search.index import Index

    found = []
    for root in _roots(paths):
        path = home_of(root, create=False).database
        problems = ["there is no index"]
        if path.is_file():
            try:
                index = Index(root, path)
                with index.store.errors():
                    problems = index.store.problems()
                index.close()
            except DamagedError as error:
                problems = [str(error)]
        found.append({"root": str(root), "index": str(path), "problems": problems})
    if json_:
        print_json(found)
    for each in () if json_ else found:
        lines = each["problems"] or ["whole"]
        click.echo("\n".join(f"{each['root']}: {line}" for line in lines))
    if any(each["problems"] for each in found):
        raise SystemExit(1)


def _make(paths: tuple[str, ...], model: str, report: bool, json_: bool) -> None:
    from ..search.cache import home_of
    from ..search.index import Index
    from ..search.vectors import load

    vectors = load(model)
    found: list[dict[str, Any]] = []
    for root in _roots(paths):
        start = time.perf_counter()
        index = Index.open(root, vectors)
        with progress("indexing", total=1.0, quiet=json_) as update:
            changes = index.refresh(on_files=lambda done, total: update(
                completed=done / max(1, total), text=f"{done:,} of {total:,} files"
            ))  # fmt: skip
        files, chunks = index.store.counts()
        size = home_of(root).size()
        index.close()
        found.append({
            "root": str(root), "index": str(index.path), "files": files, "chunks": chunks,
            "bytes": size, "new": len(changes.new), "removed": len(changes.gone),
            "skipped": changes.skipped, "seconds": round(time.perf_counter() - start, 2),
        })  # fmt: skip
    if json_:
        print_json(found)
    for each in () if json_ else found:
        click.echo(_line(each))
        for reason, number in sorted(each["skipped"].items()) if report else ():
            click.echo(f"  {number:,} left out: {reason}")


def _line(each: dict[str, Any]) -> str:
    from ..errors import counted

    skipped = sum(each["skipped"].values())
    return (
        f"{each['root']}: {each['files']:,} of {counted(each['files'] + skipped, 'file')} in the "
        f"index ({each['new']:,} new or changed, {each['removed']:,} removed), "
        f"{human(each['bytes'], 'B')}, {each['seconds']:.1f} s"
    )
