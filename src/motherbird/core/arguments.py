"""Checks of the arguments of public functions: texts, token ids, paths, labels, numbers and types.

Every function that takes one of these checks it here, so that all accept and refuse the same. A
check takes what the user passed, and ``name`` or ``where``, what its error calls it; ``how`` is the
end of the error.
"""

import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..arrays import Int32
from ..errors import InputError, counted, with_article
from ..files import check_utf_8
from ..machine import MAX_THREADS

T = TypeVar("T")
Documents = Iterable[Sequence[int] | NDArray[np.integer[Any]]]  # lists or arrays of token ids

# For the brackets of a regular expression: control characters, and the characters that Unicode says
# to display as nothing (Default_Ignorable_Code_Point), such as U+200B, the zero-width space.
INVISIBLE = (
    r"\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    r"\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_NOTHING_VISIBLE = re.compile(rf"[\s{INVISIBLE}]*+")


def check_text(
    text: Any, name: str = "", *, allow_empty: bool = False, many: str = "pass one text"
) -> str:
    """Return a text, or raise InputError if it is not a `str`, not valid Unicode, or empty.

    A text without a visible character is empty. ``many`` is the end of the error for several texts.
    """
    if not isinstance(text, str):
        if text is None or (isinstance(text, float) and text != text):  # NaN, as in pandas
            how = "leave it out, or put a text in its place"
            raise InputError(f"the text is missing ({text})", name, how)
        what = f"the text is of type {type(text).__name__}, not str"
        several = isinstance(text, Iterable) and not isinstance(text, bytes)
        raise InputError(what, name, many if several else "convert it to str")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half, where = text[error.start], f"{name}, character {error.start}".removeprefix(", ")
        if "\udc80" <= half <= "\udcff":  # a byte that Python could not decode (surrogateescape)
            what = f"the text is not valid UTF-8 (byte 0x{ord(half) - 0xDC00:02x})"
            raise InputError(what, where, "convert it to UTF-8") from error
        what = f"the text is not valid Unicode ({ascii(half)} is half a character)"
        raise InputError(what, where, "decode the text again from its bytes") from error
    if not allow_empty and _NOTHING_VISIBLE.fullmatch(text):
        invisible = "has no visible character" if text.strip() else "is empty"
        raise InputError(f"the text {invisible}", name, "leave it out")
    return text


def check_texts(
    texts: Any, names: Sequence[str] | None = None, *, allow_empty: bool = False
) -> list[str]:
    """Return the texts of any iterable as a list; see `check_text` for what is refused.

    The names are "text 0", "text 1" ... by default.

    Raises:
        InputError: it is not an iterable of texts, or one of them cannot be used.
    """
    listed = check_list(texts, "texts", "strings")
    return [
        check_text(text, name, allow_empty=allow_empty)
        for text, name in zip(listed, check_names(names, len(listed)), strict=True)
    ]


def check_names(names: Any, count: int, noun: str = "text") -> list[str]:
    """Return what errors call texts: their names, or "text 0", "text 1" ... for None.

    Raises:
        InputError: the names are not a list of as many.
    """
    if names is None:
        return [f"{noun} {number}" for number in range(count)]
    listed = check_list(names, "names", "strings")
    if len(listed) != count:
        raise InputError(f"{counted(len(listed), 'name')} for {counted(count, noun)}")
    return listed


def check_pairs(pairs: Any) -> list[str]:
    """Return the texts of pairs of texts, one after another; see `check_texts`.

    Raises:
        InputError: it is not an iterable of pairs, or a text cannot be used.
    """
    texts: list[str] = []
    for number, pair in enumerate(check_list(pairs, "pairs", "pairs of texts")):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError("this is not a pair of texts", f"pair {number}")
        name = f"pair {number}, text "
        texts += check_texts(pair, [name + "0", name + "1"], allow_empty=True)
    return texts


def check_ids(
    documents: Documents, pad_id: int | None = None
) -> list[Int32[np.ndarray, " tokens"]]:
    """Return the token ids of any iterable of documents as arrays.

    Args:
        documents: the token ids of each document.
        pad_id: the id of padding, which no document may begin or end with; None allows every id.

    Raises:
        InputError: it is not an iterable of documents, one is empty or padded, or an id is not an
            integer from 0 to 2^31 - 1.
    """
    if isinstance(documents, tuple) and list(map(type, documents)) == [list, int]:
        what = "documents is what tokenize returns, the ids and a number"
        raise InputError(what, how="pass its first value")
    listed = check_list(documents, "documents", "lists of token ids")
    how = "pass a list of token ids for each document"
    arrays = [check_document(document, f"document {n}", how) for n, document in enumerate(listed)]
    if pad_id is not None:
        for number, ids in enumerate(arrays):
            _check_unpadded(ids, pad_id, f"document {number}")
    return arrays


def _check_unpadded(ids: Int32[np.ndarray, " tokens"], pad_id: int, where: str) -> None:
    if pad_id not in (ids[0], ids[-1]):
        return
    tokens = np.flatnonzero(ids != pad_id)
    if not len(tokens):
        raise InputError("the document has only padding tokens", where, "leave it out")
    before, after = int(tokens[0]), len(ids) - 1 - int(tokens[-1])
    what = f"ends with {after:,}" if after else f"begins with {before:,}"
    what = f"the document {what} padding token{'' if (after or before) == 1 else 's'}"
    raise InputError(what, where, "pass ids without padding")


def check_document(
    document: Any, where: str, how: str = "pass a list of token ids", *, allow_empty: bool = False
) -> Int32[np.ndarray, " tokens"]:
    """Return the token ids of one document as an array; see `check_ids` for what is refused."""
    is_array = hasattr(document, "__array__")
    if not isinstance(document, Sequence) and not (is_array and getattr(document, "ndim", 1) > 0):
        raise InputError(f"the document is of type {type(document).__name__}", where, how)
    if not isinstance(document, str | bytes):
        if len(document) == 0 and allow_empty:
            return np.empty(0, dtype=np.int32)
        if len(document) == 0:
            raise InputError("the document is empty", where, "leave it out")
        try:
            ids = np.asarray(document)
        except (ValueError, TypeError):  # a nested list, for example
            ids = np.empty(0)
        valid = ids.ndim == 1 and ids.dtype.kind in "iu"
        if valid and ids.min() >= 0 and ids.max() < 2**31:
            return ids.astype(np.int32, copy=False)
    for position, token in enumerate(document):
        integer = isinstance(token, int | np.integer) and not isinstance(token, bool)
        if not integer or not 0 <= token < 2**31:
            is_list = isinstance(token, list | tuple | np.ndarray)
            shown = f"a {type(token).__name__}" if is_list else repr(token)
            what, at = f"{shown} is not a token id", f"{where}, token {position}"
            raise InputError(what, at, how if is_list else "")
    raise InputError("the document is not a list of token ids", where, how)


def check_integer(value: Any, name: str, smallest: int, largest: int | None = None) -> int:
    """Return an integer, or raise InputError if it is not one from smallest to largest."""
    how = f"use {smallest} or more" if largest is None else f"use {smallest} to {largest}"
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError as error:
        what = f"{name} is of type {type(value).__name__}, not int"
        raise InputError(what, repr(value), how) from error
    if number < smallest or (largest is not None and number > largest):
        raise InputError(f"invalid {name} {number}", how=how)
    return number


def check_threads(value: Any) -> int:
    """Return a number of threads, or raise InputError if it is not one from 1 to 1,024."""
    return check_integer(value, "number of threads", 1, MAX_THREADS)


def check_type(value: Any, name: str, expected: type[T], how: str = "") -> T:
    """Return a value, or raise InputError if it is not of the expected type."""
    if not isinstance(value, expected):
        what = f"{name} is of type {type(value).__name__}, not {expected.__name__}"
        raise InputError(what, how=how)
    return value


def check_flag(value: Any, name: str) -> bool:
    """Return True or False, or raise InputError if the value is not a bool: "no" is true."""
    return bool(value) if isinstance(value, np.bool_) else check_type(value, name, bool)


def check_path(path: Any, name: str, how: str = "") -> Path:
    """Return a path, or raise InputError if it is not one, empty, or not valid UTF-8.

    "~" is expanded.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise InputError(f"{name} is of type {type(path).__name__}, not str or Path", how=how)
    if not text or "\0" in text:
        raise InputError(f"{name} {'contains a NUL' if text else 'is an empty string'}", how=how)
    check_utf_8(text)
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~name of a user who does not exist
        raise InputError(f"there is no such directory ({error})", text[:100]) from error


def check_labels(labels: Any) -> tuple[str, ...]:
    """Return the names of a classifier's labels.

    Raises:
        InputError: they are not an iterable of texts, there is none, or one occurs twice.
    """
    names = check_list(labels, "labels", "strings")
    names = [check_text(name, f"label {n}", allow_empty=True) for n, name in enumerate(names)]
    if not names:
        raise InputError("there are no labels", how="pass the name of each label")
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        if first.setdefault(name, number) < number:
            raise InputError(f"two labels are called {name!r}", f"label {first[name]} and {number}")
    return tuple(names)


def check_list(items: Any, name: str, content: str) -> list[Any]:
    """Return the items of any iterable, or raise InputError if it is not one.

    A string, a mapping, a set and a DataFrame are refused: "pass a list of ``content``".
    """
    is_scalar = getattr(items, "ndim", None) == 0  # an array of no axis is an Iterable too
    # The keys of a mapping are not what its user means, and a string is an iterable of strings.
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable) or is_scalar:
        kind = "string" if isinstance(items, str) else type(items).__name__
        kind = f"0-d {kind}" if is_scalar else kind
        raise InputError(f"{name} is {with_article(kind)}", how=f"pass a list of {content}")
    if isinstance(items, set | frozenset):
        what = f"{name} is a {type(items).__name__}, which has no order"
        raise InputError(what, how=f"pass a list of {content}")
    if hasattr(items, "columns"):  # a DataFrame, whose items are the names of its columns
        kind = with_article(type(items).__name__)
        raise InputError(f"{name} is {kind}", how="pass one of its columns")
    return list(items)
