"""Normalization of text, and filters that look at one document at a time."""

import re
import unicodedata
from collections.abc import Iterator
from typing import TypeVar

import numpy as np

from ..errors import InputError, require_extra
from .mixture import Source

T = TypeVar("T")

# Control characters except tab and newline, byte order marks, and noncharacters.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_LETTER = np.zeros(256, dtype=bool)
_LETTER[[*b" \t\n", *range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1)]] = True
_LETTER[128:] = True  # bytes of non-ASCII characters, which are mostly letters
# The reasons of `rejection_reason`, each with the key of the source that sets it.
KEYS = {
    "too short": "min_chars", "line too long": "max_line", "too few letters": "min_letters",
    "wrong language": "language",
}  # fmt: skip
_SAMPLE = 10_000  # characters from which the language is detected


def normalize(text: str) -> str:
    """Return text in NFC, with newlines as line ends and without control characters."""
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return unicodedata.normalize("NFC", text)


def pieces(text: str, longest: int) -> Iterator[str]:
    """Yield parts of up to ``longest`` characters, cut at the end of a paragraph, line or word."""
    start = 0
    while len(text) - start > longest:
        for end_of in ("\n\n", "\n", " "):
            end = text.rfind(end_of, start + longest // 2, start + longest)
            if end > 0:
                end += len(end_of)
                break
        else:
            end = start + longest
        yield text[start:end]
        start = end
    yield text[start:]


def rejection_reason(text: str, source: Source) -> str | None:
    """Return which filter of the source a document fails, or None."""
    if len(text) < source.min_chars:
        return "too short"
    if source.max_line is not None and max(map(len, text.split("\n"))) > source.max_line:
        return "line too long"
    if source.min_letters and _letters(text) < source.min_letters:
        return "too few letters"
    if source.language is not None and _language(text) != source.language:
        return "wrong language"
    return None


def with_settings(counts: dict[str, T], source: Source) -> dict[str, T]:
    """Return counts by reason, with the settings of the source in the reasons."""
    keys = {reason: KEYS[reason] for reason in counts if reason in KEYS}
    named = {r: f"{r} ({key} = {getattr(source, key)!r})" for r, key in keys.items()}
    return {named.get(reason, reason): count for reason, count in counts.items()}


def check_language(source: Source) -> None:
    """Raise InputError if the language of a source cannot be detected."""
    if source.language is None:
        return
    known = require_extra("resiliparse.parse.lang", "data").supported_langs()
    if source.language not in known:
        what = f"source {source.name!r}: language = {source.language!r} cannot be detected"
        raise InputError(what, how=f"use one of {', '.join(known)}")


def _letters(text: str) -> float:
    return float(_LETTER[np.frombuffer(text.encode(), np.uint8)].mean())


def _language(text: str) -> str:
    lang = require_extra("resiliparse.parse.lang", "data")
    return str(lang.detect_fast(text[:_SAMPLE], cutoff=10**6)[0])
