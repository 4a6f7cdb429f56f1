"""An HTML report of a fine-tuning run in one file: curves, confusions, calibration and errors."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Float
from ..core import spans
from ..core.measure import losses, mean_loss, predicted_tags, sigmoid
from ..data.labelled import Labelled
from ..models.text_model import softmax
from . import card, run_log, tuning_card
from .card import Table
from .examples import Examples
from .report import figure, marks, svg
from .tuning_plan import Plan

WORST = 20  # texts with the highest loss, and confusions
MATRIX = 12  # labels of a whole confusion table, at most
CHARACTERS = 1000  # of a text that is shown
CONTEXT = 10  # words that are shown before and after a span
BINS = 10  # of probabilities
POINTS = 2000  # of a scatter plot, at most


@dataclass(frozen=True)
class _Section:
    title: str
    text: str = ""
    table: Table | None = None
    figure: str = ""  # an SVG element


@dataclass(frozen=True)
class _Evaluated:
    """A part with the model's logits for it."""

    name: str
    labels: tuple[str, ...]
    data: Labelled
    examples: Examples
    logits: Sequence[NDArray[np.float32]]
    temperature: float
    thresholds: Mapping[str, float]

    def losses(self) -> Float[np.ndarray, " S"]:
        """Return the loss of each text; NaN for a label that the model does not have."""
        if self.data.kind == "tags":
            pairs = zip(self.logits, self.examples.targets, strict=True)
            return np.array([np.nansum(losses(rows, target)) for rows, target in pairs])
        rows, targets = np.stack(self.logits), np.stack(self.examples.targets)
        if self.data.kind == "number":
            return np.square(rows - targets)[:, 0].astype(np.float64)
        return losses(rows / self.temperature, targets)

    def worst(self, predicted: Sequence[Any]) -> list[int]:
        """Return the texts with the highest loss among those with a wrong prediction."""
        found = self.losses()
        wrong = [
            number for number, (own, other) in enumerate(zip(self.true(), predicted, strict=True))
            if own != other and not np.isnan(found[number])
        ]  # fmt: skip
        return sorted(wrong, key=lambda number: -found[number])[:WORST]

    def true(self) -> list[Any]:
        """Return the labels in the form of `predicted`."""
        if self.data.kind == "tags":
            return [self.spans(tags) for tags in self.data.labels]
        return (
            [{*own} for own in self.data.labels] if self.data.kind == "multi" else self.data.labels
        )

    def probabilities(self, temperature: float) -> Float[np.ndarray, "S C"]:
        rows = np.stack(self.logits) / np.float32(temperature)
        return sigmoid(rows) if self.data.kind == "multi" else softmax(rows)

    def predicted(self) -> list[Any]:
        """Return what is predicted: a label, a set of labels, a number, or a list of spans."""
        if self.data.kind == "tags":
            pairs = zip(self.logits, self.examples.firsts, strict=True)
            return [self.spans(predicted_tags(rows, own, self.labels)) for rows, own in pairs]
        rows = np.stack(self.logits)
        if self.data.kind == "number":
            return rows[:, 0].tolist()
        if self.data.kind == "single":
            return [self.labels[number] for number in rows.argmax(axis=1)]
        cuts = [self.thresholds.get(label, 0.5) for label in self.labels]
        reached = self.probabilities(self.temperature) >= cuts
        return [{self.labels[number] for number in np.flatnonzero(row)} for row in reached]

    def spans(self, tags: Sequence[str]) -> list[spans.Span]:
        return spans.spans(tags, spans.scheme_of(self.labels))


