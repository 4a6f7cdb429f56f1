"""The correctness check that comes before every measurement.

The pooled vectors of every system are compared with reference vectors, on lengths that reveal
errors of padding and of windows. The reference is the attention oracle of `nn.attention` in
float32, one document at a time. A system with weights of its own is compared with itself, one
document at a time in float32.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..core.batching import TEST_LENGTHS
from ..errors import WorkerError
from .peers import Job, System, motherbird, peer
from .pool import EncodeRequest, EncodeResult, Pool
from .workloads import SEED, Batches, ids

LIMIT = 90.0  # seconds; a system whose check takes longer is not measured

# A system is correct if the smallest cosine of a pooled vector is at least this.
AGREEMENT = {"float32": 0.99999, "float16": 0.9999, "bfloat16": 0.995, "int8": 0.995}


@dataclass(frozen=True)
class Check:
    """The result of the check of one system."""

    cosine: float | None = None  # the smallest; None if a vector is not finite, or there are none
    correct: bool | None = None  # None if there are no vectors
    reason: str | None = None  # why the system is wrong, or does not run
    runs: bool = False  # whether it returns vectors
    tokens_per_s: float = 0.0  # a first estimate of its speed
    loaded_mb: float | None = None  # memory of its process after loading and encoding one token


def cases(system: System, job: Job) -> Batches:
    """Return random documents of `TEST_LENGTHS`, in batches that model and system accept."""
    rng = np.random.default_rng(SEED)
    drawn = [[ids(rng, n, job.vocab_size) for n in case] for case in TEST_LENGTHS]
    return [case for case in drawn if max(map(len, case)) <= system.limit(job)]


def reference_vectors(system: System, job: Job) -> NDArray[np.float32]:
    """Return the reference vectors of the documents of `cases`, (documents, D)."""
    if system.same_weights:
        encode = motherbird.load(job.directory, "float32", "oracle", job.threads)
    else:
        encode = peer(system).build(replace(system, dtype="float32"), job)
    return np.concatenate(encode([[d] for case in cases(system, job) for d in case]))


def cosines(vectors: NDArray[np.float32], references: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the cosine of each row with the same row of the references; NaN if not finite."""
    a, b = vectors.astype(np.float64), references.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def check(
    system: System, job: Job, pool: Pool, reference: Callable[[System], NDArray[np.float32]]
) -> Check:
    """Start a system and compare its vectors with ``reference(system)``."""
    results: list[EncodeResult] = []
    spent = 0.0
    batches = cases(system, job)
    try:
        pool.prepare(system)
        expected = reference(system)
        for case in batches:
            if spent >= LIMIT:
                raise WorkerError(f"its check takes more than {LIMIT:.0f} seconds")
            results.append(pool.ask(system, EncodeRequest([case], vectors=True), LIMIT - spent))
            spent += sum(results[-1].seconds)
    except WorkerError as error:
        pool.stop(system)
        return Check(reason=str(error))
    values = cosines(np.concatenate([result.vectors[0] for result in results]), expected)
    not_finite = int((~np.isfinite(values)).sum())
    worst = None if not_finite else float(values.min())
    correct = worst is not None and worst >= AGREEMENT[system.dtype]
    reason = None if correct else f"wrong: {not_finite} of {len(values)} vectors are not finite"
    if worst is not None and not correct:
        reason = f"wrong: a cosine of {worst:.5f} is below {AGREEMENT[system.dtype]}"
    rate = sum(map(len, batches[-1])) / sum(results[-1].seconds)
    return Check(worst, correct, reason, True, rate, results[0].resident_mb)
