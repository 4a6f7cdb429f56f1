"""Dataclasses from TOML or JSON, with strict type checks: one error lists all mistakes.

Fields may be str, int, float, bool, a Literal, ``X | None``, ``list[X]``, ``tuple[X, ...]``,
``dict[str, X]`` or another dataclass. A float field accepts integers, and must be finite. An
InputError in ``__post_init__`` is reported with the key of the dataclass. A field whose name ends
in an underscore has a key without it: ``from_`` is "from".
"""

import contextlib
import difflib
import math
import tomllib
import types
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from .errors import InputError

T = TypeVar("T")


def load(kind: type[T], path: str | Path, changes: Sequence[str] = ()) -> T:
    """Read a TOML file into a dataclass.

    ``changes`` are overrides of the form "a.b=c", where c is TOML or a string. Items of a list are
    addressed by index: "phases.0.tokens=1000". All mistakes are InputErrors.
    """
    data = read(path)
    for one in changes:
        change(data, one)
    return build(kind, data, source(path, changes))


def source(path: str | Path, changes: Sequence[str]) -> str:
    """Return where settings are from, for errors."""
    return " ".join(
        [f"{path} with", *(f"--set {one}" for one in changes)] if changes else [str(path)]
    )


def read(path: str | Path) -> dict[str, Any]:
    """Read a TOML file; all mistakes are InputErrors."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise InputError(f"cannot read the file ({what})", str(path)) from error
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        how = "write paths with / or in single quotes" if "\\" in text else ""
        raise InputError(f"the file is not valid TOML ({error})", str(path), how) from error


def build(kind: type[T], data: object, where: str) -> T:
    """Build a dataclass from parsed TOML or JSON, or raise InputError with all mistakes."""
    mistakes: list[str] = []
    made = _value(kind, data, "", mistakes)
    if mistakes:
        raise InputError("; ".join(mistakes), where)
    return cast(T, made)


def type_errors(instance: Any) -> list[str]:
    """Return what is wrong with the types of the fields of a dataclass instance.

    They are checked as in `build`, except that a list is not a tuple, and a float field accepts an
    integer only if a float can represent it exactly.
    """
    mistakes: list[str] = []
    for name, kind in get_type_hints(type(instance)).items():
        given, count = getattr(instance, name), len(mistakes)
        if _value(kind, given, name, mistakes) != given and len(mistakes) == count:
            mistakes.append(f"{name} = {given!r} is not {describe(kind)}")
    return mistakes


def plain(made: Any) -> Any:
    """Convert a dataclass to the value that `build` reads; keys that are None are omitted."""
    if is_dataclass(made):
        values = ((field.name.rstrip("_"), getattr(made, field.name)) for field in fields(made))
        return {key: plain(value) for key, value in values if value is not None}
    if isinstance(made, list | tuple):
        return [plain(item) for item in made]
    if isinstance(made, dict):
        return {key: plain(value) for key, value in made.items()}
    return made


def change(data: dict[str, Any], text: str) -> None:
    """Apply an override "a.b=c" of `load` to parsed TOML, in place."""
    path, equals, given = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise InputError("--set needs KEY=VALUE, such as train.lr=1e-3", text)
    try:
        value = tomllib.loads(f"value = {given}")["value"]
    except tomllib.TOMLDecodeError:
        value = given
    parent: Any = data
    for depth, name in enumerate(keys, 1):
        key: Any = name
        if isinstance(parent, list) and name.isdecimal() and int(name) < len(parent):
            key = int(name)
        elif not isinstance(parent, dict):
            what = f"there is no {'.'.join(keys[:depth])} to set"
            raise InputError(what, text, _items(".".join(keys[: depth - 1]), parent))
        if depth == len(keys):
            parent[key] = value
        elif isinstance(parent, dict):
            parent = parent.setdefault(key, {})
        else:
            parent = parent[key]


def _items(at: str, tables: Any) -> str:
    """Return the keys of the tables of a list, with their names: "phases are numbered: ..."."""
    given = enumerate(tables if isinstance(tables, list) else [])
    known = [
        f"{at}.{i} ({item['name']})"
        for i, item in given
        if isinstance(item, dict) and "name" in item
    ]
    return f"{at} are numbered: {', '.join(known)}" if known else ""


def _value(kind: Any, given: object, at: str, mistakes: list[str]) -> object:
    """Convert ``given`` to ``kind``; after a mistake, the result is meaningless."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):  # X | None
        return None if given is None else _value(arguments[0], given, at, mistakes)
    if is_dataclass(kind) and isinstance(given, dict):
        return _dataclass(cast(type, kind), given, at, mistakes)
    if origin in (list, tuple) and isinstance(given, list | tuple):
        own, items = arguments[0], [(_key(arguments[0], i, x), x) for i, x in enumerate(given)]
        return origin([_value(own, x, f"{at}.{key}", mistakes) for key, x in items])
    if origin is dict and isinstance(given, dict):
        return {k: _value(arguments[1], x, _join(at, k), mistakes) for k, x in given.items()}
    if kind is float and type(given) in (int, float) and abs(cast(float, given)) < math.inf:
        with contextlib.suppress(OverflowError):  # an integer of 400 digits
            return float(cast(float, given))
    if kind is float and type(given) is float:
        mistakes.append(f"{at} = {given!r} is not finite")
        return None
    if origin is Literal and any(given == x and type(given) is type(x) for x in arguments):
        return given
    if kind is not float and type(given) is kind:
        return given
    if origin in (list, tuple) and is_dataclass(arguments[0]) and isinstance(given, dict):
        mistakes.append(f"{at} is one table, not a list of tables: write [[{at}]], not [{at}]")
        return None
    mistakes.append(f"{f'{at} = ' if at else ''}{given!r} is not {describe(kind)}")
    return None


