"""Chance without a state: fixed values, permutations, and no pattern that a test can see."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird.core.rng import random_bits, shuffled

keys = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4).map(tuple)


def test_the_values_never_change():
    """What a run drew, a later version draws: these numbers are a promise."""
    assert random_bits((1, 2), [0, 1, 2**63]).tolist() == [
        16816039104047873206, 9177511572909541326, 403752261001980944,
    ]  # fmt: skip
    assert shuffled(range(10), 10, (7,)).tolist() == [0, 3, 5, 8, 2, 6, 9, 1, 7, 4]


def test_splitmix_is_the_published_one():
    """Steele et al. 2014: the first outputs from seed 0, as in every implementation."""
    from motherbird.core.rng import STEP, _mix

    with np.errstate(over="ignore"):
        states = np.arange(1, 4).astype(np.uint64) * STEP
    assert [hex(x) for x in _mix(states).tolist()] == [
        "0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4", "0x6c45d188009454f",
    ]  # fmt: skip


@given(keys, keys, st.integers(0, 2**64 - 1))
def test_another_key_other_bits(key, other, place):
    same = int(random_bits(key, place)) == int(random_bits(other, place))
    assert same == (key == other)


def test_bits_are_even():
    drawn = random_bits((3,), np.arange(100_000))
    for bit in range(64):
        share = float((drawn >> np.uint64(bit) & np.uint64(1)).mean())
        assert abs(share - 0.5) < 0.01  # 6 standard deviations


@given(st.integers(1, 3000), keys)
def test_a_shuffle_is_a_permutation(total, key):
    assert sorted(shuffled(np.arange(total), total, key).tolist()) == list(range(total))


@given(st.integers(1, 10**12), keys, st.data())
def test_a_place_alone_is_the_place_among_others(total, key, data):
    places = data.draw(st.lists(st.integers(0, total - 1), min_size=1, max_size=20))
    together = shuffled(places, total, key)
    assert ((0 <= together) & (together < total)).all()
    assert [int(shuffled([place], total, key)[0]) for place in places] == together.tolist()


@pytest.mark.parametrize("total", [2, 3, 5, 12])
def test_every_place_gets_every_number(total):
    """Over many keys, chi-squared on what stands first and last."""
    keys_of = 200 * total
    for place in (0, total - 1):
        found = [int(shuffled([place], total, (9, key))[0]) for key in range(keys_of)]
        counts = np.bincount(found, minlength=total)
        chi = float(((counts - 200) ** 2 / 200).sum())
        assert chi < total + 6 * (2 * total) ** 0.5


def test_neighbours_are_parted():
    order = shuffled(np.arange(10_000), 10_000, (1,))
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
