"""The workloads: the paper's four efficiency workloads (section 4.3, appendix E), and queries.

A workload has 512 documents, whose lengths are drawn from a fixed seed; their ids are uniform, as
in the paper's script. A measurement on n documents takes them at equal steps through all documents
sorted by length, so that a few have the same distribution of lengths as many: a slow system can be
given less work of the same type.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np

T = TypeVar("T")

SEED = 42
POOL = 512  # documents of a workload
FIRST_ID, LAST_ID = 100, 16_000  # as in the paper's script

# How the batches of a system are formed: a number of documents in random order, a number of
# documents of similar length, or documents of similar length up to a number of tokens.
Order = Literal["given", "sorted", "tokens"]
Batches = list[list[list[int]]]  # batches of documents of token ids


@dataclass(frozen=True)
class Workload:
    """Documents with lengths from N(mean, deviation), or uniform lengths if deviation is 0."""

    name: str  # its name in `--workloads`
    what: str  # a short description
    shortest: int  # limits of the lengths, in tokens
    longest: int
    weight: float  # its part of the time of a run, relative to the other workloads
    mean: int = 0  # of the normal distribution, in tokens
    deviation: int = 0
    latency: bool = False  # whether each call gets one document, and ms per call are reported

    @property
    def fixed(self) -> bool:
        """Whether all documents have the same length."""
        return self.shortest == self.longest

    @cached_property
    def lengths(self) -> list[int]:
        """The tokens of each document, shortest first."""
        rng = np.random.default_rng([SEED, *self.name.encode()])
        if self.deviation:
            drawn = rng.normal(self.mean, self.deviation, POOL)
        else:
            drawn = rng.uniform(self.shortest - 0.5, self.longest + 0.5, POOL)
        return sorted(drawn.round().clip(self.shortest, self.longest).astype(int).tolist())

    def lengths_of(self, chosen: list[list[int]]) -> list[int]:
        """Return the tokens of each document of the batches that `choose` returned."""
        return [self.lengths[number] for batch in chosen for number in batch]

    def document(self, number: int, vocab_size: int) -> list[int]:
        """Return the ids of a document, the same in every run."""
        rng = np.random.default_rng([SEED, *self.name.encode(), number])
        return ids(rng, self.lengths[number], vocab_size)


def ids(rng: np.random.Generator, length: int, vocab_size: int) -> list[int]:
    """Return uniform token ids; those of a small vocabulary are from its upper half."""
    last = min(LAST_ID, vocab_size)
    return rng.integers(min(FIRST_ID, last // 2), last, length).tolist()


# The weights are in proportion to what the systems take; see runner.py.
WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("short-fixed", "512 tokens", 512, 512, weight=0.14),
        Workload("short-variable", "N(256, 64) tokens", 16, 512, 0.14, 256, 64),
        Workload("long-fixed", "8,192 tokens", 8192, 8192, weight=0.35),
        Workload("long-variable", "N(4096, 1024) tokens", 16, 8192, 0.21, 4096, 1024),
        Workload("queries", "16 to 64 tokens", 16, 64, weight=0.11),
        Workload("latency", "one query of 16 tokens", 16, 16, weight=0.05, latency=True),
    )
}


def choose(
    workload: Workload, order: Order, size: int, tokens: float, parallel: int = 1
) -> list[list[int]]:
    """Return batches with about ``tokens`` tokens in total, as indices of documents.

    At least one batch is returned, and at most all documents. ``size`` counts the documents of a
    batch, or its tokens if the order is "tokens" (1: one document). If ``parallel`` batches of
    tokens run at a time, their number is a multiple of it, or smaller: in a large job, an
    incomplete last round does not matter.
    """
    lengths = workload.lengths
    mean = sum(lengths) / len(lengths)
    if order == "given":
        batches = round(tokens / mean / size)
        chosen = _evenly(range(len(lengths)), max(1, min(batches, len(lengths) // size)) * size)
        order_of = np.random.default_rng([SEED, len(chosen)]).permutation(len(chosen))
        mixed = [chosen[i] for i in order_of]
        return [mixed[i : i + size] for i in range(0, len(mixed), size)]
    whole = _neighbors(lengths, order, size)
    batches = round(tokens / (mean * len(lengths) / len(whole)))
    count = max(1, min(batches, len(whole)))
    if order == "tokens" and count > parallel:
        count -= count % parallel
    return _evenly(whole, count)


def _neighbors(lengths: list[int], order: Order, size: int) -> list[list[int]]:
    """Return all documents in batches of similar length, as a large job would be cut."""
    if order == "tokens" and size > 1:
        from ..core.batching import split_by_tokens

        return split_by_tokens(lengths, size)
    return [list(range(i, i + size)) for i in range(0, len(lengths) - size + 1, size)]


def _evenly(items: Sequence[T], count: int) -> list[T]:
    """Return the middle item of each of ``count`` equal parts of a sequence."""
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def batches(workload: Workload, chosen: list[list[int]], vocab_size: int) -> Batches:
    """Return the token ids of the batches that `choose` returned."""
    return [[workload.document(number, vocab_size) for number in batch] for batch in chosen]
