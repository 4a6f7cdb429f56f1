"""Tagger: texts to labelled spans, such as names."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Float32
from ..core.arguments import check_list, check_names, check_text
from ..core.measure import Metrics, measure
from ..core.spans import OUTSIDE, scheme_of, spans, to_bio
from ..core.words import Offsets, first_tokens, join_words, split_words
from ..errors import InputError
from .label_model import LabelModel, check_count
from .text_model import softmax, warn_truncated


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a text with a label.

    Attributes:
        label: the label, without the prefix of its tags.
        text: the characters of the span.
        start, end: index of its first character, and of the one after its last; in a list of words,
            in these words with a space between two of them.
        probability: the mean probability of the tags of its words.
        first_word, end_word: index of its first word, and of the one after its last.
    """

    label: str
    text: str
    start: int
    end: int
    probability: float
    first_word: int
    end_word: int


class Words(NamedTuple):
    """The words of a text, and its tokens."""

    text: str
    offsets: Offsets  # of the words in the text
    ids: list[int]  # of the tokens
    first: list[int]  # the first token of each word; -1 for a word without one


class Tagger(LabelModel):
    """A model with a token-classification head, which finds labelled spans in texts.

    The tag of a word is that of its first token. Labels are tags of a scheme of `core.spans`: with
    prefixes, such as B-PER, I-PER and O, or names without. Arguments are those of `LabelModel`.
    """

    head, logits_of = "TokenClassifier", "tokens"
    architecture = "ForTokenClassification"
    task = "tag"
    purpose = "tag texts"

    def tag(
        self,
        texts: Iterable[str | Sequence[str]],
        *,
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int | None = None,
    ) -> list[list[Span]]:
        """Find the spans of each text.

        Args:
            texts: texts, which are divided into words by `core.words.split_words`, or lists of
                words, which are joined by spaces.
            max_length: maximum number of tokens per text, special tokens included.
            truncate: truncate longer texts, and log how many; there are no spans in the rest of
                them. Otherwise they are an error.
            batch_tokens: tokens per batch; None chooses by the device.

        Returns:
            The spans of each text, in order.

        Raises:
            InputError: a text is empty or too long, or is neither a text nor a list of words, or an
                argument is invalid.
        """
        documents, _ = self.tokenize_words(texts, max_length=max_length, truncate=truncate)
        return self.tag_words(documents, batch_tokens=batch_tokens)

    def evaluate(
        self,
        texts: Iterable[Sequence[str]],
        tags: Iterable[Sequence[str]],
        *,
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int | None = None,
    ) -> Metrics:
        """Return the metrics of the model on lists of words with a tag for each word.

        See `core.measure.measure`. Other arguments and errors are those of `tag`.
        """
        documents, _ = self.tokenize_words(texts, max_length=max_length, truncate=truncate)
        labels = [list(own) for own in tags]
        if scheme_of(self.labels) != "bare":
            labels = [to_bio(own, "BIO") for own in labels]
        check_count(labels, len(documents))
        for number, (own, document) in enumerate(zip(labels, documents, strict=True)):
            if len(own) != len(document.first):
                what = f"there are {len(document.first)} words and {len(own)} tags"
                raise InputError(what, f"text {number}", "pass one tag for each word")
        logits: list[Any] = [None] * len(documents)
        ids = [document.ids for document in documents]
        for number, rows in self._logits(ids, batch_tokens):
            logits[number] = rows
        firsts = [document.first for document in documents]
        return measure("tags", labels, logits, self.labels, firsts)

    def tokenize_words(
        self,
        texts: Iterable[str | Sequence[str]],
        *,
        max_length: int | None = None,
        truncate: bool = False,
        names: Sequence[str] | None = None,
    ) -> tuple[list[Words], int]:
        """Divide texts into words and tokens.

        Arguments and errors are those of `tag`. Errors call the texts by ``names``; "text 0",
        "text 1" ... by default.

        Returns:
            The words of each text, and how many texts were truncated.
        """
        limit = self._limit(max_length, truncate)
        listed = check_list(texts, "texts", "texts, or of lists of words")
        names = check_names(names, len(listed))
        words = [_words(text, name) for text, name in zip(listed, names, strict=True)]
        encodings = self.tokenizer.encode_offsets([text for text, _ in words])
        long = set(self._too_long([e.ids for e in encodings], limit, truncate, names))
        kept = limit - len(self.tokenizer.template_ids()[1])
        found = []
        for number, ((text, offsets), encoding) in enumerate(zip(words, encodings, strict=True)):
            ids, first = encoding.ids, first_tokens(offsets, encoding.offsets)
            if number in long:
                ids = self.tokenizer.truncate(ids, limit)
                first = [token if token < kept else -1 for token in first]
            found.append(Words(text, offsets, ids, first))
        warn_truncated(len(long), len(found), limit)
        return found, len(long)

    def tag_words(
        self, documents: Sequence[Words], *, batch_tokens: int | None = None
    ) -> list[list[Span]]:
        """Find the spans of texts that `tokenize_words` has divided, as `tag` does."""
        found: list[list[Span]] = [[] for _ in documents]
        ids = [document.ids for document in documents]
        for number, logits in self._logits(ids, batch_tokens):
            found[number] = self._spans(documents[number], softmax(logits))
        return found

    def _spans(self, document: Words, probabilities: Float32[np.ndarray, "tokens C"]) -> list[Span]:
        best = probabilities.argmax(axis=1)
        tags = [OUTSIDE if token < 0 else self.labels[best[token]] for token in document.first]
        found = []
        for label, first, end in spans(tags, scheme_of(self.labels)):
            tokens = document.first[first:end]
            start, stop = document.offsets[first][0], document.offsets[end - 1][1]
            mean = float(probabilities[tokens, best[tokens]].mean())
            found.append(Span(label, document.text[start:stop], start, stop, mean, first, end))
        return found


def _words(text: Any, name: str) -> tuple[str, Offsets]:
    """Return a text and its words, of a text or a list of words."""
    if isinstance(text, str):
        return check_text(text, name), split_words(text)
    if not isinstance(text, Sequence | np.ndarray) or isinstance(text, bytes):
        how = "pass a text, or a list of words"
        raise InputError(f"the text is of type {type(text).__name__}, not str", name, how)
    joined, offsets = join_words(list(text), name)
    return check_text(joined, name), offsets
