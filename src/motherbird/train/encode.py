"""Labelled texts to examples: token ids, and targets in the order of a model's labels."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..core import spans
from ..core.tokenizer import Tokenizer
from ..data.labelled import Labelled
from ..nn.heads import IGNORED
from .examples import Examples


def label_names(train: Labelled) -> list[str]:
    """Return the labels of training data, in order, but "O" of tags first; none for numbers."""
    names = train.names()
    return sorted(names, key=lambda name: name != spans.OUTSIDE) if train.kind == "tags" else names


def encode(
    data: Labelled, labels: Sequence[str], tokenizer: Tokenizer, max_length: int
) -> Examples:
    """Tokenize labelled texts; longer ones are truncated and counted.

    The target of a label that ``labels`` does not have, in a dev set, is `IGNORED`.
    """
    ids, firsts, truncated = _tokenize(data, tokenizer, max_length)
    numbers = {name: number for number, name in enumerate(labels)}
    return Examples(
        data.kind,
        [np.asarray(document, np.int32) for document in ids],
        [
            _target(data, number, numbers, len(ids[number]), firsts[number] if firsts else ())
            for number in range(len(ids))
        ],
        firsts,
        truncated,
    )


def in_bio(data: Labelled, scheme: spans.Scheme) -> Labelled:
    """Return data with its tags in BIO; tags without prefixes stay as they are."""
    if scheme == "bare":
        return data
    return replace(data, labels=[spans.to_bio(tags, scheme) for tags in data.labels])


def _tokenize(
    data: Labelled, tokenizer: Tokenizer, max_length: int
) -> tuple[list[list[int]], list[list[int]], int]:
    """Return ids, for tags the first token of each word or -1, and how many are cut."""
    if data.kind == "tags":
        encoded = [tokenizer.encode_words(words) for words in data.texts]
        ids = [tokenizer.truncate(document, max_length) for document, _ in encoded]
        suffix = len(tokenizer.template_ids()[1])
        firsts = [
            [place if place < len(document) - suffix else -1 for place in starts]
            for document, (_, starts) in zip(ids, encoded, strict=True)
        ]
        cut = sum(len(a) < len(b) for a, (b, _) in zip(ids, encoded, strict=True))
        return ids, firsts, cut
    if data.texts and isinstance(data.texts[0], tuple):
        ids, cut = tokenizer.encode_pairs(data.texts, max_length)
        return ids, [], cut
    whole = tokenizer.encode_batch(data.texts)
    ids = [tokenizer.truncate(document, max_length) for document in whole]
    return ids, [], sum(len(document) > max_length for document in whole)


def _target(
    data: Labelled, number: int, numbers: dict[str, int], tokens: int, firsts: Sequence[int]
) -> NDArray[Any]:
    own = data.labels[number]
    if data.kind == "single":
        return np.array(numbers.get(own, IGNORED), np.int64)
    if data.kind == "number":
        return np.array([own], np.float32)
    if data.kind == "multi":
        return np.isin(np.arange(len(numbers)), [numbers.get(x, -1) for x in own]).astype(
            np.float32
        )
    target = np.full(tokens, IGNORED, np.int64)
    for place, tag in zip(firsts, own, strict=True):
        if place >= 0:
            target[place] = numbers.get(tag, IGNORED)
    return target
