"""What commands that train share: settings, and what they show."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from . import options
from .output import is_terminal, print_json

if TYPE_CHECKING:
    from ..train.step import StepReport
    from ..train.tuning_run import Caller

S = TypeVar("S")  # a dataclass of settings
SHOW_EVERY = 10.0  # seconds between lines where there is no terminal


def settings_options(example: str) -> list[Callable[[Any], Any]]:
    """Return the options of all commands that train with settings; ``example`` is one of --set."""
    return [
        click.option("--recipe", metavar="FILE.toml", help="Settings; options here override it."),
        click.option("--set", "changes", multiple=True, metavar="KEY=VALUE",
                     help=f"Change another setting, such as {example}; repeatable."),
        click.option("--seed", type=click.IntRange(0, 2**63 - 1), metavar="N",
                     help="Random seed (default: 0)."),
        options.device,
        options.threads,
        options.as_json,
    ]  # fmt: skip


max_length = click.option("--max-length", type=click.IntRange(8), metavar="N",
                          help="Tokens of a text; longer ones are truncated (default: the model's "
                          "limit).")  # fmt: skip


def read_settings(
    kind: type[S],
    recipe: str | None,
    changes: tuple[str, ...],
    given: dict[str, Any],
    task: str | None = None,
) -> S:
    """Return settings: those of a recipe, changed by --set, and by the options that are given.

    Raises:
        InputError: a setting is wrong, or the recipe is of another task than ``task``.
    """
    from .. import strict
    from ..errors import InputError

    data = {} if recipe is None else strict.read(recipe)
    for change in changes:
        strict.change(data, change)
    where = "the options" if recipe is None else strict.source(recipe, changes)
    if task is not None and (other := data.setdefault("task", task)) != task:
        raise InputError(f"the settings are of the task {other!r}, not {task!r}", where)
    return strict.build(kind, data | given, where)


def listed(settings: dict[str, Any]) -> str:
    """Return settings as text."""
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def metrics_line(metrics: dict[str, float | None]) -> str:
    """Return metrics as text."""
    return ", ".join(
        f"{name} {'-' if value is None else format(value, '.4f')}"
        for name, value in metrics.items()
    )


def print_trained(directory: Path, found: dict[str, Any], json_: bool) -> None:
    """Print the result of a run that trains a model of vectors, on the main process.

    Args:
        directory: of the model.
        found: the content of finetune.json.
        json_: as one JSON document.
    """
    if not options.is_main_process():
        return
    if json_:
        print_json({"model": str(directory), **found})
        return
    click.echo(f"dev: {metrics_line(found['dev'])}")
    click.echo(f"{directory}: epoch {found['epoch']}, {found['seconds']:.0f} s of training")


class Display:
    """Shows the steps: a progress bar on a terminal, else a line every few seconds and epoch."""

    def __init__(self, quiet: bool, update: Any) -> None:
        self.quiet, self.update = quiet, update
        self.shown, self.steps = time.perf_counter(), 1
        self.recent: list[StepReport] = []

    def caller(self, device: str) -> "Caller":
        """Return what a run is given to show its steps here."""
        from ..train.tuning_run import Caller

        return Caller(device, None, self.plan, self.start, self.step)

    def plan(self, plan: Any) -> None:
        """Say what will be done."""
        for line in plan.lines() if not self.quiet else ():
            click.echo(line, err=True)

    def texts(self, done: int, total: int) -> None:
        """Show of how many texts the teacher's vectors exist."""
        now = time.perf_counter()
        if self.quiet:
            return
        text = f"vectors of the teacher: {done:,} of {total:,} texts"
        if is_terminal():
            self.update(completed=done / total, text=text)
        elif now - self.shown >= SHOW_EVERY or done == total:
            self.shown = now
            click.echo(text, err=True)

    def trial(self, number: int, of: int, settings: dict[str, Any]) -> None:
        """Say which settings are tried."""
        if not self.quiet:
            click.echo(f"trial {number} of {of}: {listed(settings)}", err=True)

    def start(self, stepper: Any, steps: int) -> None:
        """Remember the number of steps."""
        self.steps = steps

    def step(self, report: "StepReport") -> None:
        """Show a step."""
        if self.quiet:
            return
        now = time.perf_counter()
        self.recent = [r for r in self.recent if r.started > now - 30] + [report]
        if report.evaluation is not None:
            click.echo(f"{report.phase}: {metrics_line(dict(report.evaluation))}", err=True)
        if is_terminal():
            self.update(completed=report.number / self.steps, text=self._text())
        elif now - self.shown >= SHOW_EVERY:
            self.shown = now
            click.echo(self._text(), err=True)

    def _text(self) -> str:
        last, seconds = self.recent[-1], sum(r.seconds for r in self.recent)
        mean = seconds / len(self.recent)
        return (
            f"step {last.number:,}/{self.steps:,}  "
            f"loss {sum(r.loss for r in self.recent) / len(self.recent):.3f}  "
            f"{sum(r.tokens for r in self.recent) / max(seconds, 1e-9):,.0f} tokens/s  "
            f"at most {(self.steps - last.number) * mean:.0f} s left"
        )
