"""``motherbird runs``: look at pretraining runs, average their checkpoints, go back in one."""

import time
from dataclasses import asdict
from pathlib import Path

import click

from . import options
from .output import human, print_json

run_argument = click.argument("run", metavar="RUN")
out_option = click.option(
    "--out", required=True, metavar="DIR", help="Where it goes; a folder of its own."
)
data_option = click.option(
    "--data",
    metavar="DIR",
    help="The prepared text, if it is no longer where the run found it.",
)


@click.group(name="runs")
def command() -> None:
    """Show, report, average or rewind pretraining runs."""


@command.command(name="list")
@click.argument("folder", metavar="FOLDER", default=".")
@options.as_json
def list_(folder: str, json_: bool) -> None:
    """List the runs directly below FOLDER (the current one if not given); nothing is verified.

    With --json: [{"run", "step", "steps", "phase", "tokens", "loss", "finished", "working",
    "written", "problem"}]; "written" is in seconds since 1970, "working" says whether a process
    is at it now.
    """
    from ..train import runs

    found = runs.listed(Path(folder))
    if json_:
        print_json([asdict(summary) for summary in found])
        return
    if not found:
        click.echo(f"no runs in {folder}")
    for summary in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(summary.written))
        if summary.problem is not None:
            click.echo(f"{summary.run}: {summary.problem}")
            continue
        step = "nothing saved" if summary.step is None else f"step {summary.step:,}"
        loss = "" if summary.loss is None else f", loss {summary.loss:.4f}"
        now = "finished" if summary.finished else "working" if summary.working else "stopped"
        click.echo(
            f"{summary.run}: {step} of {summary.steps:,} ({summary.phase}), "
            f"{human(summary.tokens)} tokens{loss}, {now}, {when}"
        )


@command.command(name="show")
@run_argument
@options.as_json
def show(run: str, json_: bool) -> None:
    """Verify the newest checkpoint of RUN, and say where the run stands.

    With --json: {"run", "step", "steps", "tokens", "masked", "loss", "phase", "finished",
    "sha256", "evaluation", "checkpoints", "noted", "skips", "changes", "data", "world"};
    "evaluation" is null before the first, then {"step", "phase", "loss", "accuracy", "masked"};
    "noted" [{"step", "event", "why"}] of skipped steps and plateaus; equal runs have equal
    "sha256".
    """
    from ..train import runs

    found = runs.show(Path(run))
    if json_:
        print_json(found)
        return
    over = ", finished" if found["finished"] else ""
    click.echo(f"{run}: step {found['step']:,} of {found['steps']:,}, {found['phase']}{over}")
    loss = "none" if found["loss"] is None else f"{found['loss']:.4f}"
    click.echo(f"  tokens       {found['tokens']:,}, of which {found['masked']:,} were predicted")
    click.echo(f"  loss         {loss}")
    if (held := found["evaluation"]) is not None:
        click.echo(
            f"  held out     loss {held['loss']:.4f}, accuracy {held['accuracy']:.2%} "
            f"at step {held['step']:,}"
        )
    click.echo(f"  checkpoints  {', '.join(map(str, found['checkpoints']))}")
    click.echo(f"  sha256       {found['sha256']}")
    for each in found["noted"]:
        click.echo(f"  {each['event']:<12} at step {each['step']:,}: {each['why']}")
    for skip in found["skips"]:
        click.echo(
            f"  rolled back  at step {skip['step']:,} to {skip['to']:,}, leaving out "
            f"{skip['batches']:,} batches: {skip['why']}"
        )
    for change in found["changes"]:
        what = ", ".join(change["set"]) or "nothing"
        click.echo(f"  rewound      from {change['from']:,} to {change['step']:,}, set: {what}")


@command.command(name="average")
@run_argument
@click.option(
    "--last", default=0, metavar="N", type=click.IntRange(0), help="The newest N checkpoints."
)
@click.option(
    "--best",
    default=0,
    metavar="N",
    type=click.IntRange(0),
    help="The N with the lowest loss on held-out rows.",
)
@click.option(
    "--step", "steps", multiple=True, metavar="N", type=int, help="That of a step; repeatable."
)
@options.stored
@out_option
@data_option
@options.as_json
def average(
    run: str,
    last: int,
    best: int,
    steps: tuple[int, ...],
    dtype: str,
    out: str,
    data: str | None,
    json_: bool,
) -> None:
    """Write the mean of some checkpoints' weights in RUN as a model's folder.

    What --last, --best and --step name is averaged together, each checkpoint once. An earlier
    model of motherbird at --out is replaced.

    With --json: {"run", "steps", "out"}.
    """
    path = options.output(out, [run])
    from ..train import runs

    averaged = runs.average(
        Path(run),
        path,
        last=last,
        best=best,
        steps=steps,
        data=None if data is None else Path(data),
        dtype=dtype,
    )
    if json_:
        print_json({"run": run, "steps": averaged, "out": out})
        return
    click.echo(f"{out}: the mean of steps {', '.join(map(str, averaged))}")


@command.command(name="rewind")
@run_argument
@click.option(
    "--to-step", "step", required=True, metavar="N", type=int, help="A step with a checkpoint."
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="a.b=c",
    help="Change the recipe from there on, such as train.lr=1e-4; repeatable.",
)
@options.as_json
def rewind(run: str, step: int, changes: tuple[str, ...], json_: bool) -> None:
    """Let RUN stand at an earlier step again; `motherbird pretrain` then goes on from there.

    May be set: rates, weight decay, masking and tokens of phases that are not over, save, evaluate
    and health. Later checkpoints are kept in RUN/quarantine, and what was done in run.json.

    With --json: {"run", "step", "from", "set"}.
    """
    from ..train import runs

    before = runs.rewind(Path(run), step, changes)
    if json_:
        print_json({"run": run, "step": step, "from": before, "set": list(changes)})
        return
    what = f", with {', '.join(changes)}" if changes else ""
    click.echo(f"{run}: back from step {before:,} to step {step:,}{what}")


@command.command(name="report")
@run_argument
@click.option("--out", metavar="FILE", help="Where it goes; RUN/report.html if not set.")
@options.as_json
def report(run: str, out: str | None, json_: bool) -> None:
    """Write a page about RUN: curves, stops, recipe, machine, evaluation; one file, no scripts.

    With --json: {"run", "out"}.
    """
    path = Path(run) / "report.html" if out is None else options.output(out, [])
    from ..train import report as reports

    reports.report(Path(run), path)
    if json_:
        print_json({"run": run, "out": str(path)})
        return
    click.echo(str(path))
