"""Before a run begins or goes on: its folder, its recipe and its data are what they should be."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from .. import machine, strict
from ..data.loader import chosen_rows
from ..data.prepared import PreparedDataset
from ..errors import DamagedError, InputError, OutputExistsError
from ..files import locked
from . import cost, run_log, state
from .gradients import threads_beside
from .init_weights import config_of_run, model_of
from .recipe import Recipe, differences, from_json
from .state import Checkpoint, Run

log = logging.getLogger(__name__)

MACHINE = ("device", "cpu", "threads", "python", "versions")  # what a run's bits depend on


def check_data(recipe: Recipe, prepared: PreparedDataset) -> None:
    """Refuse data that a recipe cannot be run on.

    Raises:
        InputError: a row length or a source is missing, or no document is left; what to do.
    """
    for phase in recipe.phases:
        chosen_rows(prepared, phase.choice)


@contextmanager
def own(run: Path) -> Iterator[Callable[[], None]]:
    """Hold the lock of a run's folder, which may be new.

    Yields what fails if the lock is not held any more.

    Raises:
        OutputExistsError: it is not a folder, or holds something else than a run.
        InputError: another process is at it.
    """
    if run.is_symlink() or (run.exists() and not run.is_dir()):
        raise OutputExistsError("the output exists and is not a folder", str(run), "name another")
    if run.exists() and not (run / state.RUN).exists():
        foreign = [p.name for p in run.iterdir() if p.name != state.LOCK]
        if any(not name.startswith(f".{state.RUN}.") for name in foreign):
            raise OutputExistsError(
                f"the output folder holds {sorted(foreign)[0]!r} and is no run",
                str(run),
                "name a new folder",
            )
    home = next(p for p in (run, *run.parents) if p.exists())
    if not os.access(home, os.W_OK | os.X_OK):
        raise InputError("the output cannot be written", str(run), "check rights, or name another")
    with locked(run / state.LOCK) as check:
        yield check


def begin(recipe: Recipe, prepared: PreparedDataset, run: Path, device: torch.device) -> Run:
    """What run.json says, compared with what was asked for; written if the run is new.

    Raises:
        InputError: recipe or data are not those that the run began with, with all differences; or
            memory or disk will not do.
    """
    given = strict.plain(recipe)
    threads = threads_beside(device)
    made_with = machine.describe(threads) | {"device": _name_of(device)}
    if not (run / state.RUN).exists():
        config = model_of(recipe, prepared)
        cost.check(recipe, config, device, threads, run)
        about = Run(
            given=given, recipe=given, config=asdict(config),
            data=prepared.fingerprint, skips=[], changes=[], made_with=made_with,
            data_path=str(prepared.directory.absolute()),
        )  # fmt: skip
        state.write_run(run, about)
        return about
    about = state.read_run(run)
    # Read and written anew, so that a key which a later version has added is no difference.
    before = strict.plain(from_json(about.given, str(run / state.RUN)))
    changed = sorted(differences(before, given))
    if changed:
        raise InputError(
            f"the recipe is not the one that this run began with: {'; '.join(changed[:5])}",
            str(run),
            "give the same, or another --out; motherbird runs rewind changes a run on purpose",
        )
    if about.data != prepared.fingerprint:
        raise InputError(
            "the prepared text is not the one that this run began with",
            str(prepared.directory),
            "give the same folder, or another --out",
        )
    cost.check(recipe, config_of_run(about, run), device, threads, None)
    for key in MACHINE:
        if made_with[key] != about.made_with[key]:
            log.warning(
                "%s: %s when the run began, %s now: it goes on, but not bit for bit",
                key, about.made_with[key], made_with[key],
            )  # fmt: skip
    return about


def _name_of(device: torch.device) -> str:
    """What a run's bits depend on: a card's name, not its place."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def newest(run: Path) -> Checkpoint | None:
    """Where a run goes on, after what a kill left was removed; None where it has not begun.

    Raises:
        DamagedError: it has begun, and no checkpoint verifies.
    """
    state.clean(run)
    found = state.newest(run, quarantine=True)
    damaged = (run / "quarantine").glob("step-*.damaged.*")
    if found is None and (run_log.read(run) or any(damaged)):
        raise DamagedError(
            "the run has no checkpoint left",
            str(run),
            "copy one back from elsewhere, or begin a new run in another folder",
        )
    return found
