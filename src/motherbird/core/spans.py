"""Spans of words, and the schemes in which the tags of words express them.

Every scheme is read by one rule, that of conlleval and of seqeval's default mode, which has a
result for invalid sequences too.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from ..errors import InputError

Scheme = Literal["BIO", "IOB1", "BIOES", "bare"]
OUTSIDE = "O"
_PREFIXED = re.compile("[BIESLUM]-.")
_PREFIXES = {"L": "E", "U": "S", "M": "I"}  # of BILOU and BMES, with their names in BIOES


class Span(NamedTuple):
    """Consecutive words with a type: ``words[first:end]``."""

    type: str
    first: int
    end: int  # one after the last word


def scheme_of(tags: Iterable[str | Sequence[str]]) -> Scheme:
    """Return the scheme of tags.

    - BIO: the first word of a span has the prefix B-, and further words I-.
    - IOB1: B- occurs only where a span follows one of the same type; else the first word has I-.
    - BIOES: the last word has E-, and a single word S-. BILOU and BMES are read like it.
    - bare: names without prefixes; equal consecutive names are one span.

    Args:
        tags: the sequences of a dataset, or the label names of a model.

    Raises:
        InputError: some tags have a prefix and others do not.
    """
    prefixed = bare = ""
    prefixes: set[str] = set()
    first = {"B": 0, "I": 0}  # prefixes of words after a word outside, or of another type
    for sequence in tags:
        previous = ""
        for tag in [sequence] if isinstance(sequence, str) else sequence:
            kind = ""
            if _PREFIXED.match(tag):
                prefixed, kind = tag, tag[2:]
                prefixes.add(tag[0])
                if kind != previous and tag[0] in first:
                    first[tag[0]] += 1
            elif tag != OUTSIDE:
                bare = tag
            previous = kind
    if prefixed and bare:
        what = f'the tag "{prefixed}" has a prefix, but "{bare}" has none'
        raise InputError(what, how="write all tags but O with a prefix, or none")
    if not prefixed:
        return "bare" if bare else "BIO"
    if prefixes - {"B", "I"}:
        return "BIOES"
    return "IOB1" if first["I"] > first["B"] else "BIO"


def spans(tags: Sequence[str], scheme: Scheme) -> list[Span]:
    """Return the spans of a sequence of tags.

    A span begins at B- and S-, after a word outside, after E- and S-, and where the type changes,
    whatever the prefix is; it ends before the next span or word outside.
    """
    found: list[Span] = []
    previous = OUTSIDE
    for index, tag in enumerate(tags):
        prefix, kind = _split(tag, scheme)
        if prefix == OUTSIDE:
            pass
        elif prefix in "BS" or previous in "OES" or kind != found[-1].type:
            found.append(Span(kind, index, index + 1))
        else:
            found[-1] = found[-1]._replace(end=index + 1)
        previous = prefix
    return found


def _split(tag: str, scheme: Scheme) -> tuple[str, str]:
    """Return the prefix (B, I, E, S or O) and the type of a tag."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    if scheme == "bare" or not _PREFIXED.match(tag):
        return "I", tag
    return _PREFIXES.get(tag[0], tag[0]), tag[2:]


def bio_tags(found: Iterable[Span], length: int) -> list[str]:
    """Return the BIO tags of ``length`` words with these spans; ValueError if two overlap."""
    tags = [OUTSIDE] * length
    for kind, first, end in found:
        if not 0 <= first < end <= length or set(tags[first:end]) != {OUTSIDE}:
            raise ValueError(f"the span {(kind, first, end)} overlaps another, or is out of range")
        tags[first:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - first - 1)]
    return tags


def to_bio(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """Return the BIO tags of the same spans: what is invalid in BIO becomes valid."""
    return bio_tags(spans(tags, scheme), len(tags))
