"""Runs on disk: list them, look at one, average, rewind and export its checkpoints."""

import os
import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import strict
from ..core import tokenizer as tokenizers
from ..core.tokenizer import Tokenizer
from ..errors import InputError, MotherbirdError
from ..files import MANIFEST, check_replaceable, locked, read_json, sha256
from ..nn import checkpoint, devices
from ..nn.heads import MaskedLM
from . import card, run_log, state
from .init_weights import of_run, phase_of
from .recipe import Recipe, differences, from_json
from .state import Checkpoint, Progress, Run

# What may change in the middle of a run: nothing that the loader's cursor or the weights depend on.
CHANGEABLE = (
    r"train\.(lr|weight_decay|masking|micro_tokens|dtype|workers|timeout)"
    r"|phases\.\d+\.(tokens|lr|warm_up|decay|final|weight_decay|masking|micro_tokens)"
    r"|(save|evaluate|health)\.\w+"
)


@dataclass(frozen=True)
class Summary:
    """A run at a glance; nothing of it was verified.

    Attributes:
        run: its folder.
        step: of the newest checkpoint; None where there is none yet.
        steps: planned.
        phase: name of the one that was trained last.
        tokens: trained on.
        loss: of the last step.
        finished: whether it is over.
        working: whether a process is at it now.
        written: when something was last written, in seconds since 1970.
        problem: why it cannot be read, or None.
    """

    run: str
    step: int | None = None
    steps: int = 0
    phase: str = ""
    tokens: int = 0
    loss: float | None = None
    finished: bool = False
    working: bool = False
    written: float = 0.0
    problem: str | None = None


def listed(folder: Path) -> list[Summary]:
    """The runs directly below a folder, by name; or the folder itself, if it is one.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError("no such folder", str(folder))
    if (folder / state.RUN).is_file():
        return [_summary(folder)]
    return [_summary(p) for p in sorted(folder.iterdir()) if (p / state.RUN).is_file()]


def _summary(run: Path) -> Summary:
    found = Summary(str(run), working=is_busy(run), written=_written(run))
    try:
        recipe = _recipe(state.read_run(run), run)
        found = replace(found, steps=recipe.steps(), phase=recipe.phases[0].name)
        have = state.steps(run)
        if not have:
            return found
        path = state.folder(run, have[0]) / state.PROGRESS
        progress = strict.build(Progress, read_json(path), str(path))
    except MotherbirdError as error:
        return replace(found, problem=str(error))
    return replace(
        found,
        step=progress.step,
        phase=recipe.phases[phase_of(progress)].name,
        tokens=progress.tokens,
        loss=progress.loss,
        finished=progress.finished,
    )


def _written(run: Path) -> float:
    names = (state.RUN, run_log.LOG, run_log.EVENTS, "checkpoints")
    return max((run / name).stat().st_mtime for name in names if (run / name).exists())


def is_busy(run: Path) -> bool:
    """Whether a process holds the run's lock at this moment; nothing is written."""
    lock = run / state.LOCK
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
    """Where a run stands, by its newest checkpoint, which is verified.

    Raises:
        InputError: it is no run, or has saved nothing yet.
        DamagedError: no checkpoint verifies.
    """
    about = state.read_run(run)
    found = state.newest(run)
    if found is None:
        raise InputError("the run has saved nothing yet", str(run))
    recipe, progress = _recipe(about, run), found.progress
    evaluated = [s for s in card.evaluations(run) if s["step"] <= progress.step]
    return {
        "run": str(run),
        "step": progress.step,
        "steps": recipe.steps(),
        "tokens": progress.tokens,
        "masked": progress.masked,
        "loss": progress.loss,
        "phase": recipe.phases[phase_of(progress)].name,
        "finished": progress.finished,
        "sha256": found.sha256,
        "evaluation": evaluated[-1] if evaluated else None,
        "checkpoints": sorted(state.steps(run)),
        "noted": _noted(run, progress.step),
        "skips": about.skips,
        "changes": about.changes,
        "data": about.data,
        "world": progress.world,
    }


