"""``motherbird pretrain``."""

import re
import signal
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from . import options
from .output import human, is_terminal, print_json, progress

if TYPE_CHECKING:
    from ..train.process import Outcome
    from ..train.step import Stepper, StepReport

SHOW_EVERY = 10.0  # seconds between lines where there is no terminal
ROOFLINE_SECONDS = 0.05  # to measure each implementation of the matrix product
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _limit(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """Parse '200' (steps) or '90s', '9m', '2h' (time) to (steps, seconds)."""
    if value is None:
        return None, None
    found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)([smhd])", value.strip())
    if not found or float(found[1] or found[2]) <= 0:
        raise click.BadParameter(
            "use a number of steps, such as 200, or a time, such as 90s, 9m or 2h"
        )
    return (int(found[1]), None) if found[1] else (None, float(found[2]) * SECONDS[found[3]])


@click.command(name="pretrain")
@click.argument("recipe", metavar="RECIPE")
@click.option("--data", required=True, metavar="DIR", help="A dataset from motherbird prepare.")
@click.option("--out", metavar="RUN", help="Directory of the run; an existing run is resumed.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE",
              help="Change a key of the recipe, such as train.lr=1e-3; repeatable.")  # fmt: skip
@click.option("--steps", type=click.IntRange(1), metavar="N",
              help="Scale every phase so that the run has N steps.")  # fmt: skip
@click.option("--stop-after", "limit", callback=_limit, metavar="N|TIME",
              help="Save and stop after N steps, or after 90s, 9m, 2h.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only estimate memory, tokens and time.")
@click.option("--tensorboard", is_flag=True, help="Also write RUN/tensorboard.")
@options.device
@options.threads
@options.as_json
def command(
    recipe: str,
    data: str,
    out: str | None,
    changes: tuple[str, ...],
    steps: int | None,
    limit: tuple[int | None, float | None],
    dry_run: bool,
    tensorboard: bool,
    device: str,
    json_: bool,
) -> None:
    """Pretrain an encoder with masked language modeling, as defined by the TOML file RECIPE.

    \b
    motherbird prepare TEXT --tokenizer DIR --seq-len 256,1024 --eval 0.05 --out dataset
    motherbird pretrain recipes/smoke.toml --data dataset --out run

    The same command resumes a run that was stopped or killed; the result is bit-identical to that
    of a run without stops. After SIGTERM or Ctrl-C the current step finishes, a checkpoint is
    saved, and the exit code is 143 or 130. On several GPUs or machines: torchrun --nproc-per-node 8
    -m motherbird pretrain ... --device cuda.

    With --json: {"run", "step", "steps", "tokens", "masked", "loss", "phase", "finished", "sha256",
    "seconds"}; the hash is that of weights and optimizer state. With --dry-run: {"steps", "tokens",
    "parameters", "phases": [{"name", "steps", "tokens", "seq_len", "rows", "epochs",
    "tokens_per_s", "hours"}], "memory": {"state", "gradients", "activations", "total"},
    "checkpoint", "hours", "device", "threads"}.
    """  # noqa: D301
    from ..train import recipe as recipes

    read = recipes.load(recipe, changes, steps)
    if dry_run:
        _dry_run(read, Path(data), device, json_)
        return
    if out is None:
        raise click.UsageError("Missing option '--out', the directory of the run.")
    run = options.output(out, [data])
    from ..errors import require_extra
    from ..train.pretrain import pretrain

    if tensorboard:
        require_extra("tensorboard", "train")
    began = time.perf_counter()
    quiet = json_ or not options.is_main_process()  # one progress bar for all ranks
    with (
        progress("", total=1.0, quiet=quiet) as update,
        closing(_Display(run if tensorboard else None, json_, update)) as display,
    ):
        outcome = pretrain(
            read, Path(data), run, device=device, max_steps=limit[0], max_seconds=limit[1],
            on_start=display.start, on_step=display.step, on_event=display.event,
        )  # fmt: skip
    if options.is_main_process():
        _finish(run, outcome, time.perf_counter() - began if json_ else None)


def _finish(run: Path, outcome: "Outcome", seconds: float | None) -> None:
    """Print the result, as JSON if ``seconds`` is given; raise StoppedError after a signal."""
    from ..errors import StoppedError

    state, how = outcome.progress, "the same command resumes"
    if outcome.signal is not None:
        what = f"stopped by {signal.Signals(outcome.signal).name}, saved at step {state.step}"
        raise StoppedError(what, str(run), how, outcome.signal)
    if seconds is not None:
        from ..train import runs

        shown = runs.show(run)
        keys = ("run", "step", "steps", "tokens", "masked", "loss", "phase", "finished", "sha256")
        print_json({**{key: shown[key] for key in keys}, "seconds": round(seconds, 1)})
        return
    loss = "" if state.loss is None else f", loss {state.loss:.3f}"
    end = "finished" if state.finished else how
    click.echo(f"{run}: step {state.step:,}, {human(state.tokens)} tokens{loss}; {end}")


