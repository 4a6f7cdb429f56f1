"""The rules of a guard: patterns and models that find what a policy forbids in texts."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Float32
from ..core.normalization import Normalized, normalize
from ..core.spans import scheme_of, spans
from ..core.words import Offsets, first_tokens, split_words
from ..errors import DamagedError, InputError, require_extra
from .classifier import Classifier
from .policy import ClassifierRule, Decision, PatternRule
from .tagger import Tagger, Words

PASSAGE = 64  # tokens of the passages that the spans of a classifier consist of

Range = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Match:
    """A part of a text: the indices of its first character and of the one after its last."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class Reason:
    """A rule that applies to a text.

    Attributes:
        rule: its name in the policy, or the key "on_error" or "on_encoded".
        action: "flag" or "block".
        label: the label that a model found, or the error; None for patterns.
        probability: the probability of the rule's labels; None for patterns and errors.
        spans: the parts of the text that it is about. A classifier classifies passages of 64 tokens
            for this: those that reach the threshold, or the most probable one.
    """

    rule: str
    action: Decision
    label: str | None = None
    probability: float | None = None
    spans: tuple[Match, ...] = ()


class Forms(NamedTuple):
    """A text as it is, and in its normal form."""

    original: Normalized
    normal: Normalized

    def matches(self, ranges: Iterable[Range]) -> tuple[Match, ...]:
        """Return the parts of the original text at some ranges of it."""
        text = self.original.text
        return tuple(Match(start, end, text[start:end]) for start, end in merge(ranges))


def merge(ranges: Iterable[Range]) -> list[Range]:
    """Return ranges in order, with those that overlap or touch each other merged."""
    found: list[Range] = []
    for start, end in sorted(ranges):
        if found and start <= found[-1][1]:
            start, end = found[-1][0], max(end, found.pop()[1])
        found.append((start, end))
    return found


class Pattern:
    """A rule for a regular expression or words.

    Args:
        name: of the rule.
        rule: what it finds.
        where: what errors call it.

    Raises:
        InputError: the expression is invalid, or finds the empty text.
        MissingExtraError: google-re2, which regular expressions need, is not installed.
    """

    def __init__(self, name: str, rule: PatternRule, where: str) -> None:
        self.name, self.action, self.side = name, rule.action, rule.side
        if rule.regex is None:
            self._find = (
                _words_finder(rule.words),
                _words_finder(normalize(word).text for word in rule.words),
            )
        else:
            finder = _regex_finder(rule.regex, f"{where}.regex")
            self._find = finder, finder

    def reasons(self, texts: Sequence[Forms]) -> list[list[Reason]]:
        """Return the reasons of each text."""
        return [self._of_text(forms) for forms in texts]

    def _of_text(self, forms: Forms) -> list[Reason]:
        ranges = [
            form.original(*match.span())
            for form, find in zip(forms, self._find, strict=True)
            for match in find(form.text)
            if match.end() > match.start()
        ]
        return [Reason(self.name, self.action, spans=forms.matches(ranges))] if ranges else []


def _words_finder(words: Iterable[str]) -> Callable[[str], Iterator[Any]]:
    longest_first = sorted(map(re.escape, words), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(longest_first)})(?!\w)", re.IGNORECASE).finditer


def _regex_finder(regex: str, where: str) -> Callable[[str], Iterator[Any]]:
    re2 = require_extra("re2", "guard")
    options = re2.Options()
    options.case_sensitive, options.log_errors = False, False
    try:
        compiled = re2.compile(regex, options)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        how = "see https://github.com/google/re2/wiki/Syntax"
        raise InputError(f"invalid regular expression ({reason})", where, how) from error
    if compiled.search(""):
        raise InputError("the regular expression finds the empty text", where, "replace * by +")
    return compiled.finditer


class Window(NamedTuple):
    """Consecutive tokens of a text, with the special tokens around them."""

    text: int  # index of the text
    ids: list[int]
    first: int  # index of its first token in the text
    start: int  # of its first character
    end: int


