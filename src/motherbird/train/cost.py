"""What a run will take, before its first step: memory, disk, tokens, time."""

import logging
import shutil
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .. import machine
from ..core.config import EncoderConfig
from ..data.loader import Cursor, Loader, chosen_rows, masking_of
from ..data.prepared import PreparedDataset
from ..errors import InputError
from ..nn.attention import tiled
from ..nn.attention.plan import BLOCK
from ..nn.cross_entropy import LOGITS, LOGITS_GPU
from ..nn.devices import resolve_device
from ..nn.heads import MaskedLM
from .gradients import in_fixed_order, of_leaf, side_by_side, threads_beside
from .init_weights import model_of
from .phase import Phase
from .recipe import Recipe
from .step import dtype_of

log = logging.getLogger(__name__)

FLOAT = 4  # bytes; weights, moments and gradients
# Bytes that a layer keeps for the backward pass of a token, in units of D + F, by the bytes of the
# products' dtype; measured, docs/log.md.
KEPT = {2: 18, 4: 30}


@dataclass(frozen=True)
class Needs:
    """Bytes of a process.

    Attributes:
        state: weights, moments, and the copy that is being saved.
        gradients: of the micro-batches that are at work, and their sum.
        activations: of these micro-batches.
        checkpoint: on disk, of each state that is kept.
    """

    state: int
    gradients: int
    activations: int
    checkpoint: int

    @property
    def memory(self) -> int:
        """All but what is on disk."""
        return self.state + self.gradients + self.activations


def parameters(config: EncoderConfig) -> int:
    """Of the model with its masked-LM head."""
    with torch.device("meta"):
        return sum(p.numel() for p in MaskedLM(config).parameters())


def needs(recipe: Recipe, config: EncoderConfig, device: torch.device, threads: int) -> Needs:
    """An estimate from tensor sizes."""
    weights = parameters(config) * FLOAT
    moments = 2 if recipe.train.optimizer == "stableadamw" else 1.5
    state = int(weights * (1 + moments))
    on_cpu = device.type == "cpu"
    leaves = threads if on_cpu else 1
    tokens = _tokens(recipe, _heaviest(recipe))
    element = torch.empty(0, dtype=dtype_of(recipe, device)).element_size()
    width = config.hidden_size + config.intermediate_size
    kept = KEPT[element] * width * config.num_hidden_layers * tokens
    if on_cpu:  # and attention's probabilities
        most = min(tiled.KEPT, max(phase.seq_len for phase in recipe.phases))
        band = min(most, BLOCK + 2 * config.half_window)
        keys = sum(most if kind == "full_attention" else band for kind in config.layers)
        kept += tokens * keys * config.num_attention_heads * element
    head = 2 * config.vocab_size * config.hidden_size * FLOAT
    head += min(LOGITS if on_cpu else LOGITS_GPU, tokens * config.vocab_size) * element * 2
    extra = leaves + 2 if recipe.train.reduce == "sum" else leaves + 6
    return Needs(
        state=2 * state if on_cpu else state,
        gradients=weights * extra,
        activations=(kept + head) * leaves,
        checkpoint=state,
    )


def _tokens(recipe: Recipe, phase: Phase) -> int:
    """Of a micro-batch."""
    return recipe.micro_rows(phase, phase.rows) * phase.seq_len


def _heaviest(recipe: Recipe) -> Phase:
    """The phase with the largest micro-batches."""
    return max(recipe.phases, key=lambda phase: _tokens(recipe, phase))


def _smaller(recipe: Recipe, found: Needs) -> str:
    """What to do about too much."""
    if found.activations <= found.memory / 3:
        return "a smaller model needs less"
    phase = _heaviest(recipe)
    if recipe.micro_rows(phase, phase.rows) == 1:
        return "use fewer threads, shorter rows, or a smaller model"
    key = recipe.key_of("micro_tokens", recipe.phases.index(phase))
    return f"halve {key} ({_tokens(recipe, phase) // 2}), use fewer threads, or a smaller model"