def _dry_run(recipe: Any, data: Path, device: str, json_: bool) -> None:
    from ..train.cost import estimate

    found = estimate(recipe, data, device)
    if json_:
        print_json(found)
        return
    click.echo(
        f"{found['parameters']:,} parameters, {found['steps']:,} steps, "
        f"{human(found['tokens'])} tokens, about {_duration(found['hours'] * 3600)} "
        f"on {found['device']} with {found['threads']} threads"
    )
    for phase in found["phases"]:
        click.echo(
            f"  {phase['name']}: {phase['steps']:,} steps of {phase['rows']:,} x "
            f"{phase['seq_len']:,}, {human(phase['tokens'])} tokens ({phase['epochs']:.3g} "
            f"epochs), {phase['tokens_per_s']:,.0f} tokens/s, {_duration(phase['hours'] * 3600)}"
        )
    sizes = {name: human(size, "B") for name, size in found["memory"].items()}
    total = sizes.pop("total")
    parts = ", ".join(f"{name} {size}" for name, size in sizes.items())
    click.echo(f"memory about {total}: {parts}; a checkpoint {human(found['checkpoint'], 'B')}")


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.0f} s"


class _Display:
    """Shows the steps of a run: a progress bar on a terminal, else a line every few seconds."""

    def __init__(self, tensorboard: Path | None, quiet: bool, update: Any) -> None:
        self.tensorboard, self.quiet, self.update = tensorboard, quiet, update
        self.recent: list[StepReport] = []
        self.roofline: float | None = None
        self.shown = -SHOW_EVERY
        self.writer: Any = None

    def close(self) -> None:
        """Close TensorBoard's files."""
        if self.writer is not None:
            self.writer.close()

    def start(self, stepper: "Stepper[Any]", steps: int) -> None:
        """Remember what the run computes with, and its number of steps."""
        self.stepper, self.steps = stepper, steps

    def step(self, report: "StepReport") -> None:
        """Show a step."""
        now = time.perf_counter()
        self.recent = [r for r in self.recent if r.started > now - 60] + [report]
        if self.tensorboard is not None:
            self._write(self.tensorboard, report)
        if self.quiet:
            return
        if is_terminal():
            self.update(completed=report.number / self.steps, text=self.text())
        elif now - self.shown >= SHOW_EVERY:
            self.shown = now
            click.echo(self.text(), err=True)

    def event(self, text: str) -> None:
        """Show anything unusual."""
        if not self.quiet:
            click.echo(text, err=True)

    def text(self) -> str:
        """Return a line with the means of the last minute: "step 10/200 stable  loss 3.21 ..."."""
        count, last = len(self.recent), self.recent[-1]
        seconds = sum(r.seconds for r in self.recent)
        parts = [
            f"step {last.number:,}/{self.steps:,} {last.phase}",
            f"loss {sum(r.loss for r in self.recent) / count:.3f}",
            f"lr {last.lr:.2g}",
            f"{sum(r.tokens for r in self.recent) / seconds:,.0f} tokens/s",
            f"data {sum(r.wait for r in self.recent) / seconds:.1%}",
            f"save {sum(r.save for r in self.recent) / seconds:.1%}",
            human(_memory(), "B"),
            f"{_duration((self.steps - last.number) * seconds / count)} left",
        ]
        if (utilization := self._utilization(last)) is not None:
            parts.insert(4, f"{utilization:.0%} of roofline")
        if last.evaluation is not None:
            loss, accuracy = last.evaluation["loss"], last.evaluation["accuracy"]
            parts.append(f"held out {loss:.3f}, {accuracy:.1%}")
        return "  ".join(parts)

    def _utilization(self, report: "StepReport") -> float | None:
        """Return the fraction of the roofline; None on a GPU, or if the matmuls are too short."""
        from ..core import flops
        from ..nn import roofline
        from ..nn.heads import MaskedLM

        stepper = self.stepper
        dtype = str(stepper.dtype).removeprefix("torch.")
        if stepper.distributed.device.type != "cpu" or dtype == "float16":
            return None
        config = cast(MaskedLM, stepper.objective.model).model.config
        if self.roofline is None:
            found = roofline.rooflines(config, stepper.threads.count, ROOFLINE_SECONDS, [dtype])
            self.roofline = found[dtype] or 0.0
        if not self.roofline:
            return None
        head = flops.head_flops(config, report.weight // stepper.distributed.world_size)
        total = 3 * (flops.flops(config, report.lengths) + head)
        fraction = total / report.seconds / self.roofline / 1e12
        return fraction if fraction <= 1 else None  # those of tiny models cannot be timed

    def _write(self, run: Path, report: "StepReport") -> None:
        """Write the figures of a step for TensorBoard."""
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(run / "tensorboard"))
        figures: dict[str, float | None] = {
            "train/loss": report.loss, "train/lr": report.lr, "train/norm": report.norm,
            "speed/tokens_per_s": report.tokens / report.seconds,
            "speed/data_wait": report.wait / report.seconds,
        }  # fmt: skip
        if report.evaluation is not None:
            figures["held_out/loss"] = report.evaluation["loss"]
            figures["held_out/accuracy"] = report.evaluation["accuracy"]
        for name, value in figures.items():
            self.writer.add_scalar(name, value, report.number)


def _memory() -> float:
    """Return the memory of this process in bytes, on the GPU if it computes there."""
    import numpy  # noqa: F401 - before torch, which drops an exception of a signal there
    import torch

    if torch.cuda.is_available() and torch.cuda.memory_reserved():
        return torch.cuda.memory_reserved()
    from .. import machine

    return machine.own_memory_mb("VmRSS") * 1e6