class Scanner:
    """A rule for the labels of a model.

    Args:
        name: of the rule.
        rule: what it finds.
        model: the model of the rule.
        where: what errors call it.

    Raises:
        InputError: the model does not have a label, or the window exceeds its limit.
    """

    def __init__(
        self, name: str, rule: ClassifierRule, model: Classifier | Tagger, where: str
    ) -> None:
        self.name, self.action, self.side = name, rule.action, rule.side
        self.rule, self.model, self.where = rule, model, where
        known = list(model.labels)
        if isinstance(model, Tagger):
            scheme = scheme_of(model.labels)
            known = sorted({span.type for tag in model.labels for span in spans([tag], scheme)})
        if unknown := [label for label in rule.labels if label not in known]:
            what = f"the model has no label {unknown[0]!r}"
            raise InputError(what, f"{where}.labels", f"use {', '.join(known)}")
        if rule.window > model.max_length:
            what = f"window = {rule.window} exceeds the model's limit of {model.max_length} tokens"
            raise InputError(what, where, "use 0 for the limit")
        self.prefix, self.suffix = model.tokenizer.template_ids()

    def reasons(self, texts: Sequence[Forms]) -> list[list[Reason]]:
        """Return the reasons of each text."""
        if isinstance(self.model, Tagger):
            return [self._of_spans(*each) for each in zip(texts, self._spans(texts), strict=True)]
        probabilities, best = self._classify(texts)
        threshold = self.rule.threshold
        above = np.flatnonzero(probabilities >= threshold).tolist()
        found: list[list[Reason]] = [[] for _ in texts]
        passages = self._passages([texts[number] for number in above])
        for number, ranges in zip(above, passages, strict=True):
            found[number] = [Reason(
                self.name, self.action, self.rule.labels[best[number]],
                float(probabilities[number]), texts[number].matches(ranges),
            )]  # fmt: skip
        return found

    def probabilities(self, texts: Sequence[Forms]) -> Float32[np.ndarray, " S"]:
        """Return the probability of the rule's labels for each text, the highest of its windows.

        Of labels that exclude each other, it is the sum; otherwise the highest.
        """
        if isinstance(self.model, Tagger):
            found = self._spans(texts)
            highest = [max((p for *_, p in own), default=0.0) for own in found]
            return np.array(highest, np.float32)
        return self._classify(texts)[0]

    def _form(self, forms: Forms) -> Normalized:
        return forms.normal if self.rule.normalize else forms.original

    def _windows(
        self, texts: Sequence[Forms], size: int, overlap: int
    ) -> tuple[list[Window], list[Offsets]]:
        """Divide texts into windows, and return them with the offsets of the tokens of each text.

        Args:
            texts: the texts.
            size: largest number of tokens of a window, special tokens included.
            overlap: number of tokens that two consecutive windows share.
        """
        room = max(1, size - len(self.prefix) - len(self.suffix))
        windows: list[Window] = []
        offsets: list[Offsets] = []
        strings = [self._form(forms).text for forms in texts]
        encodings = self.model.tokenizer.encode_offsets(strings)
        for number, encoding in enumerate(encodings):
            inner = slice(len(self.prefix), len(encoding.ids) - len(self.suffix))
            ids, own = encoding.ids[inner], encoding.offsets[inner]
            offsets.append(own)
            for first in _starts(len(ids), room, overlap):
                part = own[first : first + room]
                start, end = (part[0][0], part[-1][1]) if part else (0, len(strings[number]))
                packed = [*self.prefix, *ids[first : first + room], *self.suffix]
                windows.append(Window(number, packed, first, start, end))
        return windows, offsets

    def _of_windows(self, windows: Sequence[Window]) -> Float32[np.ndarray, "windows labels"]:
        """Return the probability of each label of the rule for each window."""
        assert isinstance(self.model, Classifier)
        columns = [self.model.labels.index(label) for label in self.rule.labels]
        rows = self.model.probabilities_of_ids([window.ids for window in windows])[:, columns]
        if not np.isfinite(rows).all():  # no rule would apply
            raise DamagedError("the model computes probabilities that are not finite", self.where)
        return rows

    def _total(
        self, rows: Float32[np.ndarray, "windows labels"]
    ) -> Float32[np.ndarray, " windows"]:
        is_multi = self.model.head_config.kind == "multi"
        return rows.max(axis=1) if is_multi else rows.sum(axis=1).clip(max=1)

    def _classify(self, texts: Sequence[Forms]) -> tuple[Float32[np.ndarray, " S"], list[int]]:
        """Return the probability of each text, and the index of its most probable label."""
        size = self.rule.window or self.model.max_length
        windows, _ = self._windows(texts, size, size // 4)
        highest, best = np.zeros(len(texts), np.float32), [0] * len(texts)
        rows = self._of_windows(windows)
        for window, row, total in zip(windows, rows, self._total(rows), strict=True):
            if total >= highest[window.text]:
                highest[window.text], best[window.text] = total, int(row.argmax())
        return highest, best

    def _passages(self, texts: Sequence[Forms]) -> list[list[Range]]:
        """Return for each text the ranges of the passages to which the rule applies most."""
        size = min(PASSAGE + len(self.prefix) + len(self.suffix), self.model.max_length)
        windows, _ = self._windows(texts, size, size // 2)
        totals = self._total(self._of_windows(windows)).tolist()
        by_text: list[list[tuple[float, Window]]] = [[] for _ in texts]
        for total, window in zip(totals, windows, strict=True):
            by_text[window.text].append((total, window))
        found: list[list[Range]] = []
        for forms, own in zip(texts, by_text, strict=True):
            limit = min(self.rule.threshold, max(total for total, _ in own))
            form = self._form(forms)
            found.append([
                form.original(*_whole_words(form.text, window.start, window.end))
                for total, window in own if total >= limit
            ])  # fmt: skip
        return found

    def _spans(self, texts: Sequence[Forms]) -> list[list[tuple[str, int, int, float]]]:
        """Return the spans of a tagger with the rule's labels, in the original texts."""
        assert isinstance(self.model, Tagger)
        size = self.rule.window or self.model.max_length
        windows, offsets = self._windows(texts, size, size // 4)
        words = [split_words(self._form(forms).text) for forms in texts]
        firsts = [first_tokens(*each) for each in zip(words, offsets, strict=True)]
        documents = []
        for window in windows:
            count = len(window.ids) - len(self.prefix) - len(self.suffix)
            own = [
                (word, token - window.first + len(self.prefix))
                for word, token in zip(words[window.text], firsts[window.text], strict=True)
                if window.first <= token < window.first + count
            ]
            text = self._form(texts[window.text]).text
            documents.append(Words(text, [w for w, _ in own], window.ids, [t for _, t in own]))
        found: list[list[tuple[str, int, int, float]]] = [[] for _ in texts]
        for window, tagged in zip(windows, self.model.tag_words(documents), strict=True):
            form = self._form(texts[window.text])
            found[window.text] += [
                (span.label, *form.original(span.start, span.end), span.probability)
                for span in tagged
                if span.label in self.rule.labels
            ]
        return found

    def _of_spans(self, forms: Forms, found: list[tuple[str, int, int, float]]) -> list[Reason]:
        """Return a reason for each label of the rule."""
        reasons = []
        for label in self.rule.labels:
            own = [each for each in found if each[0] == label and each[3] >= self.rule.threshold]
            if own:
                matches = forms.matches((start, end) for _, start, end, _ in own)
                highest = max(probability for *_, probability in own)
                reasons.append(Reason(self.name, self.action, label, highest, matches))
        return reasons


def _starts(count: int, room: int, overlap: int) -> list[int]:
    """Return the first token of each window of ``room`` tokens; the last one ends the text."""
    stride = max(1, room - overlap)
    return [*range(0, count - room, stride), max(0, count - room)]


def _whole_words(text: str, start: int, end: int) -> Range:
    """Extend a range to whole words, by 32 characters at most, and leave out space before it."""
    inside = text[start:end]
    if not inside.strip():
        return start, end
    start += len(inside) - len(inside.lstrip())
    start -= len(re.split(r"\s", text[max(0, start - 32) : start])[-1])
    return start, end + len(re.split(r"\s", text[end : end + 32])[0])
