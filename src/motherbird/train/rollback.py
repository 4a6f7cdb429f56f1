"""Roll a run back to an earlier checkpoint, and skip the data that made it diverge.

This is the remedy of PaLM, section 5.1. The skipped range of the data is written to run.json before
training continues, so that every later process of the run skips it too.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DivergedError, counted
from . import run_info, run_log, state
from .health import Verdict, too_many_rollbacks
from .recipe import Recipe
from .state import Progress


def roll_back(run: Path, recipe: Recipe, verdict: Verdict, progress: Progress) -> str:
    """Record what is skipped, move later checkpoints to quarantine, and return a description.

    Raises:
        DivergedError: the run was rolled back too often, or there is no checkpoint to go back to.
    """
    limits = recipe.health
    info = run_info.read(run)
    before = [int(skip["step"]) for skip in info.skips]
    if too_many_rollbacks(before, progress.step, limits):
        raise DivergedError(
            f"the run diverged at step {progress.step} after "
            f"{counted(len(before), 'rollback')} ({verdict.reason})",
            str(run),
            f"lower the learning rate: motherbird runs rewind {run} --to-step STEP --set "
            f"{recipe.key_of('lr', progress.cursor.phase)}=...",
        )
    target = state.newest(run, before=verdict.onset - limits.rollback_steps)
    if target is None:  # the run is too young, or its older checkpoints were deleted
        left = [step for step in state.steps(run) if step < verdict.onset]
        target = state.newest(run, before=left[-1]) if left else None
    if target is None:
        how = "lower the learning rate, or save more often (save.every, save.keep)"
        raise DivergedError(f"{verdict.reason}, and there is no earlier checkpoint", str(run), how)
    skip = _skipped_range(run, recipe, verdict, progress, target.progress)
    # Checkpoints first: after a kill in between, the run diverges and is rolled back again.
    state.quarantine_after(run, target.progress.step, "rolled-back")
    run_info.write(run, replace(info, skips=[*info.skips, skip]))
    return (
        f"back from step {progress.step} to {target.progress.step}, skipping "
        f"{counted(skip['batches'], 'batch', 'batches')}: {verdict.reason}"
    )


def _skipped_range(
    run: Path, recipe: Recipe, verdict: Verdict, progress: Progress, target: Progress
) -> dict[str, Any]:
    """Return the rows from shortly before the onset until now, limited by the recipe."""
    limits = recipe.health
    number, end = progress.phase, progress.cursor.consumed
    phase = recipe.phases[number]
    lines = [line for line in run_log.read(run) if line["phase"] == phase.name]
    end = max([end, *(line["consumed"] for line in lines)])
    begin = target.cursor.consumed if target.cursor.phase == number else 0
    first = verdict.onset - limits.rollback_steps
    begin = max([begin, *(line["consumed"] for line in lines if line["step"] <= first)])
    size = phase.batch_size.at(max(0, begin - progress.cursor.skipped), phase.seq_len)
    batches = min(limits.max_skip, max(limits.min_skip, -(-(end - begin) // size)))
    return {
        "phase": number, "first": begin, "last": begin + batches * size, "batches": batches,
        "step": progress.step, "to": target.step, "why": verdict.reason,
    }  # fmt: skip
