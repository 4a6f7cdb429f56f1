"""Back to an earlier checkpoint, past what went wrong (paper: PaLM, section 5.1).

The stretch of the data that is left out is written into run.json before anything goes on, so that
every later process of the run leaves it out too, and does the same, bit for bit.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import DivergedError
from . import run_log, state
from .health import Judgement, too_many
from .recipe import Recipe
from .state import Progress


def roll_back(run: Path, recipe: Recipe, judgement: Judgement, progress: Progress) -> str:
    """Write down what is skipped, and set aside the checkpoints behind it.

    Args:
        run: whose lock is held, and in which nothing is being saved.
        recipe: of the run.
        judgement: what went wrong, and since when.
        progress: where the run stands.

    Returns:
        What was done, in words.

    Raises:
        DivergedError: it happened too often, or there is no checkpoint before it.
    """
    limits = recipe.health
    about = state.read_run(run)
    before = [int(skip["step"]) for skip in about.skips]
    if too_many(before, progress.step, limits):
        raise DivergedError(
            f"the run rolled back {len(before)} times and went wrong again at step "
            f"{progress.step} ({judgement.reason})",
            str(run),
            f"lower the rate: motherbird runs rewind {run} --to-step STEP --set "
            f"{recipe.key_of('lr', progress.cursor.phase)}=...",
        )
    target = state.newest(run, before=judgement.onset - limits.back)
    if target is None:  # the run is younger than that, or its older checkpoints are gone
        left = [step for step in state.steps(run) if step < judgement.onset]
        target = state.newest(run, before=left[-1]) if left else None
    if target is None:
        raise DivergedError(
            f"{judgement.reason}, and there is no checkpoint before it",
            str(run),
            "lower the rate, or save more often (save.every, save.keep)",
        )
    skip = _skip(run, recipe, judgement, progress, target.progress)
    # First the checkpoints: a kill in between leaves a run that goes wrong, and back, once more.
    state.quarantine_after(run, target.progress.step, "rolled-back")
    state.write_run(run, replace(about, skips=[*about.skips, skip]))
    return (
        f"back from step {progress.step} to {target.progress.step}, leaving out "
        f"{skip['batches']} batches: {judgement.reason}"
    )


def _skip(
    run: Path, recipe: Recipe, judgement: Judgement, progress: Progress, back: Progress
) -> dict[str, Any]:
    """The stretch of a phase's order from shortly before the onset up to now, within limits."""
    limits = recipe.health
    lines = run_log.read(run)
    number, end = progress.cursor.phase, progress.cursor.consumed
    if end == 0 and number > 0:  # with the last step of a phase, the cursor is at the next
        number -= 1
    phase = recipe.phases[number]
    taken = [line for line in lines if line["phase"] == phase.name]
    end = max([end, *(line["consumed"] for line in taken)])
    begin = back.cursor.consumed if back.cursor.phase == number else 0
    first = judgement.onset - limits.back
    begin = max([begin, *(line["consumed"] for line in taken if line["step"] <= first)])
    size = phase.batch.at(max(0, begin - progress.cursor.skipped), phase.seq_len)
    behind = -(-(end - begin) // size)
    batches = min(limits.skip_most, max(limits.skip_least, behind))
    return {
        "phase": number, "first": begin, "last": begin + batches * size, "batches": batches,
        "step": progress.step, "to": back.step, "why": judgement.reason,
    }  # fmt: skip
