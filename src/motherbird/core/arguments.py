"""Checks of the arguments of public functions: texts, token ids and integers.

Every function that takes texts or ids checks them here, so that all accept and refuse the same.
"""

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32
from numpy.typing import NDArray

from ..errors import InputError

Documents = Iterable[Sequence[int] | NDArray[np.integer[Any]]]  # lists or arrays of token ids

# White space, control characters, and the characters that Unicode says to display as nothing
# (Default_Ignorable_Code_Point), such as U+200B, the zero-width space.
_NOTHING_VISIBLE = re.compile(
    r"[\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    r"\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]*+"
)


def check_text(text: Any, name: str, *, allow_empty: bool = False) -> str:
    """Return a text, or raise InputError if it is not a `str`, not valid Unicode, or empty.

    A text without a visible character is empty.

    Args:
        text: what the user passed.
        name: what the error calls it.
        allow_empty: accept an empty text.
    """
    if not isinstance(text, str):
        raise InputError(f"the text is of type {type(text).__name__}, not str", name)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f"{name}, character {error.start}"
        what = f"the text is not valid Unicode ({ascii(text[error.start])} is half a character)"
        raise InputError(what, where, "decode the text again from its bytes") from error
    if not allow_empty and _NOTHING_VISIBLE.fullmatch(text):
        invisible = "has no visible character" if text.strip() else "is empty"
        raise InputError(f"the text {invisible}", name, "leave it out")
    return text


def check_texts(
    texts: Any, names: Sequence[str] | None = None, *, allow_empty: bool = False
) -> list[str]:
    """Return the texts of any iterable as a list; see `check_text` for what is refused.

    Args:
        texts: what the user passed.
        names: what errors call the texts; "text 0", "text 1" ... by default.
        allow_empty: accept empty texts.

    Raises:
        InputError: it is not an iterable of texts, or one of them cannot be used.
    """
    listed = _listed(texts, "texts", "strings")
    names = names or [f"text {number}" for number in range(len(listed))]
    return [
        check_text(text, name, allow_empty=allow_empty)
        for text, name in zip(listed, names, strict=True)
    ]


def check_ids(documents: Documents) -> list[Int32[np.ndarray, " tokens"]]:
    """Return the token ids of any iterable of documents as arrays.

    Raises:
        InputError: it is not an iterable of documents, one is empty, or an id is not an integer
            from 0 to 2^31 - 1.
    """
    listed = _listed(documents, "documents", "lists of token ids")
    return [_document(document, number) for number, document in enumerate(listed)]


def _document(document: Any, number: int) -> Int32[np.ndarray, " tokens"]:
    where = f"document {number}"
    if not isinstance(document, Sequence | np.ndarray) and not hasattr(document, "__array__"):
        raise InputError(f"the document is of type {type(document).__name__}", where,
                         "pass a list of token ids")  # fmt: skip
    if not isinstance(document, str | bytes):
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
            raise InputError(f"{token!r} is not a token id", f"{where}, token {position}")
    raise InputError("the document is not a list of token ids", where)


def check_integer(value: Any, name: str, smallest: int, largest: int) -> int:
    """Return an integer, or raise InputError if it is not one from smallest to largest."""
    try:
        if isinstance(value, bool | np.bool_):
            raise TypeError
        number = operator.index(value)
    except TypeError as error:
        what = f"{name} is of type {type(value).__name__}, not int"
        raise InputError(what, repr(value), f"use {smallest} to {largest}") from error
    if not smallest <= number <= largest:
        raise InputError(f"invalid {name} {number}", how=f"use {smallest} to {largest}")
    return number


def _listed(items: Any, name: str, content: str) -> list[Any]:
    # The keys of a mapping are not what its user means, and a string is an iterable of strings.
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        kind = "string" if isinstance(items, str) else type(items).__name__
        raise InputError(f"{name} is a {kind}", how=f"pass a list of {content}")
    if hasattr(items, "columns"):  # a DataFrame, whose items are the names of its columns
        raise InputError(f"{name} is a {type(items).__name__}", how="pass one of its columns")
    return list(items)
