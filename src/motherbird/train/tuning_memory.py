"""The memory of a fine-tuning run: an estimate, and settings with which it fits a limit."""

from dataclasses import replace

import torch

from ..errors import InputError, human
from ..nn.devices import DTYPES, fastest_dtype
from .cost import FLOAT, bytes_kept, parameters
from .tuning import FineTuning
from .tuning_plan import Plan

LEAST = 512  # tokens of a micro-batch below which a step takes longer
PROCESS, CONTEXT = 0.4e9, 0.6e9  # bytes of a process with torch; of the context of a GPU


def fit_memory(plan: Plan, device: torch.device, threads: int) -> Plan:
    """Return a plan with an estimate of its memory, which ``max_memory`` limits.

    Smaller micro-batches come first, gradient checkpointing second, because it takes more time.

    Raises:
        InputError: the run does not fit.
    """
    recipe, limit = plan.recipe, plan.recipe.max_memory
    found = bytes_needed(plan, recipe, device, threads)
    if limit is None or found <= limit * 1e9:
        return replace(plan, memory=found)
    for checkpointing in sorted({recipe.gradient_checkpointing, True}):
        tokens = recipe.micro_tokens
        while tokens >= LEAST:
            smaller = replace(recipe, micro_tokens=tokens, gradient_checkpointing=checkpointing)
            found = bytes_needed(plan, smaller, device, threads)
            if found <= limit * 1e9:
                return replace(plan, recipe=smaller, memory=found)
            tokens //= 2
    what = f"the run needs about {human(found, 'B')} of memory, and max_memory is {limit:g} GB"
    less = ["a lower --batch-size"] if recipe.few_shot else []
    less += [] if recipe.lora_rank else ["--set lora_rank=16"]
    less += ["a shorter --max-length"] + (["fewer --threads"] if threads > 1 else [])
    raise InputError(what, how=f"use {' or '.join(less)}")


def bytes_needed(plan: Plan, recipe: FineTuning, device: torch.device, threads: int) -> float:
    """Estimate the bytes of memory of a process.

    Args:
        plan: documents and model.
        recipe: settings, in place of those of the plan.
        device: of the model.
        threads: micro-batches that are computed at the same time.
    """
    config, on_cpu = plan.config, device.type == "cpu"
    unused = config.vocab_size - len(plan.tokens)
    weights = (parameters(config) - unused * config.hidden_size) * FLOAT
    trained = weights * _trained(plan, recipe)
    # Both moments of the optimizer; on a CPU, what is being written to a checkpoint too.
    state = (weights + 2 * trained) * (2 if on_cpu else 1)
    gradients = trained * (threads + 1)
    dtype = fastest_dtype(device) if recipe.dtype == "auto" else DTYPES[recipe.dtype]
    lengths = sorted(plan.train.lengths, reverse=True)
    kept = bytes_kept(
        config, lengths[0], dtype, on_cpu,
        checkpointing=recipe.gradient_checkpointing, changed=recipe.lora_rank > 0,
    )  # fmt: skip
    if recipe.few_shot:  # a step is one micro-batch
        tokens, threads = sum(lengths[: 2 * recipe.batch_size]), 1
    else:  # of a step with the longest documents
        step = sum(lengths[: recipe.batch_size]) // threads
        tokens = max(lengths[0], min(recipe.micro_tokens, step))
    return (PROCESS if on_cpu else CONTEXT) + state + gradients + kept * tokens * threads


def _trained(plan: Plan, recipe: FineTuning) -> float:
    """Return the fraction of the weights that is trained."""
    if not recipe.lora_rank:
        return 1.0
    config = plan.config
    width, inner = config.hidden_size, config.intermediate_size
    # Wqkv, Wo, Wi and Wo: each has rank * (rows + columns) more.
    layer = recipe.lora_rank * (4 * width + 2 * width + width + 2 * inner + inner + width)
    head = width * (width + len(plan.labels) + 2)
    unused = config.vocab_size - len(plan.tokens)
    whole = parameters(config) - unused * width
    return min(1.0, (config.num_hidden_layers * layer + head) / whole)
