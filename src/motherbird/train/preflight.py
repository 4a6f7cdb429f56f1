"""Checks before a run starts or resumes: its directory, its recipe and its data."""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

import torch

from .. import machine, strict
from ..data.loader import chosen_rows
from ..data.prepared import PreparedDataset
from ..disk import locked
from ..errors import DamagedError, InputError, OutputExistsError
from . import cost, run_info, run_log, state
from .distributed import Distributed
from .init_weights import initial_config
from .recipe import Recipe, differences
from .run_info import RunInfo
from .state import Checkpoint
from .threads import executor_for

log = logging.getLogger(__name__)

MACHINE = ("device", "cpu", "threads", "python", "versions")  # results depend on these, bit for bit


def lock_run(run: Path) -> AbstractContextManager[Callable[[], None]]:
    """Lock a run's directory, which may be new; the context is a function that verifies it.

    Raises:
        OutputExistsError: it is not a directory, or contains something other than a run.
        InputError: another process is using it, or it cannot be written.
    """
    how = "choose another directory"
    if run.is_symlink() or (run.exists() and not run.is_dir()):
        raise OutputExistsError("the output exists and is not a directory", str(run), how)
    if run.exists() and not (run / run_info.FILE).exists():
        foreign = [p.name for p in run.iterdir() if p.name != run_info.LOCK]
        if any(not name.startswith(f".{run_info.FILE}.") for name in foreign):
            what = f"the output directory contains {sorted(foreign)[0]!r} and is not a run"
            raise OutputExistsError(what, str(run), how)
    home = next(p for p in (run, *run.parents) if p.exists())
    if not os.access(home, os.W_OK | os.X_OK):
        raise InputError("the output cannot be written", str(run), f"check permissions, or {how}")
    return locked(run / run_info.LOCK)


def open_dataset(data: Path, recipe: Recipe, distributed: Distributed) -> PreparedDataset:
    """Open a run's dataset, verified by the first rank of each machine, with the rows it needs.

    Raise InputError if a phase has no rows.
    """
    prepared = PreparedDataset(data, verify=distributed.is_main or distributed.local_rank == 0)
    prepared.check_lengths([phase.seq_len for phase in recipe.phases])
    for phase in recipe.phases:
        chosen_rows(prepared, phase.row_filter)
    return prepared


def begin(recipe: Recipe, prepared: PreparedDataset, run: Path, device: torch.device) -> RunInfo:
    """Write run.json of a new run, or compare that of an existing run with recipe and data."""
    given = strict.plain(recipe)
    threads = executor_for(device).count
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    made_with = machine.describe(threads) | {"device": device_name}
    if not (run / run_info.FILE).exists():
        config = initial_config(recipe, prepared)
        cost.check(recipe, config, device, threads, run)
        info = RunInfo(
            given=given, recipe=given, config=asdict(config),
            data=prepared.fingerprint, skips=[], changes=[], made_with=made_with,
            data_path=str(prepared.directory.absolute()),
        )  # fmt: skip
        run_info.write(run, info)
        return info
    info = run_info.read(run)
    # Parsed and written again, so that a key added by a later version is not a difference.
    before = strict.plain(strict.build(Recipe, info.given, str(run / run_info.FILE)))
    changed = sorted(differences(before, given))
    if changed:
        how = "use the run's recipe, another directory, or motherbird runs rewind to change the run"
        what = f"the recipe differs from the run's: {'; '.join(changed[:5])}"
        raise InputError(what, str(run), how)
    if info.data != prepared.fingerprint:
        what = "the prepared dataset is not the run's"
        raise InputError(
            what, str(prepared.directory), "use the run's dataset, or another directory"
        )
    cost.check(recipe, info.parsed_config(run), device, threads, None)
    for key in MACHINE:
        if made_with[key] != info.made_with[key]:
            log.warning(
                "%s: %s when the run began, %s now; the run resumes, but not bit for bit",
                key, info.made_with[key], made_with[key],
            )  # fmt: skip
    return info


def newest(run: Path) -> Checkpoint | None:
    """Remove files of killed writes, and return the newest checkpoint; None for a new run."""
    state.clean(run)
    found = state.newest(run, quarantine=True)
    damaged = (run / "quarantine").glob("step-*.damaged.*")
    if found is None and (run_log.read(run) or any(damaged)):
        raise DamagedError("the run has no checkpoint left", str(run), state.RESTORE)
    return found
