"""Runs on disk: list and show them; average, rewind and export their checkpoints."""

import os
import re
from collections.abc import Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import strict
from ..core import tokenizer as tokenizers
from ..core.tokenizer import Tokenizer
from ..disk import locked
from ..errors import InputError, MotherbirdError, counted
from ..files import MANIFEST, check_replaceable, read_json, sha256
from ..nn import checkpoint, devices
from . import card, run_info, run_log, state
from .init_weights import model_of_run
from .recipe import Recipe, differences
from .run_info import RunInfo
from .state import Checkpoint, Progress

# What may change within a run: nothing that the loader's cursor or the weights depend on.
CHANGEABLE = (
    r"train\.(lr|weight_decay|masking|micro_tokens|dtype|workers|timeout)"
    r"|phases\.\d+\.(tokens|lr|warm_up|decay|final|weight_decay|masking|micro_tokens)"
    r"|(save|evaluate|health)\.\w+"
)


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Describe the runs directly below a directory, by name; or the directory, if it is a run.

    Nothing is verified. The keys are documented in `motherbird runs list`.
    """
    if not folder.is_dir():
        what = (
            "this is a file, not a directory" if folder.exists() else "the directory does not exist"
        )
        raise InputError(what, str(folder))
    found = [folder] if (folder / run_info.FILE).is_file() else sorted(folder.iterdir())
    return [_summary(run) for run in found if (run / run_info.FILE).is_file()]


def _summary(run: Path) -> dict[str, Any]:
    names = (run_info.FILE, run_log.LOG, run_log.EVENTS, "checkpoints")
    written = max((run / name).stat().st_mtime for name in names if (run / name).exists())
    found = {
        "run": str(run), "step": None, "steps": 0, "phase": "", "tokens": 0, "loss": None,
        "finished": False, "running": is_busy(run), "written": written, "problem": None,
    }  # fmt: skip
    try:
        recipe = run_info.read(run).parsed_recipe(run)
        found |= {"steps": recipe.steps(), "phase": recipe.phases[0].name}
        for step in state.steps(run)[:1]:
            path = state.folder(run, step) / state.PROGRESS
            position = _position(recipe, strict.build(Progress, read_json(path), str(path)))
            found |= {key: value for key, value in position.items() if key in found}
    except MotherbirdError as error:
        found["problem"] = str(error)
    return found


def _position(recipe: Recipe, progress: Progress) -> dict[str, Any]:
    return {
        "step": progress.step, "steps": recipe.steps(), "tokens": progress.tokens,
        "masked": progress.masked, "loss": progress.loss,
        "phase": recipe.phases[progress.phase].name, "finished": progress.finished,
    }  # fmt: skip


def is_busy(run: Path) -> bool:
    """Return whether a process holds the run's lock now; writes nothing."""
    lock = run / run_info.LOCK
    if os.name != "posix" or not lock.exists():
        return False
    import fcntl

    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def show(run: Path) -> dict[str, Any]:
    """Describe a run by its newest checkpoint, which is verified."""
    info = run_info.read(run)
    found = state.find(run)
    progress = found.progress
    evaluated = [e for e in card.evaluations(run) if e["step"] <= progress.step]
    return {
        "run": str(run), **_position(info.parsed_recipe(run), progress), "sha256": found.sha256,
        "evaluation": evaluated[-1] if evaluated else None,
        "checkpoints": sorted(state.steps(run)),
        "skipped_steps": _skipped_steps(run, progress.step), "skips": info.skips,
        "changes": info.changes, "data": info.data, "world_size": progress.world_size,
        "seconds": round(card.seconds(run, progress.step), 1),
    }  # fmt: skip


def _skipped_steps(run: Path, step: int) -> list[dict[str, Any]]:
    """Return the steps up to ``step`` whose update was skipped."""
    found: list[dict[str, Any]] = []
    for event in run_log.read(run, run_log.EVENTS):
        if event["event"] == "skip":
            found.append({"step": event["step"], "why": event["reason"]})
        elif event["event"] == "start":  # later steps were discarded
            found = [each for each in found if each["step"] <= event["step"]]
    return [each for each in found if each["step"] <= step]


def average(
    run: Path,
    out: Path,
    *,
    last: int = 0,
    best: int = 0,
    steps: Sequence[int] = (),
    data: Path | None = None,
    dtype: str = "float32",
) -> list[int]:
    """Write the mean of several checkpoints as a Hugging Face directory, and return their steps.

    The newest ``last``, the ``best`` by held-out loss and those of ``steps`` are averaged together,
    each once, in float64. They have to exist, to verify, and to have equal configurations.
    """
    chosen = _chosen(run, last, best, steps)
    _write(run, out, chosen, data, dtype)
    return chosen