def write(
    directory: Path,
    name: str,
    plan: Plan,
    info: Mapping[str, Any],
    logits: Mapping[str, Sequence[NDArray[np.float32]]],
    run: Path,
) -> None:
    """Write report.html.

    Args:
        directory: of the model, which is being written.
        name: of the model.
        plan: what it was trained on and with.
        info: the content of finetune.json.
        logits: of dev, and of test if there is one: for each text (C,), or (tokens, C) for tags.
        run: directory of the logs.
    """
    part = "test" if "test" in logits else "dev"
    data, examples = plan.evaluated()[part]
    found = _Evaluated(
        part, plan.labels, data, examples, logits[part], info["temperature"], info["thresholds"]
    )
    lines, kind = run_log.read(run), data.kind
    metrics = [metric for metric in info["dev"] if metric != "loss"]
    unit = "" if kind == "number" else ", nats"
    stops = marks(run_log.read(run, run_log.EVENTS)[:-1], True)  # the last one is the end
    text = card.render(
        "tuning_report.html.jinja", name=name, plan=plan, info=info,
        curves=svg(figure(lines, stops, metrics, unit)), metrics=tuning_card.metric_table(info),
        epochs=_epoch_table(lines), sections=list(_sections(found)),
    )  # fmt: skip
    (directory / "report.html").write_text(text, encoding="utf-8", errors="replace")


def _sections(found: _Evaluated) -> Iterable[_Section]:
    kind, predicted = found.data.kind, found.predicted()
    if kind == "number":
        yield _scatter(found, predicted)
    else:
        yield _by_label(found, predicted)
    if kind == "single":
        yield _confusions(found, predicted)
    if kind in ("single", "multi"):
        yield _calibration(found)
    yield _wrong_spans(found, predicted) if kind == "tags" else _worst(found, predicted)


def _epoch_table(lines: Sequence[dict[str, Any]]) -> Table:
    evaluated = [(line["phase"], line["evaluation"]) for line in lines if "evaluation" in line]
    return ("", *evaluated[0][1]), [
        (phase, *("-" if value is None else f"{value:.4f}" for value in values.values()))
        for phase, values in evaluated
    ]


def _by_label(found: _Evaluated, predicted: Sequence[Any]) -> _Section:
    """Return precision, recall and F1 of each label, or type of spans."""
    true: list[Any] = found.data.labels
    if found.data.kind == "single":
        true, predicted = [[label] for label in true], [[label] for label in predicted]
    elif found.data.kind == "tags":
        true = [found.spans(tags) for tags in true]
    wanted, given, right = Counter[str](), Counter[str](), Counter[str]()
    for own, other in zip(true, predicted, strict=True):
        wanted.update(map(_name, own))
        given.update(map(_name, other))
        right.update(map(_name, {*own} & {*other}))
    known = () if found.data.kind == "tags" else found.labels
    rows = [
        (name, f"{wanted[name]:,}", f"{given[name]:,}", f"{right[name]:,}",
         _ratio(right[name], given[name]), _ratio(right[name], wanted[name]),
         _ratio(2 * right[name], given[name] + wanted[name]))
        for name in dict.fromkeys([*known, *wanted, *given])
    ]  # fmt: skip
    head = ("label", "true", "predicted", "right", "precision", "recall", "F1")
    return _Section(f"Labels of {found.name}", table=(head, rows))


def _name(label: str | spans.Span) -> str:
    return label.type if isinstance(label, spans.Span) else label


