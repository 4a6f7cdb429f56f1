"""Chance without a state: numbers that depend on a key and a place alone.

Whatever is drawn for row 17 of epoch 3 is the same in any batch, process, order or resume, and on
every machine and version of NumPy (whose own generators promise that for one build only).
Arithmetic is that of 64-bit integers that wrap around.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Positions = NDArray[np.integer[Any]] | Sequence[int] | int
STEP = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio
ROUNDS = 6  # of the Feistel network; 4 are enough for a pseudo-random permutation


def random_bits(key: Sequence[int], positions: Positions) -> NDArray[np.uint64]:
    """64 random bits for each place: splitmix64 (Steele et al. 2014), started from the key.

    Args:
        key: whole numbers from 0 to 2^64 - 1; every one of them, and their order, counts.
        positions: whole numbers likewise, of any shape.

    Returns:
        uint64, of the shape of ``positions``.
    """
    state = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for number in key:
            state = _mix(state + STEP) ^ np.uint64(number)
        state = _mix(state + STEP)[0]
        drawn = _mix(np.atleast_1d(positions).astype(np.uint64) * STEP + state)
    return drawn.reshape(np.shape(positions))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def shuffled(positions: Positions, total: int, key: Sequence[int]) -> NDArray[np.int64]:
    """What stands at some positions of a shuffled 0 to total - 1: a bijection, with no list of it.

    A Feistel network over the next power of 4, walked along its cycles until it is back below
    ``total`` (Black and Rogaway 2002): less than 4 steps in the mean.

    Args:
        positions: each 0 to total - 1.
        total: how many there are.
        key: see `bits`.
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
