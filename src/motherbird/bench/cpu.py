"""``motherbird bench cpu`` without its command line: from options to the JSON document."""

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
from .check import Check, check, reference_vectors
from .peers import Job, System, all_systems
from .pool import Pool, call_once
from .rows import Pair
from .runner import MeasurementPlan, OnStep, measure
from .workloads import SEED, WORKLOADS, Workload

PRESETS = {
    "base": presets.base, "large": presets.large, "mini": presets.mini, "nano": presets.nano
}  # fmt: skip
RESERVE = 30.0  # seconds for the second roofline and the end of the run
SETUP_LIMIT = 600.0
ROOFLINE_SECONDS = 0.3  # for each kernel and matmul of the roofline


@dataclass(frozen=True)
class Options:
    """Options of the command line; ``model`` is a preset, a directory, or a name on the Hub."""

    model: str
    workloads: tuple[Workload, ...]
    systems: tuple[System, ...]
    repeats: int
    minutes: float
    threads: int


def parse_workloads(names: str | None) -> tuple[Workload, ...]:
    """Return workloads by a comma-separated list of names; all of them for None.

    Raises:
        InputError: a workload does not exist.
    """
    if names is None:
        return tuple(WORKLOADS.values())
    return tuple(_lookup(name.strip(), WORKLOADS, "workload") for name in names.split(","))


def parse_systems(names: str | None) -> tuple[System, ...]:
    """Return systems by a comma-separated list of "name" or "name/dtype"; all of them for None.

    Raises:
        InputError: a system does not exist.
    """
    systems = all_systems()
    if names is None:
        return tuple(systems)
    by_name: dict[str, list[System]] = {}
    for system in systems:
        by_name.setdefault(system.name, []).append(system)
        by_name[system.key] = [system]
    wanted = [s for name in names.split(",") for s in _lookup(name.strip(), by_name, "system")]
    return tuple(system for system in systems if system in wanted)


def _lookup(name: str, known: dict[str, Any], what: str) -> Any:
    if name not in known:
        raise InputError(f"there is no {what} {name!r}", how=f"use {', '.join(known)}")
    return known[name]


def read_config(model: str) -> EncoderConfig:
    """Return the configuration of a preset or a model directory.

    Raises:
        InputError: the model is neither.
    """
    if model in PRESETS:
        return PRESETS[model]()
    directory = hub.find(model)
    return hf_config.read(checkpoint.read_config(directory), str(directory / "config.json"))


def set_up(
    config: EncoderConfig, directory: Path | None, threads: int
) -> tuple[dict[str, Any], dict[str, float | None]]:
    """In a process of its own: describe the machine, measure its rooflines, write random weights.

    The weights are the same in every run. They are not written if ``directory`` is None.
    """
    import torch

    from ..nn.encoder import Encoder

    if directory is not None:
        torch.manual_seed(SEED)
        Encoder(config).save(directory)
    return machine.describe(threads), roofline.rooflines(config, threads, ROOFLINE_SECONDS)


@dataclass
class Report:
    """The results so far; the rooflines are those at the start and at the end."""

    model: str
    config: EncoderConfig
    start: float
    machine: dict[str, Any]
    rooflines: list[dict[str, float | None]]
    pairs: list[Pair] = field(default_factory=list)

    def document(self, finished: bool) -> dict[str, Any]:
        """Return the JSON document."""
        best = {
            dtype: max((run[dtype] or 0 for run in self.rooflines), default=0) or None
            for dtype in roofline.DTYPES
        }
        order = list(WORKLOADS)
        pairs = sorted(self.pairs, key=lambda pair: order.index(pair.workload.name))
        return {
            "machine": self.machine,
            "model": self.model,
            "roofline_tflops": best,
            "roofline_runs": self.rooflines,
            "rows": [pair.row(self.config, best) for pair in pairs],
            "seconds": round(time.monotonic() - self.start, 1),
            "finished": finished,
        }


def steps(options: Options) -> int:
    """Return the number of steps that `run` reports."""
    systems, workloads = len(options.systems), len(options.workloads)
    return systems * (1 + workloads * (1 + options.repeats))


def run(
    options: Options, on_step: OnStep, on_result: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Measure everything; returns the JSON document.

    Args:
        options: what to measure.
        on_step: see `runner.OnStep`.
        on_result: called with the document so far after every workload, and at the end.

    Raises:
        InputError: the model cannot be used.
        WorkerError: the machine could not be described.
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
        call = partial(
            call_once, log=folder / "once.log", environment=environment, limit=SETUP_LIMIT
        )
        random_model = folder / "model" if options.model in PRESETS else None
        described, rooflines = call(set_up, (config, random_model, threads))
        report = Report(options.model, config, start, described, [rooflines])
        job = _job(options, config, folder, random_model or hub.find(options.model).resolve())
        systems = tuple(_resolve_dtype(system, rooflines) for system in options.systems)
        pool = Pool(job, environment)
        stack.callback(pool.close)
        checks = _check_all(systems, job, pool, partial(call, reference_vectors), on_step)

        def on_workload(pairs: list[Pair]) -> None:
            report.pairs += pairs
            on_result(report.document(finished=False))

        until = start + options.minutes * 60 - RESERVE
        plan = MeasurementPlan(systems, options.workloads, options.repeats, until)
        measure(plan, job, pool, checks, on_step, on_workload)
        pool.close()
        report.rooflines.append(call(roofline.rooflines, (config, threads, ROOFLINE_SECONDS)))
    result = report.document(finished=True)
    on_result(result)
    return result


def _resolve_dtype(system: System, rooflines: dict[str, float | None]) -> System:
    """Replace the dtype "auto" by the dtype with the higher roofline."""
    if system.dtype != "auto":
        return system
    fastest = max(("float32", "bfloat16"), key=lambda dtype: rooflines[dtype] or 0.0)
    return replace(system, dtype=fastest)


def _job(options: Options, config: EncoderConfig, folder: Path, directory: Path) -> Job:
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


def _check_all(
    systems: tuple[System, ...],
    job: Job,
    pool: Pool,
    compute: Callable[[tuple[System, Job]], NDArray[np.float32]],
    on_step: OnStep,
) -> dict[System, Check]:
    """Check every system; the reference vectors of each model are computed once."""
    references: dict[str, NDArray[np.float32]] = {}

    def reference(system: System) -> NDArray[np.float32]:
        model = "" if system.same_weights else system.name
        if model not in references:
            references[model] = compute((system, job))
        return references[model]

    checks: dict[System, Check] = {}
    for system in systems:
        reason = system.missing()
        found = Check(reason=reason) if reason else check(system, job, pool, reference)
        on_step(f"check: {system.key}: {found.reason or f'worst cosine {found.cosine:.6f}'}", 1)
        checks[system] = found
    return checks