def _noted(run: Path, step: int) -> list[dict[str, Any]]:
    """Steps that were skipped and plateaus, of the way that leads to a step."""
    noted: list[dict[str, Any]] = []
    for event in run_log.read(run, run_log.EVENTS):
        if event["event"] in ("skip", "plateau"):
            noted.append({"step": event["step"], "event": event["event"], "why": event["reason"]})
        elif event["event"] == "start":  # what came later is no longer of the run
            noted = [each for each in noted if each["step"] <= event["step"]]
    return [each for each in noted if each["step"] <= step]


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
    """Write the mean of several checkpoints' weights as a Hugging Face directory.

    Args:
        run: the run's folder.
        out: new, or a model that motherbird wrote.
        last: so many of the newest checkpoints.
        best: so many of those with the lowest loss on held-out rows, evaluated at their very step.
        steps: these; all that are named by any of the three are averaged, each once.
        data: the prepared set, if it is no longer where the run found it.
        dtype: of the written weights, a name of `devices.DTYPES`; the mean is taken in float64.

    Returns:
        The steps that were averaged.

    Raises:
        InputError: there are not so many, none is named, or they are not of one configuration.
        DamagedError: one does not verify.
    """
    about = state.read_run(run)
    chosen = _chosen(run, last, best, steps)
    check_replaceable(out, "model")
    folder, tokenizer = _tokenizer(about, data)
    model, _ = of_run(run, chosen[0])
    sums: dict[str, Tensor] = {name: t.double() for name, t in model.state_dict().items()}
    for step in chosen[1:]:
        other, _ = of_run(run, step)
        if other.model.config != model.model.config:
            raise InputError(
                f"steps {chosen[0]} and {step} are of phases with other lengths or theta",
                str(run),
                "average checkpoints of one phase",
            )
        for name, tensor in other.state_dict().items():
            sums[name] += tensor  # in float64
    model.load_state_dict({name: (s / len(chosen)).float() for name, s in sums.items()})
    _save(model, out, dtype, tokenizer, run, chosen, folder)
    return chosen


def _chosen(run: Path, last: int, best: int, steps: Sequence[int]) -> list[int]:
    have = state.steps(run)
    losses = {s["step"]: s["loss"] for s in card.evaluations(run)}
    evaluated = sorted((s for s in have if s in losses), key=lambda step: losses[step])
    for name, wanted, there, what in (
        ("last", last, have, "are there"),
        ("best", best, evaluated, "were evaluated"),
    ):
        if wanted > len(there):
            raise InputError(f"{name} = {wanted}, and {len(there)} checkpoints {what}", str(run))
    for step in steps:
        _check_there(run, step)
    chosen = {*have[:last], *evaluated[:best], *steps}
    if not chosen:
        raise InputError("no checkpoint is named", str(run), "use --last, --best or --step")
    return sorted(chosen)


def rewind(run: Path, step: int, changes: Sequence[str] = ()) -> int:
    """Let a run stand at an earlier step again, and go on from there with another recipe.

    Later checkpoints are kept in RUN/quarantine. They are moved before anything else is written,
    the newest first: a kill in between leaves the run as it was at some earlier step.

    Args:
        run: the run's folder; no process may be at it.
        step: of a checkpoint.
        changes: "a.b=c" each, for what `CHANGEABLE` names; see `strict.load`.

    Returns:
        The step at which the run stood.

    Raises:
        InputError: there is no such checkpoint, a change is impossible, or nothing would change.
        DamagedError: the checkpoint does not verify.
    """
    state.read_run(run)  # before a lock is left in a folder that is no run
    with locked(run / state.LOCK) as check:
        about = state.read_run(run)
        _check_there(run, step)
        target = state.read(state.folder(run, step))
        target.tensors()
        recipe, changed = _changed(about, changes, target.progress, run)
        later = [s for s in state.steps(run) if s > step]
        if not later and not changed:
            raise InputError(f"the run is at step {step} already, and nothing is set", str(run))
        newest = max([step, *later])
        check()
        state.quarantine_after(run, step, "rewound")
        note = {"step": step, "set": list(changes), "from": newest}
        skips = [skip for skip in about.skips if skip["to"] <= step]
        state.write_run(
            run,
            replace(about, recipe=recipe, skips=skips, changes=[*about.changes, note]),
        )
        events = run_log.RunLog(run, step)
        events.event("rewound", newest, to=step, set=list(changes))
        events.close()
    return newest


