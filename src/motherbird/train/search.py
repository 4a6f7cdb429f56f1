"""Search for settings of fine-tuning: a grid, or random draws, each an ordinary run (a trial).

Trials are exact and resumable because runs are. What draw number n is depends on (seed, n) alone.
"""

import difflib
import itertools
import json
import math
import os
import shutil
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .. import strict
from ..core.rng import random_bits
from ..disk import remove
from ..errors import InputError, OutputExistsError
from ..files import new_directory, read_json_object, resumable_directory
from .finetune import finetune
from .objectives.labels import LabelledBatch
from .step import Stepper, StepReport
from .tuning import FineTuning
from .tuning_plan import Parts, Plan, plan
from .tuning_run import INFO, check_output, check_unfinished

TRIALS = "trials.json"
STREAM = 11  # of random numbers
RANGE = ".."
SHARED = ("task", "model", "metric", "timeout")  # settings that cannot be searched
# Settings with which a trial may be impossible, whatever the others are.
CHECKED = ("max_length", "lora_rank", "few_shot", "class_weights", "thresholds")


@dataclass(frozen=True)
class Values:
    """The values of a setting: a list, or a range, in which logarithms are equally likely.

    Attributes:
        listed: the values of a list.
        low, high: ends of a range, more than 0; integers if the setting is one.
    """

    listed: tuple[Any, ...] = ()
    low: int | float = 0.0
    high: int | float = 0.0

    def draw(self, fraction: float) -> Any:
        """Return the value at a fraction from 0 to 1."""
        if self.listed:
            return self.listed[int(fraction * len(self.listed))]
        value = self.low * (self.high / self.low) ** fraction
        if isinstance(self.low, int) and isinstance(self.high, int):
            return round(value)
        return float(f"{value:.3g}")


def parse(texts: Sequence[str]) -> dict[str, Values]:
    """Read the values of settings from texts such as "lr=1e-4,3e-4" and "lr=1e-5..1e-3".

    Raises:
        InputError: a setting is unknown or occurs twice, or its values cannot be read.
    """
    found: dict[str, Values] = {}
    known = [field.name for field in fields(FineTuning) if field.name not in SHARED]
    for text in texts:
        name, equals, given = (part.strip() for part in text.partition("="))
        if not equals or not given:
            raise InputError("--search needs KEY=VALUE,VALUE or KEY=LOW..HIGH", text)
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            how = f"did you mean {near[0]}?" if near else f"use {', '.join(known)}"
            raise InputError(f"{name} cannot be searched", text, how)
        if name in found:
            raise InputError(f"{name} is searched twice", text, "list all values in one --search")
        if RANGE not in given:
            values = dict.fromkeys(_value(part) for part in given.split(","))
            found[name] = Values(tuple(values))
            continue
        low, high = (_value(part) for part in given.split(RANGE, 1))
        numbers = all(isinstance(end, int | float) and math.isfinite(end) for end in (low, high))
        if not numbers or not 0 < low < high:
            raise InputError("a range needs two numbers above 0, the lower one first", text)
        found[name] = Values((), low, high)
    return found


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def trials(space: Mapping[str, Values], count: int | None, seed: int) -> list[dict[str, Any]]:
    """Return the settings of each trial: all combinations, or ``count`` random ones.

    They are all different; there are fewer if a range of integers has fewer.

    Raises:
        InputError: a range is searched without ``count``.
    """
    size = math.prod(len(values.listed) for values in space.values())  # 0 with a range
    if count is None and not size:
        raise InputError("a range has infinitely many values", how="set --trials, or list values")
    if size and (count is None or count >= size):
        combinations = itertools.product(*(values.listed for values in space.values()))
        return [dict(zip(space, each, strict=True)) for each in combinations]
    found: list[dict[str, Any]] = []
    for number in itertools.count():
        random = random_bits((STREAM, seed, number), range(len(space)))
        drawn = (v.draw(int(b) / 2**64) for v, b in zip(space.values(), random, strict=True))
        one = dict(zip(space, drawn, strict=True))
        if one not in found:
            found.append(one)
        if len(found) == count or number == 100 * (count or 0):
            return found
    raise AssertionError


