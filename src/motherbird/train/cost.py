"""Estimates of the memory, disk space, tokens and time of a run, before its first step."""

import logging
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from .. import machine
from ..core.config import EncoderConfig
from ..data.loader import Cursor, Loader, chosen_rows, masking_of
from ..data.micro_batch import MicroBatch
from ..data.prepared import PreparedDataset
from ..errors import InputError, human
from ..nn import fused
from ..nn.attention import tiled
from ..nn.attention.plan import BLOCK
from ..nn.cross_entropy import LOGITS, LOGITS_GPU
from ..nn.devices import resolve_device
from ..nn.heads import MaskedLM
from .gradients import in_fixed_order, micro_batch_gradients
from .init_weights import initial_config
from .objectives.masked_lm import MaskedLMObjective
from .phase import Phase
from .recipe import Recipe
from .threads import executor_for

log = logging.getLogger(__name__)

FLOAT = 4  # bytes; weights, optimizer state and gradients
# Bytes per token that a layer keeps for the backward pass, in units of D + F, by the size of the
# compute dtype in bytes; measured, docs/log.md.
BYTES_KEPT = {2: 18, 4: 30}
LORA = 1.5  # times that with LoRA; measured
WORKING = 4  # layers' worth of memory that a fused layer needs while it is computed; measured


def parameters(config: EncoderConfig) -> int:
    """Return the number of parameters of the model with its masked-LM head."""
    with torch.device("meta"):
        return sum(p.numel() for p in MaskedLM(config).parameters())


def checkpoint_size(recipe: Recipe, config: EncoderConfig) -> int:
    """Return the bytes of a checkpoint: weights and optimizer state."""
    moments = 1.5 if recipe.train.optimizer == "muon" else 2
    return int(parameters(config) * FLOAT * (1 + moments))


def memory(
    recipe: Recipe, config: EncoderConfig, device: torch.device, threads: int
) -> dict[str, int]:
    """Estimate the bytes of memory of a process from the sizes of tensors.

    "state" contains weights, optimizer state and the copy that is being saved; "activations" are
    those of the micro-batches that run at the same time; "total" is the sum.
    """
    state = checkpoint_size(recipe, config)
    on_cpu = device.type == "cpu"
    parallel = threads if on_cpu else 1
    tokens = _tokens(recipe, _heaviest(recipe))
    dtype = recipe.dtype_on(device)
    longest = max(phase.seq_len for phase in recipe.phases)
    kept = int(tokens * bytes_kept(config, longest, dtype, on_cpu))
    head = 2 * config.vocab_size * config.hidden_size * FLOAT
    head += min(LOGITS if on_cpu else LOGITS_GPU, tokens * config.vocab_size) * dtype.itemsize * 2
    extra = parallel + 2 if recipe.train.reduce == "sum" else parallel + 6
    found = {
        "state": 2 * state if on_cpu else state,
        "gradients": parameters(config) * FLOAT * extra,
        "activations": (kept + head) * parallel,
    }
    return found | {"total": sum(found.values())}


def bytes_kept(
    config: EncoderConfig, longest: int, dtype: torch.dtype, on_cpu: bool, *,
    checkpointing: bool = False, changed: bool = False,
) -> float:  # fmt: skip
    """Return the bytes of activations that the layers need, per token.

    Args:
        config: geometry.
        longest: tokens of the longest document.
        dtype: of products.
        on_cpu: whether a CPU computes them.
        checkpointing: whether layers are computed again in the backward pass.
        changed: whether linear layers are replaced, as by LoRA.
    """
    width, inner, count = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    element = dtype.itemsize
    if on_cpu and not changed and fused.suits(config, dtype):
        layer: float = (2 * FLOAT + 6 * element) * width + 2 * element * inner
        layers, working = [layer + FLOAT * config.num_attention_heads] * count, WORKING
    else:
        layer = BYTES_KEPT[element] * (width + inner) * (LORA if changed else 1)
        layers, working = [layer] * count, 0
        if on_cpu:  # attention probabilities are kept too
            most = min(tiled.KEPT, longest)
            band = min(most, BLOCK + 2 * config.half_window)
            for number, kind in enumerate(config.layers):
                keys = most if kind == "full_attention" else band
                layers[number] += keys * config.num_attention_heads * element
    if checkpointing:
        return float(count * width * FLOAT + (1 + working) * max(layers))
    return float(sum(layers) + working * max(layers))


def _tokens(recipe: Recipe, phase: Phase) -> int:
    """Return the tokens of a micro-batch."""
    return recipe.micro_rows(phase, phase.rows) * phase.seq_len