def _changed(
    about: Run, changes: Sequence[str], progress: Progress, run: Path
) -> tuple[dict[str, Any], list[str]]:
    """The recipe with the changes, and what is other in it than before."""
    if progress.finished:
        raise InputError(f"the run is over at step {progress.step}", str(run), "go further back")
    raw = deepcopy(about.recipe)
    for change in changes:
        strict.change(raw, change)
    recipe = from_json(raw, str(run))
    made: dict[str, Any] = strict.plain(recipe)
    found = sorted(differences(about.recipe, made))
    now = progress.cursor.phase
    for difference in found:
        name = difference.partition(":")[0]
        if not re.fullmatch(CHANGEABLE, name):
            raise InputError(
                f"{name} cannot change within a run",
                str(run),
                "rates, weight decay, masking, tokens of phases, save, evaluate and health can",
            )
        if name.startswith("phases.") and int(name.split(".")[1]) < now:
            raise InputError(f"{name} is of a phase that is over at step {progress.step}", str(run))
    phase = recipe.phases[now]
    if phase.is_over(progress.cursor.rows):
        raise InputError(
            f"phase {phase.name!r} would be over before step {progress.step}",
            str(run),
            "give it more tokens, or go further back",
        )
    return made, found


def export(
    run: Path,
    out: Path,
    step: int | None = None,
    data: Path | None = None,
    dtype: str = "float32",
) -> Checkpoint:
    """Write a step's model as a Hugging Face directory, with a card of what the run recorded.

    Args:
        run: the run's folder.
        out: new, or a model that motherbird wrote.
        step: of a checkpoint; the newest if not given.
        data: the prepared set, if it is no longer where the run found it.
        dtype: of the written weights, a name of `devices.DTYPES`.

    Raises:
        InputError: there is no such step, or the set is not there.
        DamagedError: the checkpoint does not verify.
    """
    about = state.read_run(run)
    check_replaceable(out, "model")
    folder, tokenizer = _tokenizer(about, data)
    model, found = of_run(run, step)
    _save(model, out, dtype, tokenizer, run, [found.progress.step], folder)
    return found


def _save(
    model: MaskedLM,
    out: Path,
    dtype: str,
    tokenizer: Tokenizer,
    run: Path,
    steps: Sequence[int],
    data: Path,
) -> None:
    """A Hugging Face directory with its card."""
    checkpoint.save(
        model.to(devices.DTYPES[dtype]),
        out,
        tokenizer=tokenizer,
        write_more=lambda fresh: card.write(fresh, run, steps, data),
    )


def _tokenizer(about: Run, data: Path | None) -> tuple[Path, Tokenizer]:
    """The set that a run was trained on, and its tokenizer."""
    folder = Path(about.data_path) if data is None else data
    how = "give the set with --data DIR"
    if not (folder / MANIFEST).is_file():
        raise InputError("the prepared text of the run is not there", str(folder), how)
    if sha256(folder / MANIFEST) != about.data:
        raise InputError("not the prepared text that the run was trained on", str(folder), how)
    return folder, tokenizers.load(folder)


def _check_there(run: Path, step: int) -> None:
    have = state.steps(run)
    if step not in have:
        raise InputError(
            f"there is no checkpoint of step {step}",
            str(run),
            f"there are {', '.join(map(str, sorted(have)))}" if have else "",
        )


def _recipe(about: Run, run: Path) -> Recipe:
    return from_json(about.recipe, str(run / state.RUN))
