"""The policy of a guard: a TOML file, read strictly into `Policy`."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from .. import strict
from ..core import hub
from ..core.normalization import normalize
from ..errors import InputError

Decision = Literal["allow", "flag", "block"]  # in ascending order
Action = Literal["flag", "block"]
Side = Literal["input", "output"]  # what goes to a language model, and what comes back
Sides = Literal["input", "output", "both"]


@dataclass(frozen=True)
class ClassifierRule:
    """A model, and the labels that a text may not have."""

    model: str  # a Classifier or Tagger: a directory, relative to that of the policy, or a name
    labels: tuple[str, ...]
    threshold: float  # the probability of the labels from which on the rule applies
    action: Action = "block"
    side: Sides = "both"
    # tokens of the overlapping parts that are classified; 0: the whole text, up to the model's
    # limit. The highest probability counts.
    window: int = 0
    normalize: bool = True  # whether the model gets the text in its normal form

    def __post_init__(self) -> None:
        if not self.labels:
            raise InputError("labels is empty", how="name the labels that a text may not have")
        if not 0 <= self.threshold <= 1:
            raise InputError(f"threshold = {self.threshold} is not within 0..1")
        if self.window and self.window < 8:
            raise InputError(f"window = {self.window} has to be 0 or at least 8")


@dataclass(frozen=True)
class PatternRule:
    """A regular expression or words that a text may not contain, in any case."""

    regex: str | None = None  # in the syntax of RE2
    words: tuple[str, ...] = ()  # words and phrases
    action: Action = "block"
    side: Sides = "both"

    def __post_init__(self) -> None:
        if (self.regex is None) == (not self.words):
            raise InputError("a pattern needs either regex or words")
        for word in self.words:
            if not normalize(word).text:
                raise InputError(f"words contains {word!r}, which is empty")


@dataclass(frozen=True)
class Policy:
    """What is checked, and what is decided about it."""

    classifiers: dict[str, ClassifierRule] = field(default_factory=dict)
    patterns: dict[str, PatternRule] = field(default_factory=dict)
    max_chars: int = 200_000  # characters of a text; the rest is not scanned
    # for a text that is empty, is not valid Unicode, or has more than max_chars characters
    on_error: Decision = "block"
    # for long base64 or hexadecimal data, which a classifier cannot read
    on_encoded: Decision = "flag"

    def __post_init__(self) -> None:
        if not self.classifiers and not self.patterns:
            how = "add a table [classifiers.NAME] or [patterns.NAME]"
            raise InputError("the policy has no rules", how=how)
        if both := self.classifiers.keys() & self.patterns.keys():
            raise InputError(f"two rules are called {min(both)!r}", how="rename one of them")
        if self.max_chars < 1:
            raise InputError(f"max_chars = {self.max_chars} has to be at least 1")


def read(path: Path) -> Policy:
    """Read a policy; the models that are directories get their paths.

    Raises:
        InputError: the file cannot be read, or the policy has mistakes.
    """
    policy = strict.load(Policy, path)
    rules = {}
    for name, rule in policy.classifiers.items():
        beside = path.parent / rule.model
        is_directory = not hub.is_included(rule.model) and beside.exists()
        rules[name] = replace(rule, model=str(beside)) if is_directory else rule
    return replace(policy, classifiers=rules)
