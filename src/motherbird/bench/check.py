"""Correctness comes first: every system's vectors against the truth, on lengths that break others.

The truth is the oracle, our attention written out in float32, one document at a time. A system with
weights of its own is compared with itself, one document at a time in float32.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .measure import cosines
from .peers import Job, System, motherbird, peer
from .pool import Answer, Request, Systems
from .worker import WorkFailed
from .workloads import SEED, Batches, ids

CASES = ((1,), (64, 65), (129, 129), (300, 150, 60), (1024, 4))  # one batch each
LIMIT = 90.0  # seconds, then a system is given up

# A system is correct where the worst cosine of a pooled vector is at least this.
AGREEMENT = {"float32": 0.99999, "bfloat16": 0.995, "int8": 0.995}


@dataclass(frozen=True)
class Check:
    """What is known of a system before it is measured.

    Attributes:
        cosine: the worst one; None where a vector is not finite, or none came.
        correct: None where there is nothing to judge.
        reason: why it is not correct, or does not run.
        runs: whether it gives vectors at all.
        tokens_per_s: a first guess of its speed.
        loaded_mb: memory of its process when it is loaded and has seen one token.
    """

    cosine: float | None = None
    correct: bool | None = None
    reason: str | None = None
    runs: bool = False
    tokens_per_s: float = 0.0
    loaded_mb: float | None = None


def cases(system: System, job: Job) -> Batches:
    """The documents of `CASES`, as far as the model and the system take them."""
    chance = np.random.default_rng(SEED)
    drawn = [[ids(chance, n, job.vocab_size) for n in case] for case in CASES]
    return [case for case in drawn if max(map(len, case)) <= system.limit(job)]


def truth(system: System, job: Job) -> NDArray[np.float32]:
    """The vectors of the documents of `cases`, one document at a time, in float32."""
    if system.same_weights:
        encode = motherbird.load(job.directory, "float32", "oracle", job.threads)
    else:
        encode = peer(system).build(replace(system, dtype="float32"), job)
    return np.concatenate(encode([[d] for case in cases(system, job) for d in case]))


def check(
    system: System,
    job: Job,
    pool: Systems,
    wanted: Callable[[System], NDArray[np.float32]],
) -> Check:
    """Start a system and compare its vectors with ``wanted(system)``, see `truth`."""
    answers: list[Answer] = []
    spent = 0.0
    batches = cases(system, job)
    try:
        pool.prepare(system)
        right = wanted(system)
        for case in batches:
            if spent >= LIMIT:
                raise WorkFailed(f"its check takes more than {LIMIT:.0f} seconds")
            answers.append(pool.ask(system, Request([case], vectors=True), LIMIT - spent))
            spent += sum(answers[-1].seconds)
    except WorkFailed as failure:
        pool.rest(system)
        return Check(reason=failure.reason)
    values = cosines(np.concatenate([answer.vectors[0] for answer in answers]), right)
    lost = int((~np.isfinite(values)).sum())
    worst = None if lost else float(values.min())
    correct = worst is not None and worst >= AGREEMENT[system.dtype]
    reason = None
    if lost:
        reason = f"wrong: {lost} of {len(values)} vectors are not finite"
    elif not correct:
        reason = f"wrong: a cosine of {worst:.5f} is below {AGREEMENT[system.dtype]}"
    rate = sum(map(len, batches[-1])) / sum(answers[-1].seconds)
    return Check(worst, correct, reason, True, rate, answers[0].resident_mb)