def _heaviest(recipe: Recipe) -> Phase:
    """Return the phase with the largest micro-batches."""
    return max(recipe.phases, key=lambda phase: _tokens(recipe, phase))


def _advice(recipe: Recipe, found: dict[str, int]) -> str:
    """Return how to use less memory."""
    if found["activations"] <= found["total"] / 3:
        return "use a smaller model"
    phase = _heaviest(recipe)
    if recipe.micro_rows(phase, phase.rows) == 1:
        return "use fewer threads, shorter rows, or a smaller model"
    key = recipe.key_of("micro_tokens", recipe.phases.index(phase))
    return f"halve {key} ({_tokens(recipe, phase) // 2}), use fewer threads, or a smaller model"


def check(
    recipe: Recipe, config: EncoderConfig, device: torch.device, threads: int, run: Path | None
) -> dict[str, int]:
    """Return `memory`, or raise InputError if memory or the disk of ``run`` is too small."""
    found = memory(recipe, config, device, threads)
    if device.type == "cuda":
        free: float | None = torch.cuda.mem_get_info(device)[0]
    else:
        available = machine.available_mb()
        free = None if available is None else available * 1e6
    if free is not None and found["total"] > free:
        says = f"about {human(found['total'], 'B')} of memory are needed"
        has = f"{human(free, 'B')} are free"
        how = _advice(recipe, found)
        if device.type != "cuda":
            raise InputError(f"{says} and {has}", str(device), how)
        # The estimate was measured on CPUs only, so it may be wrong on a GPU.
        log.warning("%s, and %s on %s: if it does not fit, %s", says, has, device, how)
    if run is not None:
        home = next(p for p in (run, *run.absolute().parents) if p.exists())
        room = shutil.disk_usage(home).free
        wanted = checkpoint_size(recipe, config) * (recipe.save.keep + len(recipe.phases) + 2)
        if wanted > room:
            what = f"checkpoints need {human(wanted, 'B')} and {human(room, 'B')} are free"
            raise InputError(what, str(run), "free some space, or lower save.keep")
    return found


def estimate(recipe: Recipe, data: Path, device_name: str | None) -> dict[str, Any]:
    """Estimate what a run takes, from the time of a micro-batch on each core."""
    device = resolve_device(device_name)
    recipe.check_world_size(1)
    prepared = PreparedDataset(data)
    config = initial_config(recipe, prepared)
    threads = executor_for(device).count
    found = check(recipe, config, device, threads, None)
    phases = []
    for number, phase in enumerate(recipe.phases):
        rows = len(chosen_rows(prepared, phase.row_filter))
        speed = _speed(recipe, prepared, config, number, device)
        phases.append({
            "name": phase.name, "steps": phase.steps(), "tokens": phase.tokens,
            "seq_len": phase.seq_len, "rows": phase.rows,
            "epochs": round(phase.tokens / phase.seq_len / rows, 3),
            "tokens_per_s": speed,
            "hours": phase.tokens / speed / 3600,
        })  # fmt: skip
    return {
        "steps": recipe.steps(),
        "tokens": sum(phase.tokens for phase in recipe.phases),
        "parameters": parameters(config),
        "phases": phases,
        "memory": found,
        "checkpoint": checkpoint_size(recipe, config),
        "hours": sum(phase["hours"] for phase in phases),
        "device": str(device),
        "threads": threads,
    }  # fmt: skip


def _speed(
    recipe: Recipe,
    prepared: PreparedDataset,
    config: EncoderConfig,
    number: int,
    device: torch.device,
) -> float:
    """Measure the tokens per second of forward and backward, with a micro-batch on each core."""
    phase = recipe.phases[number]
    model = MaskedLM(recipe.config(config, number)).to(device).train()
    objective, weights = MaskedLMObjective(model), list(model.parameters())
    micro = recipe.micro_rows(phase, phase.rows)
    dtype = recipe.dtype_on(device)

    def compute(batch: MicroBatch) -> None:
        with torch.autocast(
            device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False
        ):
            micro_batch_gradients(weights, lambda: objective.loss(batch))

    with in_fixed_order(device):
        threads = executor_for(device)
        loader = Loader(
            prepared, phase.row_filter, Cursor(recipe.seed, number),
            masking_of(prepared, recipe.masking(phase)), lambda rows: micro * threads.count,
        )  # fmt: skip
        batch = next(iter(loader))
        micro_batches = list(batch.micro_batches(micro))
        best = float("inf")
        for _ in range(2):  # the first is a warm-up
            start = time.perf_counter()
            for _result in threads.in_order(compute, micro_batches):
                pass
            best = min(best, time.perf_counter() - start)
    return len(batch.ids) / best
