"""Stateless random numbers: each depends only on a key and a position.

What is drawn for row 17 of epoch 3 is the same in any batch, process or order, after a resume, and
on every machine and version of NumPy (whose generators do not guarantee that). Arithmetic is that
of 64-bit integers, modulo 2^64.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.integer[Any]] | Sequence[int] | int
STEP = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of splitmix64
MASK = 2**64 - 1
ROUNDS = 6  # of the Feistel network; 4 suffice for a pseudo-random permutation


def random_bits(key: Sequence[int], positions: Positions) -> NDArray[np.uint64]:
    """Return 64 random bits per position: splitmix64 (Steele et al. 2014), seeded with the key.

    Args:
        key: integers from 0 to 2^64 - 1; their order matters.
        positions: integers from 0 to 2^64 - 1, of any shape.

    Returns:
        uint64, with the shape of ``positions``.
    """
    state = 0
    for number in key:
        state = _mix_integer(state + STEP) ^ int(number)
    state = _mix_integer(state + STEP)
    if isinstance(positions, int):
        return np.array(_mix_integer(positions * STEP + state), np.uint64)
    with np.errstate(over="ignore"):
        own = np.atleast_1d(positions).astype(np.uint64)
        drawn = _mix(own * np.uint64(STEP) + np.uint64(state))
    return drawn.reshape(np.shape(positions))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(FIRST)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(SECOND)
    return x ^ (x >> np.uint64(31))


def _mix_integer(x: int) -> int:
    """Return the same for one number: Python is faster than NumPy at that."""
    x &= MASK
    x = ((x ^ (x >> 30)) * FIRST) & MASK
    x = ((x ^ (x >> 27)) * SECOND) & MASK
    return x ^ (x >> 31)


def shuffled(positions: Positions, total: int, key: Sequence[int]) -> NDArray[np.int64]:
    """Return the elements at some positions of a random permutation of 0 to total - 1.

    It is a Feistel network over the next power of 4. Results that are not below ``total`` are put
    through it again (cycle walking, Black and Rogaway 2002), less than 4 times on average.

    Args:
        positions: integers from 0 to total - 1.
        total: size of the permutation.
        key: see `random_bits`.
    """
    half = np.uint64(max(1, ((total - 1).bit_length() + 1) // 2))
    low = (np.uint64(1) << half) - np.uint64(1)
    x = np.array(positions, dtype=np.uint64, ndmin=1)
    walking = np.ones(x.shape, dtype=bool)
    while walking.any():
        left, right = x[walking] >> half, x[walking] & low
        for number in range(ROUNDS):
            left, right = right, left ^ (random_bits((*key, number), right) & low)
        x[walking] = left << half | right
        walking = x >= total
    return x.astype(np.int64).reshape(np.shape(positions))
