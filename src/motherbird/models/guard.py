"""Guard: decides by a policy about texts that go to a language model, or come back."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from ..arrays import Float32
from ..core import hub, weights
from ..core.arguments import check_list, check_path, check_type
from ..core.normalization import encoded, normalize, unchanged
from ..errors import HeadError, InputError
from .classifier import Classifier
from .policy import Decision, Policy, Side, read
from .rules import Forms, Pattern, Reason, Scanner
from .tagger import Tagger

if TYPE_CHECKING:
    import torch

_ORDER = get_args(Decision)


@dataclass(frozen=True, slots=True)
class Unscanned:
    """A part of a text that no rule, or no classifier, could read, and why."""

    start: int
    end: int
    reason: str


@dataclass(frozen=True, slots=True)
class GuardResult:
    """What a guard decides about a text.

    Attributes:
        decision: "allow", "flag" or "block": the strictest action of the reasons.
        reasons: the rules that apply.
        unscanned: the parts that were not scanned.
    """

    decision: Decision
    reasons: tuple[Reason, ...]
    unscanned: tuple[Unscanned, ...]


class Guard:
    """Checks texts by the rules of a policy. Its decisions are advice: no guard finds everything.

    Args:
        policy: the rules.
        models: the model of each classifier of the policy, by the name of the rule.
        where: what errors call the policy.

    Raises:
        InputError: the policy does not fit the models, or a pattern is invalid.
        MissingExtraError: the policy has regular expressions, and google-re2 is not installed.
    """

    def __init__(
        self, policy: Policy, models: dict[str, Classifier | Tagger], where: str = "the policy"
    ) -> None:
        self.policy, self.where = check_type(policy, "policy", Policy), where
        self.rules: dict[str, Pattern | Scanner] = {}
        for name, pattern in policy.patterns.items():
            self.rules[name] = Pattern(name, pattern, f"{where}: patterns.{name}")
        for name, rule in policy.classifiers.items():
            self.rules[name] = Scanner(name, rule, models[name], f"{where}: classifiers.{name}")

    @classmethod
    def load(
        cls,
        policy: str | Path,
        *,
        dtype: "torch.dtype | str" = "auto",
        device: "torch.device | str | None" = None,
    ) -> "Guard":
        """Load a policy, see `models.policy.Policy`, and its models.

        Args:
            policy: a TOML file.
            dtype: of the models, see `Classifier.load`.
            device: of the models.

        Raises:
            InputError: the policy or one of its models cannot be used.
            DamagedError: the weights of a model are damaged.
        """
        path = check_path(policy, "the policy")
        rules = read(path)
        loaded: dict[str, Classifier | Tagger] = {}
        models: dict[str, Classifier | Tagger] = {}
        for name, rule in rules.classifiers.items():
            if rule.model not in loaded:
                try:
                    loaded[rule.model] = _load(rule.model, dtype=dtype, device=device)
                except InputError as error:
                    where = f"{path}: classifiers.{name}.model: {error.where or rule.model}"
                    how = error.how
                    if isinstance(error, HeadError):
                        how = "use one of motherbird finetune classify or tag"
                    raise type(error)(error.what, where, how) from error
            models[name] = loaded[rule.model]
        return cls(rules, models, str(path))

    def check(self, texts: Iterable[str], side: Side = "input") -> list[GuardResult]:
        """Decide about each text.

        Args:
            texts: S texts. Those that are empty, too long or not valid Unicode get the decision of
                the policy's ``on_error``.
            side: "input" for what goes to a language model, "output" for what comes back.

        Raises:
            InputError: a text is not a string, or no rule of the policy is for this side.
        """
        if side not in get_args(Side):
            raise InputError(f"unknown side {side!r}", how=f"use {' or '.join(get_args(Side))}")
        rules = [rule for rule in self.rules.values() if rule.side in (side, "both")]
        if not rules:
            raise InputError(f'no rule is for side = "{side}"', self.where, "add one")
        prepared = [self._prepare(text) for text in _strings(texts)]
        readable = [each for each in prepared if each.forms.normal.text]
        for rule in rules:
            found = rule.reasons([each.forms for each in readable])
            for each, reasons in zip(readable, found, strict=True):
                each.reasons += reasons
        return [each.result() for each in prepared]

    def probabilities(self, texts: Iterable[str], rule: str) -> Float32[np.ndarray, " S"]:
        """Return the probability of a classifier's labels for each text, to choose a threshold.

        Raises:
            InputError: the policy has no such classifier, or a text cannot be scanned.
        """
        scanner = self.rules.get(rule)
        if not isinstance(scanner, Scanner):
            known = ", ".join(self.policy.classifiers) or "there are none"
            raise InputError(f"there is no classifier {rule!r}", how=f"the policy has: {known}")
        prepared = [self._prepare(text) for text in _strings(texts)]
        for number, each in enumerate(prepared):
            if each.error:
                raise InputError(each.error, f"text {number}", "leave it out")
        return scanner.probabilities([each.forms for each in prepared])

    def _prepare(self, text: str) -> "_Text":
        """Return the forms of a text, and what cannot be scanned."""
        policy, kept, error = self.policy, text[: self.policy.max_chars], ""
        if len(kept) < len(text):
            error = f"the text has {len(text):,} characters, max_chars is {policy.max_chars:,}"
        try:
            text.encode()
        except UnicodeEncodeError:
            kept, error = "", "the text is not valid Unicode"
        found = _Text(Forms(unchanged(kept), normalize(kept)), error)
        if not (found.error or found.forms.normal.text):
            found.error = "the text is empty"
        if len(kept) < len(text):
            found.unscanned.append(Unscanned(len(kept), len(text), error))
        ranges = encoded(kept)
        found.unscanned += [Unscanned(*each, "encoded data") for each in ranges]
        if found.error and policy.on_error != "allow":
            found.reasons.append(Reason("on_error", policy.on_error, found.error))
        if ranges and policy.on_encoded != "allow":
            matches = found.forms.matches(ranges)
            found.reasons.append(Reason("on_encoded", policy.on_encoded, spans=matches))
        return found


@dataclass
class _Text:
    """A text that is being checked."""

    forms: Forms  # of the part that is scanned
    error: str  # why the text, or the rest of it, cannot be scanned
    reasons: list[Reason] = field(default_factory=list)
    unscanned: list[Unscanned] = field(default_factory=list)

    def result(self) -> GuardResult:
        """Return the decision."""
        actions = (reason.action for reason in self.reasons)
        decision: Decision = max(actions, key=_ORDER.index, default="allow")
        return GuardResult(decision, tuple(self.reasons), tuple(self.unscanned))


def _load(name: str, **options: Any) -> Classifier | Tagger:
    architectures = weights.read_config(hub.find(name)).get("architectures") or [""]
    is_tagger = str(architectures[0]).endswith(Tagger.architecture)
    cls = Tagger if is_tagger else Classifier
    return cls.load(name, split_special_tokens=True, **options)


def _strings(texts: Any) -> list[str]:
    listed = check_list(texts, "texts", "strings")
    for number, text in enumerate(listed):
        if not isinstance(text, str):
            what = f"the text is of type {type(text).__name__}, not str"
            raise InputError(what, f"text {number}", "convert it to str")
    return listed