def _chosen(run: Path, last: int, best: int, steps: Sequence[int]) -> list[int]:
    run_info.read(run)
    existing = state.steps(run)
    losses = {e["step"]: e["loss"] for e in card.evaluations(run)}
    evaluated = sorted((s for s in existing if s in losses), key=lambda step: losses[step])
    for name, wanted, there in (("last", last, existing), ("best", best, evaluated)):
        if wanted > len(there):
            noun = "checkpoint" if name == "last" else "evaluated checkpoint"
            what = f"--{name} {wanted}: the run has only {counted(len(there), noun)}"
            raise InputError(what, str(run))
    for step in steps:
        state.check_exists(run, step)
    chosen = {*existing[:last], *evaluated[:best], *steps}
    if not chosen:
        raise InputError("no checkpoint is chosen", str(run), "use --last, --best or --step")
    return sorted(chosen)


def rewind(run: Path, step: int, changes: Sequence[str] = ()) -> int:
    """Set a run back to a checkpoint, and change keys that match `CHANGEABLE` from there on.

    Later checkpoints are kept in RUN/quarantine. They are moved before anything else is written,
    newest first, so a kill in between leaves the run as it was at some earlier step. An invalid
    change is an error, also if nothing would change. Returns the newest step before.
    """
    run_info.read(run)  # before a lock file is created in a directory that is not a run
    with locked(run / run_info.LOCK) as check:
        info = run_info.read(run)
        target = state.find(run, step)
        target.tensors()
        recipe, changed = _changed_recipe(info, changes, target.progress, run)
        newest = state.steps(run)[0]
        if newest == step and not changed:
            raise InputError(f"the run is at step {step} already, and nothing is set", str(run))
        check()
        state.quarantine_after(run, step, "rewound")
        note = {"step": step, "set": list(changes), "from": newest}
        skips = [skip for skip in info.skips if skip["to"] <= step]
        run_info.write(
            run, replace(info, recipe=recipe, skips=skips, changes=[*info.changes, note])
        )
        with closing(run_log.RunLog(run, step)) as events:
            events.event("rewound", newest, to=step, set=list(changes))
    return newest


def _changed_recipe(
    info: RunInfo, changes: Sequence[str], progress: Progress, run: Path
) -> tuple[dict[str, Any], bool]:
    """Return the recipe with the changes, and whether it differs from the recipe before."""
    if progress.finished:
        raise InputError(f"the run is over at step {progress.step}", str(run), "use a lower step")
    raw = deepcopy(info.recipe)
    for change in changes:
        strict.change(raw, change)
    recipe = strict.build(Recipe, raw, str(run))
    new: dict[str, Any] = strict.plain(recipe)
    found = sorted(differences(info.recipe, new))
    now = progress.cursor.phase
    for difference in found:
        name = difference.partition(" ")[0]
        if not re.fullmatch(CHANGEABLE, name):
            how = "only learning rates, weight decay, masking, tokens of phases, micro_tokens, "
            how += "dtype, workers, timeout, save, evaluate and health can be changed"
            raise InputError(f"{name} cannot be changed in an existing run", str(run), how)
        if name.startswith("phases.") and int(name.split(".")[1]) < now:
            raise InputError(f"{name} is of a phase that is over at step {progress.step}", str(run))
    phase = recipe.phases[now]
    if phase.is_over(progress.cursor.rows):
        what = f"phase {phase.name!r} would be over before step {progress.step}"
        raise InputError(what, str(run), "set more tokens for it, or rewind to an earlier step")
    return new, bool(found)


def export(
    run: Path, out: Path, step: int | None = None, data: Path | None = None, dtype: str = "float32"
) -> Checkpoint:
    """Write a checkpoint's model as a Hugging Face directory, with a model card of the run."""
    return _write(run, out, [step], data, dtype)


def _write(
    run: Path, out: Path, steps: Sequence[int | None], data: Path | None, dtype: str
) -> Checkpoint:
    """Write the mean of checkpoints (None is the newest) as a model, and return the first."""
    info = run_info.read(run)
    check_replaceable(out, "model")
    folder, tokenizer = _dataset(info, data)
    model, found = model_of_run(run, steps[0])
    sums: dict[str, Tensor] = {name: t.double() for name, t in model.state_dict().items()}
    for step in steps[1:]:
        other, _ = model_of_run(run, step)
        if other.model.config != model.model.config:
            what = f"steps {steps[0]} and {step} belong to phases with other lengths or theta"
            raise InputError(what, str(run), "average checkpoints of one phase")
        for name, tensor in other.state_dict().items():
            sums[name] += tensor  # in float64
    model.load_state_dict({name: (s / len(steps)).float() for name, s in sums.items()})
    chosen = [found.progress.step if step is None else step for step in steps]
    checkpoint.save(
        model.to(devices.DTYPES[dtype]), out, tokenizer=tokenizer,
        write_more=lambda fresh: card.write(fresh, run, chosen, folder),
    )  # fmt: skip
    return found


def _dataset(info: RunInfo, data: Path | None) -> tuple[Path, Tokenizer]:
    """Return the dataset that a run was trained on, and its tokenizer."""
    folder = Path(info.data_path) if data is None else data
    how = "set --data to its directory"
    if not (folder / MANIFEST).is_file():
        raise InputError("the run's prepared dataset is missing", str(folder), how)
    if sha256(folder / MANIFEST) != info.data:
        raise InputError("this is not the dataset that the run was trained on", str(folder), how)
    return folder, tokenizers.load(folder)
