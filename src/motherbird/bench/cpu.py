"""`motherbird bench cpu` without its command line: from names to the JSON document."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import machine
from ..core import hf_config, hub, presets
from ..core.config import EncoderConfig
from ..errors import InputError
from ..nn import checkpoint, roofline
from .check import Check, check, truth
from .peers import Job, System, all_systems, peer
from .pool import Pool
from .rows import Pair
from .runner import OnStep, Plan
from .runner import measure as measure_all
from .worker import once
from .workloads import SEED, WORKLOADS, Workload

PRESETS = {
    "base": presets.base, "large": presets.large, "mini": presets.mini, "nano": presets.nano
}  # fmt: skip
RESERVE = 30.0  # seconds for the second ceiling and the last lines
SETUP_LIMIT = 600.0
CEILING_SECONDS = 0.3  # of every way to run every product
Alone = Callable[[Callable[..., Any], tuple[Any, ...]], Any]  # a call in a process of its own


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        model: a preset's name, then with random weights, or a folder, or a name on the Hub.
        workloads, systems: chosen ones.
        repeats: of every figure.
        minutes: that the run may take.
        threads: of every system.
    """

    model: str
    workloads: tuple[Workload, ...]
    systems: tuple[System, ...]
    repeats: int
    minutes: float
    threads: int


def named_workloads(names: str | None) -> tuple[Workload, ...]:
    """Workloads from a list with commas; None is all.

    Raises:
        InputError: one does not exist.
    """
    if names is None:
        return tuple(WORKLOADS.values())
    return tuple(_one(name, WORKLOADS, "workload") for name in _parts(names))


def named_systems(names: str | None) -> tuple[System, ...]:
    """Systems from a list with commas, by name or name/dtype; None is all.

    Raises:
        InputError: one does not exist.
    """
    systems = all_systems()
    if names is None:
        return tuple(systems)
    by_name: dict[str, list[System]] = {}
    for system in systems:
        by_name.setdefault(system.name, []).append(system)
        by_name[system.key] = [system]
    wanted = [system for name in _parts(names) for system in _one(name, by_name, "system")]
    return tuple(system for system in systems if system in wanted)


def _parts(names: str) -> list[str]:
    return [name.strip() for name in names.split(",")]


def _one(name: str, among: dict[str, Any], what: str) -> Any:
    if name not in among:
        raise InputError(f"there is no {what} {name!r}", how=f"use {', '.join(among)}")
    return among[name]


def read_config(model: str) -> EncoderConfig:
    """The geometry of a preset or a folder.

    Raises:
        InputError: neither.
    """
    if model in PRESETS:
        return PRESETS[model]()
    directory = hub.find(model)
    return hf_config.read(checkpoint.read_config(directory), str(directory / "config.json"))


def set_up(
    config: EncoderConfig, directory: Path | None, threads: int
) -> tuple[dict[str, Any], dict[str, float | None]]:
    """In a process of its own: the machine, its ceilings; weights, the same in every run."""
    import torch

    from ..nn.encoder import Encoder

    if directory is not None:
        torch.manual_seed(SEED)
        Encoder(config).save(directory)
    return machine.describe(threads), roofline.rooflines(config, threads, CEILING_SECONDS)


@dataclass
class Report:
    """What a run has found so far."""

    model: str
    config: EncoderConfig
    start: float
    machine: dict[str, Any]
    ceilings: list[dict[str, float | None]]  # at the start, and at the end
    pairs: list[Pair] = field(default_factory=list)

    def document(self, finished: bool) -> dict[str, Any]:
        """The JSON document."""
        best = {
            dtype: max((c[dtype] or 0 for c in self.ceilings), default=0) or None
            for dtype in roofline.DTYPES
        }
        order = list(WORKLOADS)
        pairs = sorted(self.pairs, key=lambda pair: order.index(pair.workload.name))
        return {
            "machine": self.machine,
            "model": self.model,
            "ceiling_tflops": best,
            "ceiling_runs": self.ceilings,
            "rows": [pair.row(self.config, best) for pair in pairs],
            "seconds": round(time.monotonic() - self.start, 1),
            "finished": finished,
        }


def steps(options: Options) -> int:
    """How many steps `run` tells of."""
    systems, workloads = len(options.systems), len(options.workloads)
    return systems * (1 + workloads * (1 + options.repeats))


def run(
    options: Options, on_step: OnStep, on_result: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Measure everything; returns the JSON document.

    Args:
        options: what is asked for.
        on_step: see `runner.OnStep`.
        on_result: given the document so far whenever a workload is done, and at the end.

    Raises:
        InputError: the model cannot be used.
        WorkFailed: not even the machine could be described.
    """
    start, config = time.monotonic(), read_config(options.model)
    threads = options.threads
    environment = {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="motherbird-bench-")))
        alone = partial(once, log=folder / "once.log", environment=environment, limit=SETUP_LIMIT)
        made = folder / "model" if options.model in PRESETS else None
        described, ceilings = alone(set_up, (config, made, threads))
        report = Report(options.model, config, start, described, [ceilings])
        job = _job(options, config, folder, made or hub.find(options.model).resolve())
        systems = tuple(_resolved(system, ceilings) for system in options.systems)
        pool = Pool(job, environment)
        stack.callback(pool.close)
        truths = Truths(job, alone)
        checks: dict[System, Check] = {}
        for system in systems:
            reason = peer(system).why_not(system)
            checks[system] = Check(reason=reason) if reason else check(system, job, pool, truths.of)
            on_step(f"check: {system.key}: {_verdict(checks[system])}", 1)

        def on_workload(pairs: list[Pair]) -> None:
            report.pairs += pairs
            on_result(report.document(finished=False))

        until = start + options.minutes * 60 - RESERVE
        plan = Plan(systems, options.workloads, options.repeats, until)
        measure_all(plan, job, pool, checks, on_step, on_workload)
        pool.close()
        report.ceilings.append(alone(roofline.rooflines, (config, threads, CEILING_SECONDS)))
    result = report.document(finished=True)
    on_result(result)
    return result


def _resolved(system: System, ceilings: dict[str, float | None]) -> System:
    """The dtype of a system that takes the fastest: that of the higher ceiling."""
    if system.dtype != "auto":
        return system
    fastest = max(("float32", "bfloat16"), key=lambda dtype: ceilings[dtype] or 0.0)
    return replace(system, dtype=fastest)


def _verdict(found: Check) -> str:
    return found.reason or f"worst cosine {found.cosine:.6f}"


def _job(options: Options, config: EncoderConfig, folder: Path, directory: Path) -> Job:
    """What all systems are given."""
    files = checkpoint.weight_files(directory)
    return Job(
        directory,
        folder,
        options.threads,
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        vocab_size=config.vocab_size,
        longest=config.max_position_embeddings,
        weights_mb=sum(file.stat().st_size for file in files) / 1e6,
    )


class Truths:
    """`check.truth` of each model, computed once in a process of its own."""

    def __init__(self, job: Job, alone: Alone) -> None:
        self._job, self._alone = job, alone
        self._known: dict[str, NDArray[np.float32]] = {}

    def of(self, system: System) -> NDArray[np.float32]:
        """The truth for a system.

        Raises:
            WorkFailed: there is none.
        """
        model = "" if system.same_weights else system.name
        if model not in self._known:
            self._known[model] = self._alone(truth, (system, self._job))
        return self._known[model]
