"""Text made regular, and the reasons to drop a document that need no other document."""

import re
import unicodedata
from collections.abc import Iterator

import numpy as np

from ..errors import require_extra
from .mixture import Source

# Control characters but tab and newline; byte order marks; what Unicode says is no character.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_LETTER = np.zeros(256, dtype=bool)
_LETTER[[*b" \t\n", *range(ord("a"), ord("z") + 1), *range(ord("A"), ord("Z") + 1)]] = True
_LETTER[128:] = True  # bytes of letters beyond ASCII, and of little else
_SAMPLE = 10_000  # characters that tell a language


def normalise(text: str) -> str:
    """NFC, as the tokenizer has it; line ends as newlines; no control characters."""
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    return unicodedata.normalize("NFC", text)


def pieces(text: str, longest: int) -> Iterator[str]:
    """Cut a text of more than ``longest`` characters where a paragraph, a line or a word ends."""
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


def objection(text: str, source: Source) -> str | None:
    """Why a source does not want a document; None if it does."""
    if len(text) < source.min_chars:
        return "too short"
    if source.max_line is not None and max(map(len, text.split("\n"))) > source.max_line:
        return "a line too long"
    if source.min_letters and _letters(text) < source.min_letters:
        return "too few letters"
    if source.language is not None and _language(text) != source.language:
        return "another language"
    return None


def _letters(text: str) -> float:
    return float(_LETTER[np.frombuffer(text.encode(), np.uint8)].mean())


def _language(text: str) -> str:
    lang = require_extra("resiliparse.parse.lang", "data")
    return str(lang.detect_fast(text[:_SAMPLE], cutoff=10**6)[0])
