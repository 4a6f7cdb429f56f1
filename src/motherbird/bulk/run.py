"""A run: compare the plan, find the shards that are there, compute the others, write the manifest.

A directory has `_plan.json`, which is written first, the shards, and `_manifest.json`, which is
written last. Programs that read a directory of Parquet files ignore names that begin with _.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import DamagedError, OutputExistsError, counted
from ..files import parse_json, sha256
from .shards import Done, Source, name_of, read_done
from .store import Store
from .vectors import Settings

log = logging.getLogger(__name__)

PLAN, MANIFEST = "_plan.json", "_manifest.json"
REPORT = 1000  # rows between two calls of a progress bar


@dataclass(frozen=True)
class Input:
    """A file that was read once: its rows and SHA-256, and what changes when it is written."""

    name: str
    rows: int
    sha256: str
    state: tuple[int, int]  # size and time


def survey(
    sources: Sequence[Source], on_rows: Callable[[int], None] = lambda rows: None
) -> tuple[list[Input], str | None]:
    """Read all rows once, so that mistakes in them are found before any work.

    Returns:
        What each file has, and the type of the ids: None, "int64" or "string".

    Raises:
        InputError, DamagedError: of the function that reads a source.
    """
    inputs: list[Input] = []
    types: set[type] = set()
    for source in sources:
        found = source.read()
        rows, state = 0, _state(source.name)
        for rows, row in enumerate(found, 1):
            types.add(type(row.id))
            if rows % REPORT == 0:
                on_rows(REPORT)
        inputs.append(Input(source.name, rows, sha256(Path(source.name)), state))
    ids = types - {type(None)}
    return inputs, None if not ids else "int64" if ids == {int} else "string"


def _state(name: str) -> tuple[int, int]:
    found = os.stat(name)
    return found.st_size, found.st_mtime_ns


def make_plan(settings: Settings, inputs: Sequence[Input], layout: dict[str, Any]) -> str:
    """Return all that shards depend on, as JSON; ``layout`` is what a shard has and is."""
    plan = {
        "kind": "embeddings",
        "motherbird": __version__,
        "settings": settings.as_json(),
        "layout": layout,
        "inputs": [{"name": one.name, "rows": one.rows, "sha256": one.sha256} for one in inputs],
    }
    return json.dumps(plan, indent=1, ensure_ascii=False) + "\n"


def digest(plan: str) -> str:
    """Return the SHA-256 of a plan."""
    return hashlib.sha256(plan.encode()).hexdigest()


def check_empty(store: Store, where: str) -> None:
    """Raise OutputExistsError if a place has files that `embed` did not write."""
    names = store.names()
    if names and PLAN not in names:
        what = f"the output contains {min(names)!r}, which motherbird embed did not write"
        raise OutputExistsError(what, where, "use another directory")


def begin(store: Store, plan: str, where: str) -> None:
    """Write the plan, or compare it with the one that is there.

    Raises:
        OutputExistsError: it is another one.
    """
    check_empty(store, where)
    if PLAN not in store.names():
        store.write(PLAN, plan.encode())
        return
    store.prepare()
    old = store.read(PLAN).decode(errors="replace")
    if old != plan:
        what = f"the output was begun with other {_difference(old, plan)}"
        raise OutputExistsError(what, where, "use another directory, or delete this one")


def _difference(old: str, new: str) -> str:
    """Return the name of what differs in two plans."""
    try:
        first, second = parse_json(old), parse_json(new)
        pairs = [(first, second), (first["settings"], second["settings"]),
                 (first["layout"], second["layout"])]  # fmt: skip
        found = [
            name
            for one, two in pairs
            for name in two
            if one.get(name) != two[name] and name not in ("settings", "layout")
        ]
    except (ValueError, KeyError, AttributeError, TypeError):
        return "settings"
    return "settings" if not found else f"settings ({', '.join(found)})"


def written(store: Store, shards: int, plan: str, where: str) -> dict[int, Done]:
    """Return the shards that are there; they are read, unless there is a manifest.

    Raises:
        DamagedError: one is damaged, or was written by another run.
    """
    names = store.names()
    if MANIFEST in names:
        return _of_manifest(store, names, where)
    return {
        number: read_done(number, store.read(name_of(number)), digest(plan),
                          f"{where}/{name_of(number)}")
        for number in range(shards)
        if name_of(number) in names
    }  # fmt: skip


def _of_manifest(store: Store, names: set[str], where: str) -> dict[int, Done]:
    try:
        shards = parse_json(store.read(MANIFEST).decode())["shards"]
        found = {shard.pop("name"): Done(number, **shard) for number, shard in enumerate(shards)}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        how = "delete it, and repeat the command"
        raise DamagedError("the file is not a manifest", f"{where}/{MANIFEST}", how) from error
    return {done.number: done for name, done in found.items() if name in names}


def collect(found: Iterator[Done], done: dict[int, Done], on_done: Callable[[Done], None]) -> None:
    """Add shards to ``done`` as they are computed."""
    for each in found:
        done[each.number] = each
        log.info("%s: %s", name_of(each.number), counted(each.rows, "row"))
        on_done(each)


def finish(store: Store, plan: str, inputs: Sequence[Input], done: dict[int, Done]) -> None:
    """Write the manifest: the plan, and the rows and the SHA-256 of each shard.

    Raises:
        DamagedError: a file that was read has changed since then.
    """
    for one in inputs:
        if not os.path.exists(one.name) or _state(one.name) != one.state:
            how = "delete the output, and repeat the command"
            raise DamagedError("the file was changed while it was read", one.name, how)
    shards = []
    for number in sorted(done):
        numbers = asdict(done[number])
        del numbers["number"]
        shards.append({"name": name_of(number), **numbers})
    manifest = {**parse_json(plan), "shards": shards}
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    store.write(MANIFEST, text.encode())
