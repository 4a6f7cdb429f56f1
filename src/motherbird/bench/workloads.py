"""What is encoded: the paper's four efficiency workloads (section 4.3, appendix E), and queries.

A workload is a pool of documents whose lengths are drawn once from a fixed seed; their ids are
uniform, as in the paper's own script. A run of n documents takes them at even steps through the
pool sorted by length, so that few documents have the same spread of lengths as many: a slow system
can be given less work without being given other work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar

import numpy as np

T = TypeVar("T")

SEED = 42
POOL = 512  # documents
FIRST_ID, LAST_ID = 100, 16_000  # as in the paper's script

# How a system wants its batches: documents as they come, of like length together (both so many
# documents a batch), or of like length up to so many tokens a batch.
Order = Literal["given", "sorted", "tokens"]
Batches = list[list[list[int]]]  # batches of documents of token ids


@dataclass(frozen=True)
class Workload:
    """Lengths from N(mean, deviation), or uniform where no deviation is given, within bounds.

    Attributes:
        name: what `--workload` calls it.
        what: a few words for people.
        shortest, longest: in tokens.
        mean, deviation: of the normal distribution.
        share: of a run's time, next to the other workloads' shares.
        latency: one document a call, and the milliseconds of a call are what counts.
    """

    name: str
    what: str
    shortest: int
    longest: int
    share: float
    mean: int = 0
    deviation: int = 0
    latency: bool = False

    @property
    def fixed(self) -> bool:
        """Whether all documents have one length."""
        return self.shortest == self.longest

    def lengths(self) -> list[int]:
        """Tokens of each document of the pool, shortest first."""
        return _lengths(self)

    def document(self, number: int, vocab_size: int) -> list[int]:
        """Ids of a document of the pool, the same in every run."""
        chance = np.random.default_rng([SEED, *self.name.encode(), number])
        return ids(chance, self.lengths()[number], vocab_size)


def ids(chance: np.random.Generator, length: int, vocab_size: int) -> list[int]:
    """Uniform token ids, of a smaller vocabulary from its upper half."""
    last = min(LAST_ID, vocab_size)
    return chance.integers(min(FIRST_ID, last // 2), last, length).tolist()


@cache
def _lengths(workload: Workload) -> list[int]:
    chance = np.random.default_rng([SEED, *workload.name.encode()])
    if workload.deviation:
        drawn = chance.normal(workload.mean, workload.deviation, POOL)
    else:
        drawn = chance.uniform(workload.shortest - 0.5, workload.longest + 0.5, POOL)
    return sorted(drawn.round().clip(workload.shortest, workload.longest).astype(int).tolist())


# The shares follow what the systems take; runner.py has the arithmetic.
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("short-fixed", "512 tokens", 512, 512, share=0.14),
        Workload("short-variable", "N(256, 64) tokens", 16, 512, 0.14, mean=256, deviation=64),
        Workload("long-fixed", "8,192 tokens", 8192, 8192, share=0.35),
        Workload(
            "long-variable", "N(4096, 1024) tokens", 16, 8192, 0.21, mean=4096, deviation=1024
        ),
        Workload("queries", "16 to 64 tokens", 16, 64, share=0.11),
        Workload("latency", "one query of 16 tokens", 16, 16, share=0.05, latency=True),
    )
}


def choose(
    workload: Workload, order: Order, size: int, tokens: float, together: int = 1
) -> list[list[int]]:
    """Batches of about ``tokens`` tokens together, at least one, as numbers into the pool.

    Args:
        workload: whose documents.
        order: see `Order`; documents "given" come in an order of chance.
        size: documents of a batch, or its tokens where the order is "tokens" (1: one document).
        tokens: how much work is wanted; at most the pool is given.
        together: how many batches of tokens run side by side; their number is a multiple of it, or
            smaller, since in a large job the last few do not count.
    """
    lengths = workload.lengths()
    mean = sum(lengths) / len(lengths)
    if order == "given":
        batches = round(tokens / mean / size)
        chosen = _evenly(range(len(lengths)), max(1, min(batches, len(lengths) // size)) * size)
        chance = np.random.default_rng([SEED, len(chosen)])
        mixed = [chosen[i] for i in chance.permutation(len(chosen))]
        return [mixed[i : i + size] for i in range(0, len(mixed), size)]
    whole = _neighbours(lengths, order, size)
    batches = round(tokens / (mean * len(lengths) / len(whole)))
    count = max(1, min(batches, len(whole)))
    if order == "tokens" and count > together:
        count -= count % together
    return _evenly(whole, count)


def _neighbours(lengths: list[int], order: Order, size: int) -> list[list[int]]:
    """The whole pool in batches of documents of like length, as a large job would be cut."""
    if order == "tokens" and size > 1:
        from ..core.batching import split_by_tokens  # brings torch, which not every worker needs

        return split_by_tokens(lengths, size)
    return [list(range(i, i + size)) for i in range(0, len(lengths) - size + 1, size)]


def _evenly(items: Sequence[T], count: int) -> list[T]:
    """The middles of ``count`` equal stretches of a sequence."""
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def batches(workload: Workload, chosen: list[list[int]], vocab_size: int) -> Batches:
    """The token ids of what `choose` chose."""
    return [[workload.document(number, vocab_size) for number in batch] for batch in chosen]
