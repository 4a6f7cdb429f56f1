"""The columns of labelled data: given by name, or found by their usual names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import InputError

Task = Literal["classify", "tag", "score"]
# Usual names. If a name of one group is found, later groups do not count.
TEXTS: tuple[tuple[str, ...], ...] = (
    ("text",),
    ("sentence", "content", "document", "review", "message", "question", "query", "utterance",
     "tweet", "comment", "prompt"),
)  # fmt: skip
WORDS = (("tokens", "words"),)
PAIRS = (
    ("text_a", "text_b"), ("sentence1", "sentence2"), ("premise", "hypothesis"),
    ("question1", "question2"), ("question", "sentence"), ("query", "document"),
    ("sentence_A", "sentence_B"), ("text1", "text2"),
)  # fmt: skip
SCORES = (("score", "similarity"),)
NAMES = (("label",), ("labels",), ("intent", "category", "target", "class"))
TAGS = (("tags", "ner_tags"), ("labels",), ("label",))


@dataclass(frozen=True)
class Columns:
    """Names of columns; those that are None are found by their usual names.

    Attributes:
        text: column of the text, of the list of words (task "tag"), or of the first text.
        pair: column of the second text (task "score").
        label: column of the label, the list of tags, or the score.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None


def find_columns(
    names: Sequence[str], task: Task, columns: Columns, where: str
) -> tuple[tuple[str, ...], str]:
    """Return the columns of the inputs, one or two, and the column of the labels.

    Raises:
        InputError: a column is missing, or several could be meant.
    """
    found = _Finder(tuple(names), where)
    if task == "score":
        return found.pair(columns), found.one(
            "score or label", "--label", columns.label, (*SCORES, *NAMES)
        )
    if columns.pair is not None:
        how = "classify pairs of texts with the task score"
        raise InputError(f"the task {task} has no second text", "--pair", how)
    if task == "tag":
        words = found.one("list of words", "--text", columns.text, WORDS)
        return (words,), found.one("list of tags", "--label", columns.label, TAGS)
    text = find_text(names, columns.text, where)
    return (text,), found.one("label", "--label", columns.label, NAMES)


def find_text(names: Sequence[str], given: str | None, where: str) -> str:
    """Return the column of the text, given or found by its usual names; see `find_columns`."""
    return _Finder(tuple(names), where).one("text", "--text", given, TEXTS)


@dataclass(frozen=True)
class _Finder:
    """Finds columns by name; usual names are compared in lower case."""

    names: tuple[str, ...]
    where: str

    def one(self, what: str, option: str, given: str | None, usual: Sequence[Sequence[str]]) -> str:
        if given is not None:
            if given not in self.names:
                raise self.error(f'no column is called "{given}"', option)
            return given
        for group in usual:
            if found := [name for name in self.names if _plain(name) in group]:
                if len(found) > 1:
                    listed = ", ".join(f'"{name}"' for name in found)
                    raise self.error(f"several columns can be the {what}: {listed}", option)
                return found[0]
        raise self.error(f"no column has a usual name of the {what}", option)

    def pair(self, columns: Columns) -> tuple[str, str]:
        if columns.text is not None and columns.pair is not None:
            first = self.one("first text", "--text", columns.text, ())
            return first, self.one("second text", "--pair", columns.pair, ())
        by_name = {_plain(name): name for name in self.names}
        pairs = [[by_name.get(_plain(name)) for name in pair] for pair in PAIRS]
        found = [
            (first, second)
            for first, second in pairs
            if first is not None and second is not None
            and columns.text in (None, first) and columns.pair in (None, second)
        ]  # fmt: skip
        if len(found) == 1:
            return found[0]
        listed = "; ".join(f'"{first}" and "{second}"' for first, second in found)
        what = f"several pairs of columns can be the texts: {listed}"
        raise self.error(what if found else "no two columns have usual names of a pair of texts",
                         "--text and --pair")  # fmt: skip

    def error(self, what: str, option: str) -> InputError:
        listed = ", ".join(f'"{name}"' for name in self.names)[:300]
        return InputError(what, self.where, f"set {option} to one of the columns: {listed}")


def _plain(name: str) -> str:
    return name.strip().lower()