def _key(kind: Any, index: int, given: object) -> str:
    """Return the key of an item of a list: its name if its dataclass is BY_NAME, or its index."""
    name = given.get("name") if isinstance(given, dict) and hasattr(kind, "BY_NAME") else None
    return name if name and isinstance(name, str) else str(index)


def _dataclass(kind: type, given: dict[str, Any], at: str, mistakes: list[str]) -> object:
    types_of = get_type_hints(kind)
    known = {field.name.rstrip("_"): field for field in fields(kind) if field.init}
    before = len(mistakes)
    for key in sorted(given.keys() - known.keys()):
        below = sorted(_keys_below(kind, key), key=lambda each: ".N." in each)
        near = below or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        meant = " or ".join(_join(at, each) for each in near)
        hint = f" (did you mean {meant}?)" if near else f" (keys: {', '.join(known)})"
        hint = hint if near or not any(hint in one for one in mistakes) else ""  # a list only once
        own, new = _join(at, key), getattr(kind, "RENAMED", {}).get(key)
        what = f"{own} was renamed to {_join(at, new)}" if new else f"unknown key {own}{hint}"
        mistakes.append(what)
    for name, field in known.items():
        if name not in given and field.default is MISSING and field.default_factory is MISSING:
            mistakes.append(f"{_join(at, name)} is missing ({describe(types_of[field.name])})")
    made = {
        field.name: _value(types_of[field.name], given[name], _join(at, name), mistakes)
        for name, field in known.items()
        if name in given
    }
    if len(mistakes) > before:
        return None
    try:
        return kind(**made)
    except InputError as error:
        colon = "." if str(error).partition(" ")[0] in known else ": "  # "a.b = 1 ...", or "a: ..."
        mistakes.append(f"{at}{colon}{error}" if at else str(error))
        return None


def _keys_below(kind: type, key: str) -> Iterator[str]:
    """Yield the dotted keys of the tables in a dataclass that end in a key: "train.lr"."""
    for name, inner in get_type_hints(kind).items():
        at = name.rstrip("_")
        while get_origin(inner) in (Union, types.UnionType, list, tuple):
            at += ".N" * (get_origin(inner) in (list, tuple))
            inner = get_args(inner)[0]
        if is_dataclass(inner):
            if key in [field.name.rstrip("_") for field in fields(inner)]:
                yield f"{at}.{key}"
            yield from (f"{at}.{below}" for below in _keys_below(cast(type, inner), key))


def describe(kind: Any) -> str:
    """Describe a type in an error message: "a number", "one of a, b", "a list of texts"."""
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return describe(arguments[0])
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (list, tuple):
        one = describe(arguments[0])
        plural = one == "text" or one.startswith("a ")
        return f"a list of {one.removeprefix('a ')}{'s' if plural else ''}"
    return "a table" if origin is dict or is_dataclass(kind) else words.get(kind, str(kind))


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key
