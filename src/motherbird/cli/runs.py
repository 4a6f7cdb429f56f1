"""``motherbird runs``: list and show pretraining runs, average their checkpoints, rewind them."""

import time
from pathlib import Path

import click

from . import options
from .output import human, print_json, print_result

run_argument = click.argument("run", metavar="RUN")
out_option = click.option("--out", required=True, metavar="DIR", help="Output directory.")
data_option = click.option("--data", type=click.Path(path_type=Path), metavar="DIR",
                           help="Directory of the run's dataset, if it was moved.")  # fmt: skip


@click.group(name="runs")
def command() -> None:
    """List, show, report, average or rewind pretraining runs."""


@command.command(name="list", short_help="List the runs in a directory.")
@click.argument("folder", metavar="[DIR]", default=".")
@options.as_json
def list_(folder: str, json_: bool) -> None:
    """List the runs directly below DIR (default: the current directory), without verifying them.

    With --json: [{"run", "step", "steps", "phase", "tokens", "loss", "finished", "running",
    "written", "problem"}]; "written" is in seconds since 1970, "running" says whether a process
    is training the run now.
    """
    from ..train import runs

    found = runs.list_runs(Path(folder))
    if json_:
        print_json(found)
        return
    if not found:
        click.echo(f"no runs in {folder}")
    for run in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(run["written"]))
        if run["problem"] is not None:
            click.echo(f"{run['run']}: {run['problem']}")
            continue
        step = "no checkpoint" if run["step"] is None else f"step {run['step']:,}"
        loss = "" if run["loss"] is None else f", loss {run['loss']:.4f}"
        now = "finished" if run["finished"] else "running" if run["running"] else "stopped"
        click.echo(
            f"{run['run']}: {step} of {run['steps']:,} ({run['phase']}), "
            f"{human(run['tokens'])} tokens{loss}, {now}, {when}"
        )


@command.command(name="show", short_help="Verify and describe a run.")
@run_argument
@options.as_json
def show(run: str, json_: bool) -> None:
    """Verify the newest checkpoint of RUN, and describe the run.

    With --json: {"run", "step", "steps", "tokens", "masked", "loss", "phase", "finished",
    "sha256", "evaluation", "checkpoints", "skipped_steps": [{"step", "why"}], "skips", "changes",
    "data", "world_size", "seconds"}; "evaluation" is null before the first, then {"step", "phase",
    "loss", "accuracy", "masked"}; "seconds" are those of its steps; identical runs have the same
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
    rows = [("tokens", f"{found['tokens']:,}, of which {found['masked']:,} were masked"),
            ("loss", loss)]  # fmt: skip
    if (held := found["evaluation"]) is not None:
        scores = f"loss {held['loss']:.4f}, accuracy {held['accuracy']:.2%}"
        rows.append(("held out", f"{scores} at step {held['step']:,}"))
    rows.append(("steps took", f"{found['seconds'] / 60:,.1f} minutes"))
    rows += [("checkpoints", ", ".join(map(str, found["checkpoints"])))]
    rows += [("sha256", found["sha256"])]
    rows += [("skip", f"at step {n['step']:,}: {n['why']}") for n in found["skipped_steps"]]
    for skip in found["skips"]:
        skipped = f"skipping {skip['batches']:,} batches: {skip['why']}"
        rows.append(("rolled back", f"at step {skip['step']:,} to {skip['to']:,}, {skipped}"))
    for change in found["changes"]:
        what = ", ".join(change["set"]) or "nothing"
        rows.append(("rewound", f"from {change['from']:,} to {change['step']:,}, set: {what}"))
    for name, text in rows:
        click.echo(f"  {name:<12} {text}")


@command.command(name="average", short_help="Write the mean of several checkpoints as a model.")
@run_argument
@click.option("--last", default=0, metavar="N", type=click.IntRange(0),
              help="The newest N checkpoints.")  # fmt: skip
@click.option("--best", default=0, metavar="N", type=click.IntRange(0),
              help="The N with the lowest held-out loss.")  # fmt: skip
@click.option("--step", "steps", multiple=True, metavar="N", type=int,
              help="The checkpoint of a step; repeatable.")  # fmt: skip
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
    data: Path | None,
    json_: bool,
) -> None:
    """Write the mean of several checkpoints' weights in RUN as a model directory.

    The checkpoints chosen by --last, --best and --step are averaged together, each once. An --out
    that motherbird wrote is replaced.

    With --json: {"run", "steps", "out"}.
    """
    path = options.output_directory(out, [run])
    from ..train import runs

    averaged = runs.average(
        Path(run), path, last=last, best=best, steps=steps,
        data=data, dtype=dtype,
    )  # fmt: skip
    text = f"{out}: the mean of steps {', '.join(map(str, averaged))}"
    print_result({"run": run, "steps": averaged, "out": out}, text, json_)


@command.command(name="rewind", short_help="Set a run back to an earlier checkpoint.")
@run_argument
@click.option("--to-step", "step", required=True, metavar="N", type=int,
              help="The step of a checkpoint.")  # fmt: skip
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE",
              help="Change a key of the recipe, such as train.lr=1e-4; repeatable.")  # fmt: skip
@options.as_json
def rewind(run: str, step: int, changes: tuple[str, ...], json_: bool) -> None:
    """Set RUN back to an earlier checkpoint; `motherbird pretrain` then resumes from there.

    --set can change learning rates, weight decay, masking, micro_tokens and tokens of phases that
    have not ended; train.dtype, train.workers and train.timeout; and the tables save, evaluate and
    health. Later checkpoints are kept in RUN/quarantine.

    With --json: {"run", "step", "from", "set"}.
    """
    from ..train import runs

    before = runs.rewind(Path(run), step, changes)
    text = f"{run}: back from step {before:,} to step {step:,}"
    text += f", with {', '.join(changes)}" if changes else ""
    print_result({"run": run, "step": step, "from": before, "set": list(changes)}, text, json_)


@command.command(name="report", short_help="Write an HTML report of a run.")
@run_argument
@click.option("--out", metavar="FILE", help="The HTML file (default: RUN/report.html).")
@options.as_json
def report(run: str, out: str | None, json_: bool) -> None:
    """Write an HTML report of RUN: curves, stops, recipe, machine and evaluation, in one file.

    With --json: {"run", "out"}.
    """
    given = None if out is None else options.output_file(out, [], "--out", ".html")
    path = given or Path(run) / "report.html"
    from ..train import report as reports

    reports.report(Path(run), path)
    print_result({"run": run, "out": str(path)}, str(path), json_)
