"""``motherbird pretrain``."""

import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options
from .output import human, is_terminal, print_json, progress

if TYPE_CHECKING:
    from ..train.pretrain import Tick

SHOW_EVERY = 10.0  # seconds between lines where there is no terminal
CEILING_SECONDS = 0.05  # that every way to compute a product is tried
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _part(ctx: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    """'200' steps, or '9m', '90s', '2h' of time: (steps, seconds)."""
    if value is None:
        return None, None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", value.strip())
    if not found or float(found[1]) <= 0 or (not found[2] and "." in found[1]):
        raise click.BadParameter("give steps, such as 200, or time, such as 90s, 9m, 2h")
    if found[2]:
        return None, float(found[1]) * SECONDS[found[2]]
    return int(found[1]), None


@click.command(name="pretrain")
@click.argument("recipe", metavar="RECIPE")
@click.option("--data", required=True, metavar="DIR", help="What motherbird prepare has made.")
@click.option("--out", metavar="RUN", help="The run's folder; given again, the run goes on.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="A.B=C",
    help="Change the recipe: train.lr=1e-3, phases.0.rows=64; several times.",
)
@click.option(
    "--steps",
    type=click.IntRange(1),
    metavar="N",
    help="Length of the whole run, every phase in proportion.",
)
@click.option(
    "--stop-after",
    "part",
    callback=_part,
    metavar="N|TIME",
    help="Save and stop after so many steps, or 90s, 9m, 2h, though the run may not be over.",
)
@click.option("--dry-run", is_flag=True, help="Say what it takes: memory, tokens, time.")
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
    part: tuple[int | None, float | None],
    dry_run: bool,
    tensorboard: bool,
    device: str,
    threads: int | None,
    json_: bool,
) -> None:
    """Pretrain an encoder by masked language modelling, as the TOML file RECIPE says.

    \b
    motherbird prepare TEXT --tokenizer DIR --seq-len 256,1024 --eval 0.05 --out set
    motherbird pretrain recipes/smoke.toml --data set --out run

    The same command goes on with a run that was stopped or killed, bit for bit as if it had not
    been. SIGTERM and Ctrl-C let the step finish, save, and exit with 143 and 130. On several GPUs
    or machines: torchrun --nproc-per-node 8 -m motherbird pretrain ... --device cuda.

    With --json: {"run", "step", "steps", "tokens", "masked", "loss", "phase", "finished", "sha256",
    "seconds"}; the hash is that of weights and optimizer state. With --dry-run: {"steps", "tokens",
    "parameters", "phases": [{"name", "steps", "tokens", "seq_len", "rows", "epochs",
    "tokens_per_s", "hours"}], "memory": {"state", "gradients", "activations", "total"},
    "checkpoint", "hours", "device", "threads"}.
    """  # noqa: D301
    from ..train import recipe as recipes

    options.set_threads(threads)
    read = recipes.load(recipe, changes, steps)
    if dry_run:
        _dry_run(read, Path(data), device, json_)
        return
    if out is None:
        raise click.UsageError("--out is needed, the folder of the run.")
    run = options.output(out, [data])
    from ..errors import StoppedError, require_extra
    from ..train.pretrain import Slice, pretrain

    if tensorboard:
        require_extra("tensorboard", "train")
    began = time.perf_counter()
    with _shown(run if tensorboard else None, read.steps(), quiet=json_) as (on_tick, on_event):
        outcome = pretrain(
            read, Path(data), run, device=device, part=Slice(*part),
            on_tick=on_tick, on_event=on_event,
        )  # fmt: skip
    state = outcome.progress
    if not options.first_rank():
        return
    if outcome.signal is not None:
        raise StoppedError(
            f"stopped by {signal.Signals(outcome.signal).name}, saved at step {state.step}",
            str(run),
            "the same command goes on",
            outcome.signal,
        )
    if json_:
        from ..train import runs

        shown = runs.show(run)
        keys = ("run", "step", "steps", "tokens", "masked", "loss", "phase", "finished", "sha256")
        seconds = round(time.perf_counter() - began, 1)
        print_json({**{key: shown[key] for key in keys}, "seconds": seconds})
        return
    how = "finished" if state.finished else "to be continued by the same command"
    loss = "" if state.loss is None else f", loss {state.loss:.3f}"
    click.echo(f"{run}: step {state.step:,}, {human(state.tokens)} tokens{loss}; {how}")


def _dry_run(recipe: Any, data: Path, device: str, json_: bool) -> None:
    from ..train.cost import plan

    found = plan(recipe, data, device)
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
            f"{phase['seq_len']:,}, {human(phase['tokens'])} tokens ({phase['epochs']:.3g} times "
            f"the data), {phase['tokens_per_s']:,.0f} tokens/s, {_duration(phase['hours'] * 3600)}"
        )
    memory = found["memory"]
    click.echo(
        f"memory about {human(memory['total'], 'B')}: state {human(memory['state'], 'B')}, "
        f"gradients {human(memory['gradients'], 'B')}, activations "
        f"{human(memory['activations'], 'B')}; a checkpoint {human(found['checkpoint'], 'B')}"
    )


