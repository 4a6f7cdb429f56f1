"""Router: sends each text to the cheapest target, such as an LLM, that is good enough."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import strict
from ..core import hub, routing
from ..core.arguments import Documents, check_list
from ..core.measure import Metrics
from ..core.routing import Number, Point, Probabilities, RouterConfig
from ..errors import HeadError, InputError, require_extra
from ..files import read_json
from .classifier import Classifier

FILE = "router.json"  # the `RouterConfig`, beside the files of the classifier


@dataclass(frozen=True, slots=True)
class Route:
    """The target of a text.

    Attributes:
        target: its name, or None if the router abstains.
        probabilities: for each target the probability that it answers the text well.
        cost: the cost of a text for the target, or None.
    """

    target: str | None
    probabilities: dict[str, float]
    cost: float | None


class Router:
    """A classifier that computes for each target the probability that it answers a text well.

    A text goes to the target with the highest probability minus its cost times ``cost_weight``; see
    `core.routing`.

    Args:
        classifier: a model of any number of labels, which are the targets.
        config: the targets, their costs, and the point of the cost-quality curve.

    Raises:
        InputError: the labels are not the targets.
    """

    def __init__(self, classifier: Classifier, config: RouterConfig) -> None:
        kind, labels = classifier.head_config.kind, classifier.labels
        if kind != "multi" or set(labels) != set(config.targets):
            what = f"the labels of the classifier are not the targets {', '.join(config.targets)}"
            raise InputError(what, how="fit the router again")
        self.classifier, self.config = classifier, config

    @classmethod
    def fit(
        cls,
        texts: Iterable[str],
        outcomes: Mapping[str, Iterable[Any]],
        costs: Mapping[str, Number],
        out: str | Path,
        *,
        dev: tuple[Iterable[str], Mapping[str, Iterable[Any]]] | None = None,
        good: Number = 0.5,
        budget: Number | None = None,
        quality: Number | None = None,
        abstain: Number | None = None,
        device: str | None = None,
        **settings: Any,
    ) -> "Router":
        """Fine-tune a classifier, draw the cost-quality curve, write both, and load them.

        This needs the extra "train". A call that was stopped or killed is resumed by the same call.
        A finished call with another budget, quality or abstain does not train again.

        Args:
            texts: S texts.
            outcomes: for each target, whether it answers each text well: S booleans, or numbers
                from 0 to 1.
            costs: the cost of a text for each target, in any unit.
            out: directory of the router, new or that of the same call.
            dev: texts and outcomes for the best epoch and the curve; None sets a tenth aside.
            good: the lowest number that is a good answer.
            budget: see `at`.
            quality: see `at`.
            abstain: abstain from texts for which no target has this probability; None for never.
            device: a torch device; None is the CPU.
            settings: of `motherbird.train.tuning.FineTuning`, such as ``model`` and ``epochs``.

        Raises:
            InputError: texts, outcomes, costs or settings cannot be used.
            DivergedError: the loss is not finite.
            StoppedError: a signal stopped it; its state is saved.
        """
        require_extra("torch", "train")
        from ..train.routing import fit_lists

        fit_lists(
            (texts, outcomes), dev, costs, Path(out), good=good, budget=budget, quality=quality,
            abstain=abstain, device=device, settings=settings,
        )  # fmt: skip
        return cls.load(out, device=device)

    @classmethod
    def load(cls, name_or_dir: str | Path, **options: Any) -> "Router":
        """Load a router; arguments are those of `Classifier.load`.

        Raises:
            InputError: this is not a router; see also `Classifier.load`.
            DamagedError: the weights are damaged.
        """
        directory = hub.find(name_or_dir, options.pop("revision", None))
        file = directory / FILE
        if not file.is_file():
            how = "fit one with motherbird route fit"
            raise HeadError(f"this model is not a router ({FILE} is missing)", str(directory), how)
        config = strict.build(RouterConfig, read_json(file), str(file))
        return cls(Classifier.load(directory, **options), config)

    def at(self, budget: Number | None = None, quality: Number | None = None) -> "Router":
        """Return the router at another point of its curve.

        Args:
            budget: the largest mean cost of a text on dev; the point of the highest quality within
                it is chosen.
            quality: the lowest quality on dev; the cheapest point that has it is chosen. Without
                both, it is the quality of the best target, or the highest of the curve if that is
                lower.

        Raises:
            InputError: no point has this cost or quality, or both are given.
        """
        return Router(self.classifier, self.config.at(budget, quality))

    @property
    def curve(self) -> tuple[Point, ...]:
        """The cost-quality curve on dev, from the lowest cost to the highest."""
        return self.config.curve

    def route(
        self,
        texts: Iterable[str],
        *,
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int | None = None,
    ) -> list[Route]:
        """Choose the target of each text.

        Arguments and errors are those of `Classifier.probabilities`.
        """
        ids, _ = self.classifier.tokenize(texts, max_length=max_length, truncate=truncate)
        return self.route_ids(ids, batch_tokens)

    def route_ids(self, ids: Documents, batch_tokens: int | None = None) -> list[Route]:
        """Choose the target of each list of token ids, as `route` does for texts."""
        probabilities = target_probabilities(
            self.classifier, ids, self.config.targets, batch_tokens
        )
        targets, costs = self.config.targets, self.config.costs
        chosen = self.config.choose(probabilities).tolist()
        return [
            Route(
                None if target < 0 else targets[target], dict(zip(targets, row, strict=True)),
                None if target < 0 else costs[target],
            )
            for target, row in zip(chosen, probabilities.tolist(), strict=True)
        ]  # fmt: skip

    def evaluate(
        self,
        texts: Iterable[str],
        outcomes: Mapping[str, Iterable[Any]],
        *,
        good: Number = 0.5,
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int | None = None,
    ) -> Metrics:
        """Return the metrics of the router on texts with known outcomes.

        See `core.routing.RouterConfig.measure`, `fit` for the outcomes, and `route` for other
        arguments and errors.
        """
        listed = check_list(texts, "texts", "texts")
        if not listed:
            raise InputError("there are no texts", how="pass one text or more")
        truth = routing.outcomes_of(outcomes, self.config.targets, good, len(listed))
        ids, _ = self.classifier.tokenize(listed, max_length=max_length, truncate=truncate)
        probabilities = target_probabilities(
            self.classifier, ids, self.config.targets, batch_tokens
        )
        return self.config.measure(probabilities, truth)


def target_probabilities(
    classifier: Classifier,
    ids: Documents,
    targets: Sequence[str],
    batch_tokens: int | None = None,
) -> Probabilities:
    """Compute the probability of each target, which are the labels in another order."""
    order = [classifier.labels.index(target) for target in targets]
    return classifier.probabilities_of_ids(ids, batch_tokens=batch_tokens)[:, order]