def _ratio(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "-"


def _confusions(found: _Evaluated, predicted: Sequence[str]) -> _Section:
    """Return the whole table of true and predicted labels, or the most frequent confusions."""
    counts = Counter(zip(found.data.labels, predicted, strict=True))
    title = f"Confusions of {found.name}"
    names = list(dict.fromkeys([*found.labels, *found.data.labels]))
    if len(names) <= MATRIX:
        rows = [[name, *(f"{counts[name, other]:,}" for other in found.labels)] for name in names]
        return _Section(title, "A row for each true label, a column for each predicted one.",
                        (("", *found.labels), rows))  # fmt: skip
    wrong = [(*pair, f"{count:,}") for pair, count in counts.most_common() if len({*pair}) > 1]
    return _Section(title, "The most frequent ones.", (("true", "predicted", "texts"),
                                                       wrong[:WORST]))  # fmt: skip


def _calibration(found: _Evaluated) -> _Section:
    """Compare probabilities with how often they are right, before and after the temperature."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(5, 4.5), layout="constrained")
    panel = drawn.subplots()
    panel.plot([0, 1], [0, 1], color="#8a8a8a", linewidth=0.8)
    rows, targets = [], np.stack(found.examples.targets)
    for temperature in dict.fromkeys([1.0, found.temperature]):
        probabilities = found.probabilities(temperature)
        if found.data.kind == "multi":
            claimed, right = probabilities.ravel(), targets.ravel() > 0
        else:
            claimed, right = probabilities.max(1), probabilities.argmax(1) == targets
        bins = np.minimum((claimed * BINS).astype(int), BINS - 1)
        count, sums, hits = (
            np.bincount(bins, weights, BINS) for weights in (None, claimed, right.astype(float))
        )
        used = count > 0
        error = abs(sums - hits).sum() / len(claimed)
        name = f"temperature {temperature:g}"
        loss = mean_loss(np.stack(found.logits) / temperature, targets)
        rows.append((name, "-" if loss is None else f"{loss:.4f}", f"{error:.4f}"))
        panel.plot(sums[used] / count[used], hits[used] / count[used], "o-", markersize=4,
                   linewidth=1, label=name)  # fmt: skip
    panel.set(xlabel="probability", ylabel="fraction that is right", xlim=(0, 1), ylim=(0, 1))
    panel.legend(fontsize="small")
    text = (
        f"Probabilities of {found.name} in {BINS} bins. The error is the mean difference between "
        "a probability and the fraction that is right (expected calibration error)."
    )
    return _Section("Calibration", text, (("", "loss", "error"), rows), svg(drawn))


def _scatter(found: _Evaluated, predicted: Sequence[float]) -> _Section:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(5, 4.5), layout="constrained")
    panel = drawn.subplots()
    panel.scatter(found.data.labels[:POINTS], predicted[:POINTS], s=8, alpha=0.5, linewidths=0)
    panel.set(xlabel="true", ylabel="predicted")
    panel.grid(alpha=0.25, linewidth=0.5)
    more = f"The first {POINTS:,} texts." if len(predicted) > POINTS else ""
    return _Section(f"Numbers of {found.name}", more, figure=svg(drawn))


def _worst(found: _Evaluated, predicted: Sequence[Any]) -> _Section:
    each = found.losses()
    rows = [
        (found.data.where[n], _shown(found.data.texts[n]), _label(found.data.labels[n]),
         _label(predicted[n]), f"{each[n]:.3g}")
        for n in found.worst(predicted)
    ]  # fmt: skip
    title = f"Wrong predictions of {found.name} with the highest loss"
    return _Section(title, table=(("where", "text", "true", "predicted", "loss"), rows))


def _wrong_spans(found: _Evaluated, predicted: Sequence[list[spans.Span]]) -> _Section:
    """Return the spans that are missed or wrong, in the texts with the highest loss."""
    rows = []
    for number in found.worst(predicted):
        true, words = found.spans(found.data.labels[number]), found.data.texts[number]
        wrong = [("missed", span) for span in true if span not in predicted[number]]
        wrong += [("wrong", span) for span in predicted[number] if span not in true]
        for what, span in sorted(wrong, key=lambda each: each[1].first):
            before = " ".join(words[max(0, span.first - CONTEXT) : span.first])
            own = " ".join(words[span.first : span.end])
            after = " ".join(words[span.end : span.end + CONTEXT])
            text = f"{before} [{own}] {after}".strip()
            rows.append((found.data.where[number], what, span.type, text))
    title = f"Spans of {found.name} that are missed or wrong"
    text = f"In the {WORST} texts with the highest loss among those with such spans."
    return _Section(title, text, (("where", "", "type", "span"), rows))


def _shown(text: str | tuple[str, str]) -> str:
    """Return a text, or a pair of them on lines of their own, cut to `CHARACTERS`."""
    if isinstance(text, tuple):
        return "\n".join(map(_shown, text))
    return text if len(text) <= CHARACTERS else f"{text[:CHARACTERS]} ..."


def _label(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else ", ".join(sorted(value)) or "none"