def _duration(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.0f} s"


class _Line:
    """The live line: figures over the last seconds."""

    def __init__(self) -> None:
        self.recent: list[tuple[float, Tick]] = []
        self.ceiling: float | None = None

    def add(self, tick: "Tick") -> None:
        """A step."""
        now = time.perf_counter()
        self.recent.append((now, tick))
        self.recent = [(at, each) for at, each in self.recent if at > now - 60] or self.recent[-1:]

    def text(self) -> str:
        """Step 10/200 stable  loss 3.21  lr 0.001  4,012 tokens/s  41% of ceiling  data 0.1% ..."""
        ticks = [tick for _, tick in self.recent]
        seconds = sum(tick.seconds for tick in ticks)
        loss = sum(tick.step.loss for tick in ticks) / len(ticks)
        tokens = sum(tick.step.tokens for tick in ticks)
        waited = sum(tick.wait for tick in ticks) / seconds
        saved = sum(tick.save for tick in ticks) / seconds
        last = ticks[-1]
        left = (last.steps - last.step.number) * seconds / len(ticks)
        parts = [
            f"step {last.step.number:,}/{last.steps:,} {last.phase}",
            f"loss {loss:.3f}",
            f"lr {last.step.lr:.2g}",
            f"{tokens / seconds:,.0f} tokens/s",
            f"data {waited:.1%}",
            f"save {saved:.1%}",
            f"{_memory():.1f} GB",
            f"{_duration(left)} left",
        ]
        share = self._share(last)
        if share is not None:
            parts.insert(4, f"{share:.0%} of ceiling")
        if last.evaluation is not None:
            parts.append(f"held out {last.evaluation.loss:.3f}, {last.evaluation.accuracy:.1%}")
        return "  ".join(parts)

    def _share(self, tick: "Tick") -> float | None:
        """Of what this CPU's products reach, forward, backward and head counted; None on a GPU."""
        from ..core import flops
        from ..nn import roofline

        if tick.device != "cpu" or str(tick.dtype) == "torch.float16":
            return None
        if self.ceiling is None:
            name = str(tick.dtype).removeprefix("torch.")
            found = roofline.rooflines(tick.config, tick.threads, CEILING_SECONDS, [name])
            self.ceiling = found[name] or 0.0
        if not self.ceiling:
            return None
        head = flops.head_flops(tick.config, tick.masked)
        total = 3 * (flops.flops(tick.config, tick.lengths) + head)
        return total / tick.seconds / self.ceiling / 1e12


def _memory() -> float:
    """GB that this process has, on the GPU if it computes there."""
    import torch

    if torch.cuda.is_available() and torch.cuda.memory_reserved():
        return torch.cuda.memory_reserved() / 1e9
    from .. import machine

    return machine.own_memory_mb("VmRSS") / 1e3


@contextmanager
def _shown(tensorboard: Path | None, steps: int, quiet: bool) -> Iterator[Any]:
    """What is called for every step and every event: a bar on a terminal, else lines."""
    line, shown = _Line(), -SHOW_EVERY
    writer: Any = None

    with progress("", total=steps, quiet=quiet) as advance:
        done = 0

        def on_tick(tick: "Tick") -> None:
            nonlocal shown, done, writer
            line.add(tick)
            if tensorboard is not None:
                writer = writer or _writer(tensorboard)
                _write(writer, tick)
            if is_terminal() and not quiet:
                advance(tick.step.number - done, line.text())
                done = tick.step.number
            elif not quiet and time.perf_counter() - shown >= SHOW_EVERY:
                shown = time.perf_counter()
                click.echo(line.text(), err=True)

        def on_event(text: str) -> None:
            if not quiet:
                click.echo(text, err=True)

        try:
            yield on_tick, on_event
        finally:
            if writer is not None:
                writer.close()


def _writer(run: Path) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / "tensorboard"))


def _write(writer: Any, tick: "Tick") -> None:
    """A step's figures, for TensorBoard."""
    step = tick.step
    figures = {
        "train/loss": step.loss, "train/lr": step.lr, "train/norm": step.norm,
        "speed/tokens_per_s": step.tokens / tick.seconds,
        "speed/data_wait": tick.wait / tick.seconds,
    }  # fmt: skip
    if tick.evaluation is not None:
        figures["held_out/loss"] = tick.evaluation.loss
        figures["held_out/accuracy"] = tick.evaluation.accuracy
    for name, value in figures.items():
        writer.add_scalar(name, value, step.number)