def search(
    recipe: FineTuning,
    space: Mapping[str, Values],
    count: int | None,
    parts: Parts,
    out: Path,
    *,
    device: str | None = None,
    on_trial: Callable[[int, int, dict[str, Any]], None] = lambda number, of, settings: None,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_start: Callable[[Stepper[LabelledBatch], int], None] = lambda stepper, steps: None,
    on_step: Callable[[StepReport], None] = lambda report: None,
) -> dict[str, Any]:
    """Fine-tune with different settings, and write the model that is best on dev.

    Args:
        recipe: the settings that all trials share.
        space: the values of the others.
        count: number of random trials; None computes all combinations.
        parts: what trials train and are evaluated on.
        out: directory of the model.
        device: see `finetune`.
        on_trial: called before each trial with its number from 1, their number and its settings.
        on_plan: see `finetune`; called for the first trial.
        on_start: see `finetune`.
        on_step: see `finetune`.

    Returns:
        finetune.json of the best trial, with "trials", settings and metrics of all, and "best", its
        number from 1.

    Raises:
        InputError: settings, texts or directory cannot be used.
        StoppedError: a signal stopped it; the same call resumes.
    """
    settings = trials(space, count, recipe.seed)
    recipes = [_changed(recipe, each) for each in settings]
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("a search runs in a single process", how="start it without torchrun")
    shared = plan(recipe, parts)
    different = {tuple(getattr(each, name) for name in CHECKED): each for each in recipes}
    for each in different.values():  # mistakes before the first trial
        plan(each, parts)
    metric, key = shared.metric, {"run": shared.key(), "settings": settings}
    if (finished := _finished(out, key)) is not None:
        return finished
    check_unfinished(out, key, ["1"])
    on = _Callbacks(on_trial, on_plan, on_start, on_step)
    with resumable_directory(out, "model", key) as work:
        names = range(1, len(recipes) + 1)
        folders = [work / str(number) / out.absolute().name for number in names]
        rows, best = _run(recipes, settings, metric, parts, folders, device, on)
        written = {"metric": metric, "best": best, "trials": rows, **key}
        with new_directory(out, "model") as fresh:
            for file in folders[best - 1].iterdir():
                if file.name != "motherbird.json":
                    shutil.copyfile(file, fresh / file.name)
            text = json.dumps(written, indent=1, ensure_ascii=False) + "\n"
            (fresh / TRIALS).write_text(text, encoding="utf-8")
    return read_json_object(out / INFO) | {"trials": rows, "best": best}


def _finished(out: Path, key: dict[str, Any]) -> dict[str, Any] | None:
    """Return the result of a finished search of the same settings and data, or None."""
    check_output(out)
    if not (out / INFO).is_file():
        return None
    found = read_json_object(out / TRIALS) if (out / TRIALS).is_file() else {}
    if {name: found.get(name) for name in key} == key:
        more = {name: found[name] for name in ("trials", "best")}
        return read_json_object(out / INFO) | more
    what = "the output is the model of another run"
    raise OutputExistsError(what, str(out), "choose another directory, or delete this one")


@dataclass(frozen=True)
class _Callbacks:
    trial: Callable[[int, int, dict[str, Any]], None]
    plan: Callable[[Plan], None]
    start: Callable[[Stepper[LabelledBatch], int], None]
    step: Callable[[StepReport], None]


def _run(
    recipes: Sequence[FineTuning], settings: Sequence[dict[str, Any]], metric: str, parts: Parts,
    folders: Sequence[Path], device: str | None, on: _Callbacks,
) -> tuple[list[dict[str, Any]], int]:  # fmt: skip
    """Run all trials, and return settings and metrics of each, and the number of the best."""
    rows: list[dict[str, Any]] = []
    best = 1
    for number, recipe in enumerate(recipes, 1):
        on.trial(number, len(recipes), settings[number - 1])
        folder = folders[number - 1]  # has the name of the output, which is in the model card
        folder.parent.mkdir(exist_ok=True)
        on_plan = on.plan if number == 1 else lambda made: None
        info = finetune(recipe, parts, folder, device=device, on_plan=on_plan,
                        on_start=on.start, on_step=on.step)  # fmt: skip
        kept = ("dev", "epoch", "seconds")
        rows.append({"settings": settings[number - 1], **{name: info[name] for name in kept}})
        if number == 1:
            continue
        is_better = _score(rows[-1], metric) > _score(rows[best - 1], metric)
        worse, best = (best, number) if is_better else (number, best)
        for weights in folders[worse - 1].glob("*.safetensors"):
            remove(weights)  # finetune.json stays, and says that the trial is finished
    return rows, best


def _changed(recipe: FineTuning, changes: dict[str, Any]) -> FineTuning:
    return strict.build(FineTuning, strict.plain(recipe) | changes, "--search")


def _score(row: dict[str, Any], metric: str) -> float:
    value = row["dev"][metric]
    return -math.inf if value is None else value