def check(
    recipe: Recipe, config: EncoderConfig, device: torch.device, threads: int, run: Path | None
) -> Needs:
    """Refuse a run that will not fit into memory, or whose checkpoints will not fit on the disk.

    Raises:
        InputError: what is needed, what there is, and what to change.
    """
    found = needs(recipe, config, device, threads)
    if device.type == "cuda":
        free: float | None = torch.cuda.mem_get_info(device)[0]
    else:
        available = machine.available_mb()
        free = None if available is None else available * 1e6
    if free is not None and found.memory > free:
        says = f"about {found.memory / 1e9:.1f} GB of memory are needed"
        has = f"{free / 1e9:.1f} GB are free"
        how = _smaller(recipe, found)
        if device.type != "cuda":
            raise InputError(f"{says} and {has}", str(device), how)
        # The estimate was measured on CPUs only: the card has the last word.
        log.warning("%s, and %s on %s: if it does not fit, %s", says, has, device, how)
    if run is not None:
        home = next(p for p in (run, *run.absolute().parents) if p.exists())
        room = shutil.disk_usage(home).free
        wanted = found.checkpoint * (recipe.save.keep + len(recipe.phases) + 2)
        if wanted > room:
            raise InputError(
                f"checkpoints need {wanted / 1e9:.1f} GB and {room / 1e9:.1f} GB are free",
                str(run),
                "free space, or lower save.keep",
            )
    return found


def plan(
    recipe: Recipe, data: Path, device_name: str | None, *, measure: bool = True
) -> dict[str, Any]:
    """What a run comes to, and how long it takes here, from one micro-batch a core.

    Args:
        recipe: of the run.
        data: a prepared set.
        device_name: where to compute.
        measure: the time as well.

    Raises:
        InputError: as `pretrain` would.
    """
    device = resolve_device(device_name)
    recipe.check_world(1)
    prepared = PreparedDataset(data)
    config = model_of(recipe, prepared)
    threads = threads_beside(device)
    found = check(recipe, config, device, threads, None)
    phases = []
    for number, phase in enumerate(recipe.phases):
        rows = len(chosen_rows(prepared, phase.choice))
        speed = _speed(recipe, prepared, config, number, device) if measure else None
        phases.append({
            "name": phase.name, "steps": phase.steps(), "tokens": phase.tokens,
            "seq_len": phase.seq_len, "rows": phase.rows,
            "epochs": round(phase.tokens / phase.seq_len / rows, 3),
            "tokens_per_s": speed,
            "hours": None if speed is None else phase.tokens / speed / 3600,
        })  # fmt: skip
    hours = [phase["hours"] for phase in phases]
    return {
        "steps": recipe.steps(),
        "tokens": sum(phase.tokens for phase in recipe.phases),
        "parameters": parameters(config),
        "phases": phases,
        "memory": {
            "state": found.state, "gradients": found.gradients,
            "activations": found.activations, "total": found.memory,
        },
        "checkpoint": found.checkpoint,
        "hours": None if None in hours else sum(hours),
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
    """Tokens a second of forward and backward, one micro-batch on each core."""
    phase = recipe.phases[number]
    model = MaskedLM(recipe.config(config, number)).to(device).train()
    weights = list(model.parameters())
    micro = recipe.micro_rows(phase, phase.rows)
    dtype = dtype_of(recipe, device)
    with in_fixed_order(device), side_by_side(device) as threads:
        at_once = threads.count if threads.pool else 1
        loader = Loader(
            prepared, phase.choice, Cursor(recipe.seed, number),
            masking_of(prepared, recipe.masking(phase)), lambda rows: micro * at_once,
        )  # fmt: skip
        batch = next(iter(loader))

        def loss(item: Any) -> torch.Tensor:
            with torch.autocast(
                device.type, dtype, enabled=dtype != torch.float32, cache_enabled=False
            ):
                return model.loss(item.packed, item.positions, item.targets)

        leaves = [partial(loss, item) for item in batch.micro_batches(micro)]
        run = threads.pool.map if threads.pool else map
        best = float("inf")
        for _ in range(2):  # the first is a warm-up
            start = time.perf_counter()
            for _result in run(partial(of_leaf, weights), leaves):
                del _result  # gradients, as large as the model
            best = min(best, time.perf_counter() - start)
    return len(batch.ids) / best
