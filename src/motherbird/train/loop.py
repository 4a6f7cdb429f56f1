"""Short training of what lies in memory, by the clock or by steps: the demo's. Runs: `pretrain`."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..core.masking import Masking
from ..core.tokenizer import Tokenizer
from ..data.packing import best_fit
from ..errors import DivergedError, InputError
from ..nn.devices import fastest_dtype
from ..nn.heads import MaskedLM
from ..nn.packed import Packed, pack

TRAINING_RATE, EVALUATION_RATE = 0.30, 0.15  # paper 2.2.1; validation is always at 15%
ORDER, MASKS = 1, 2  # what a keyed draw is for: equal keys would draw alike
WARM_UP, DECAY_FROM = 0.03, 0.5  # shares of a run


@dataclass(frozen=True, slots=True)
class Step:
    """What a progress bar wants to know after each step."""

    number: int
    share: float  # of the whole run, 0 to 1
    loss: float
    tokens_per_second: float
    seconds_left: float


def learning_rate(share: float, peak: float) -> float:
    """Trapezoid over the share of a run that is done: linear warm-up, stable, 1 - sqrt decay."""
    if share < WARM_UP:
        return peak * share / WARM_UP
    if share < DECAY_FROM:
        return peak
    return peak * (1 - math.sqrt(min(1.0, (share - DECAY_FROM) / (1 - DECAY_FROM))))


def train(
    model: nn.Module,
    loss_of: Callable[[int], tuple[Float[Tensor, ""], int]],
    *,
    lr: float,
    seconds: float | None = None,
    steps: int | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Step:
    """Run until the time is over or the steps are done; learning rate by `learning_rate`.

    Args:
        model: what is trained, in place; AdamW, no weight decay on norms and biases.
        loss_of: gives, for the number of a step, the loss and how many tokens it was made of.
        lr: peak learning rate.
        seconds: length of the run; the schedule follows the clock.
        steps: length of the run; the schedule follows the steps, and the run can be repeated.
        on_step: called after every step.

    Returns:
        The last step.

    Raises:
        InputError: neither or both of seconds and steps are given, or none is positive.
        DivergedError: the loss is not finite.
    """
    if (seconds is None) == (steps is None) or not (seconds or steps or 0) > 0:
        raise InputError("a run needs either seconds or steps, more than 0")
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 1e-2}, {"params": vectors, "weight_decay": 0.0}],
        lr=lr, betas=(0.9, 0.98), eps=1e-6, fused=True,
    )  # fmt: skip
    model.train()
    start = time.perf_counter()
    tokens = number = 0
    share, step = 0.0, Step(0, 0.0, math.nan, 0.0, seconds or 0.0)
    while share < 1:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(max(share, 1e-3), lr)
        loss, size = loss_of(number)
        if not torch.isfinite(loss):
            raise DivergedError(f"the loss is {loss.item()} at step {number}", how="lower lr")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        number, tokens = number + 1, tokens + size
        elapsed = time.perf_counter() - start
        share = number / steps if steps else elapsed / (seconds or 1)
        left = max(0.0, elapsed / share - elapsed)
        step = Step(number, min(share, 1.0), loss.item(), tokens / elapsed, left)
        on_step(step)
    model.eval()
    return step


def cut(documents: Sequence[Sequence[int]], tokenizer: Tokenizer, length: int) -> list[list[int]]:
    """Cut encoded documents into pieces of at most ``length``, each framed as a document."""
    prefix, suffix = tokenizer.template_ids()
    room = length - len(prefix) - len(suffix)
    if room < 1:
        raise InputError(f"nothing of a document fits into {length} tokens")
    return [
        [*prefix, *inside[i : i + room], *suffix]
        for inside in (d[len(prefix) : len(d) - len(suffix)] for d in documents)
        for i in range(0, len(inside), room)
    ]


def batches(
    documents: Sequence[Sequence[int]], length: int, rows: int, seed: int
) -> Iterator[Packed]:
    """Batches of ``rows`` full rows, epoch after epoch without end, in an order keyed by seed."""
    packed_rows = best_fit([len(d) for d in documents], length)
    if not packed_rows:
        raise InputError("there is no document to train on")
    epoch = 0
    while True:
        order = np.random.default_rng([seed, ORDER, epoch]).permutation(len(packed_rows))
        for i in range(0, len(order), rows):
            yield pack([documents[d] for row in order[i : i + rows] for d in packed_rows[row]])
        epoch += 1


def masked_lm_loss(
    model: MaskedLM, packed: Packed, tokenizer: Tokenizer, rate: float, key: Sequence[int]
) -> tuple[Float[Tensor, ""], int]:
    """Mean cross entropy in nats over the masked tokens, and how many they are.

    The head runs on those alone. Where chance masks none, the loss is 0, not NaN.
    """
    masking = Masking(
        rate, tokenizer.mask_id, tuple(tokenizer.special_ids), model.model.config.vocab_size
    )
    fed, positions = map(torch.from_numpy, masking.mask(packed.ids.numpy(), key))
    device = model.model.device
    fast = fastest_dtype(device)
    with torch.autocast(device.type, fast, enabled=fast is not torch.float32):
        total = model.loss(replace(packed, ids=fed), positions, packed.ids[positions])
    return total / max(1, len(positions)), len(positions)


def pretrain(
    model: MaskedLM,
    documents: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    *,
    lr: float = 2e-3,
    batch_tokens: int = 2048,
    length: int = 256,
    seed: int = 0,
    seconds: float | None = None,
    steps: int | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Step:
    """Masked-LM training at 30% over encoded documents of any length, by `train`.

    They are cut to ``length`` and packed into rows of it; ``batch_tokens`` make a step; ``seed``
    determines order and masks.
    """
    source = batches(
        cut(documents, tokenizer, length), length, max(1, batch_tokens // length), seed
    )

    def loss_of(number: int) -> tuple[Tensor, int]:
        packed = next(source)
        key = (seed, MASKS, number)
        loss, _ = masked_lm_loss(model, packed, tokenizer, TRAINING_RATE, key)
        return loss, len(packed.ids)

    return train(model, loss_of, lr=lr, seconds=seconds, steps=steps, on_step=on_step)


@torch.inference_mode()
def evaluate(
    model: MaskedLM, documents: Sequence[Sequence[int]], tokenizer: Tokenizer, length: int = 256
) -> float:
    """Mean loss in nats a masked token at 15%, always with the same masks."""
    model.eval()
    pieces = cut(documents, tokenizer, length)
    total, masked = 0.0, 0
    for i in range(0, len(pieces), 16):
        packed = pack(pieces[i : i + 16])
        loss, count = masked_lm_loss(model, packed, tokenizer, EVALUATION_RATE, (0, MASKS, i))
        total, masked = total + loss.item() * count, masked + count
    if not masked:
        raise InputError("there is too little text to evaluate on")
    return total / masked


def unigram_entropy(documents: Sequence[Sequence[int]], special_ids: Sequence[int]) -> float:
    """Entropy in nats of the tokens' own frequencies: the best loss without any context."""
    counts = np.bincount(np.concatenate([np.asarray(d, dtype=np.int64) for d in documents]))
    counts[[i for i in special_ids if i < len(counts)]] = 0
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
