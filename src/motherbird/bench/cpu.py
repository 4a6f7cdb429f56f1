"""``motherbird bench cpu`` without its command line: from options to the JSON document."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from .. import machine
from ..core import hub, weights
from ..core.config import EncoderConfig
from ..core.presets import PRESETS
from ..engine import library
from ..errors import InputError
from ..nn import Encoder, roofline
from .check import Check, check, reference_vectors
from .peers import Job, System, all_systems
from .pool import Pool, call_once
from .rows import Pair
from .runner import MeasurementPlan, OnStep, measure
from .workloads import SEED, WORKLOADS, Workload

T = TypeVar("T")

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
    """Return workloads by a comma-separated list of names; all of them for None."""
    return _parse(names, {name: [workload] for name, workload in WORKLOADS.items()}, "workload")


def parse_systems(names: str | None) -> tuple[System, ...]:
    """Return systems by a comma-separated list of "name" or "name/dtype"; all of them for None."""
    by_name: dict[str, list[System]] = {}
    for system in all_systems():
        by_name.setdefault(system.name, []).append(system)
        by_name[system.key] = [system]
    return _parse(names, by_name, "system")


def _parse(names: str | None, known: dict[str, list[T]], what: str) -> tuple[T, ...]:
    """Return what is known by the names, in the order of ``known``."""
    wanted = list(known) if names is None else [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise InputError(f"there is no {what} {name!r}", how=f"use {', '.join(known)}")
    chosen = {item for name in wanted for item in known[name]}
    return tuple(
        dict.fromkeys(item for items in known.values() for item in items if item in chosen)
    )


def read_config(model: str) -> EncoderConfig:
    """Return the configuration of a preset or a model directory."""
    return PRESETS[model]() if model in PRESETS else weights.encoder_config(hub.find(model))


def set_up(
    config: EncoderConfig, directory: Path | None, threads: int
) -> tuple[dict[str, Any], dict[str, float | None]]:
    """In a process of its own: describe the machine, measure its rooflines, write random weights.

    The weights are written if there is a ``directory``, and are the same in every run.
    """
    if directory is not None:
        torch.manual_seed(SEED)
        Encoder(config).save(directory)
    described = machine.describe(threads) | {"engine": library.variant().name.decode()}
    return described, roofline.rooflines(config, threads, ROOFLINE_SECONDS)


def steps(options: Options) -> int:
    """Return the number of steps that `run` reports."""
    return len(options.systems) * (1 + len(options.workloads) * (1 + options.repeats))


def run(
    options: Options, on_step: OnStep, on_result: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Measure everything; returns the JSON document.

    ``on_result`` is called with the document so far after every workload, and at the end. Raise
    WorkerError if the machine cannot be described.
    """
    start, config = time.monotonic(), read_config(options.model)
    threads = options.threads
    environment = {
        "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"
    }  # fmt: skip
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="motherbird-bench-")))
        call = partial(
            call_once, log=folder / "once.log", environment=environment, limit=SETUP_LIMIT
        )
        random_model = folder / "model" if options.model in PRESETS else None
        described, first = call(set_up, (config, random_model, threads))
        rooflines, pairs = [first], list[Pair]()  # rooflines at the start and at the end

        def document(finished: bool) -> dict[str, Any]:
            best = {d: max(each[d] or 0 for each in rooflines) or None for d in roofline.DTYPES}
            ordered = sorted(pairs, key=lambda pair: list(WORKLOADS).index(pair.workload.name))
            return {
                "machine": described,
                "model": options.model,
                "roofline_tflops": best,
                "roofline_runs": rooflines,
                "rows": [pair.row(config, best) for pair in ordered],
                "seconds": round(time.monotonic() - start, 1),
                "finished": finished,
            }

        def on_workload(found: list[Pair]) -> None:
            pairs.extend(found)
            on_result(document(finished=False))

        job = _job(options, config, folder, random_model or hub.find(options.model).resolve())
        systems = tuple(_resolve_dtype(system, first) for system in options.systems)
        pool = Pool(job, environment)
        stack.callback(pool.close)
        checks = _check_all(systems, job, pool, partial(call, reference_vectors), on_step)
        until = start + options.minutes * 60 - RESERVE
        plan = MeasurementPlan(systems, options.workloads, options.repeats, until)
        measure(plan, job, pool, checks, on_step, on_workload)
        pool.close()
        rooflines.append(call(roofline.rooflines, (config, threads, ROOFLINE_SECONDS)))
    result = document(finished=True)
    on_result(result)
    return result


def _resolve_dtype(system: System, rooflines: dict[str, float | None]) -> System:
    """Replace the dtype "auto" by the dtype with the higher roofline."""
    fastest = max(("float32", "bfloat16"), key=lambda dtype: rooflines[dtype] or 0.0)
    return replace(system, dtype=fastest) if system.dtype == "auto" else system


def _job(options: Options, config: EncoderConfig, folder: Path, directory: Path) -> Job:
    size = sum(file.stat().st_size for file in weights.weight_files(directory))
    return Job(
        directory, folder, options.threads, config.hidden_size, config.num_attention_heads,
        config.vocab_size, config.max_position_embeddings, weights_mb=size / 1e6,
    )  # fmt: skip


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
