"""Masks: how many, of which kind, and that the key alone decides."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from motherbird import InputError
from motherbird.core.masking import Masking

MASK, SPECIAL, SIZE = 98, (96, 97, 98, 99), 100
MANY = 200_000


def ordinary(count: int) -> torch.Tensor:
    return torch.randint(96, (count,))


def mask(ids, rate=0.3, key=(0, 0), special_ids=SPECIAL, vocab_size=SIZE):
    masking = Masking(rate, MASK, tuple(special_ids), vocab_size)
    fed, hidden = masking.mask(ids.numpy(), key)
    return torch.from_numpy(fed), torch.from_numpy(hidden)


def near(count: int, trials: int, chance: float) -> bool:
    """Within five standard deviations of a binomial distribution."""
    return abs(count - trials * chance) <= 5 * math.sqrt(trials * chance * (1 - chance)) + 1e-9


@pytest.mark.parametrize("rate", [0.15, 0.3, 0.8, 1.0])
def test_the_rate_and_the_three_kinds(rate):
    ids = ordinary(MANY)
    fed, hidden = mask(ids, rate)
    before, after = ids[hidden], fed[hidden]
    assert near(len(hidden), MANY, rate)
    masked, kept = after == MASK, after == before
    assert near(int(masked.sum()), len(hidden), 0.8)
    # One random token in 96 is the original one.
    assert near(int(kept.sum()), len(hidden), 0.1 + 0.1 / 96)
    assert near(int((~masked & ~kept).sum()), len(hidden), 0.1 * 95 / 96)


def test_random_tokens_are_drawn_evenly():
    ids = ordinary(MANY)
    fed, hidden = mask(ids, 1.0)
    drawn = fed[hidden][(fed[hidden] != MASK) & (fed[hidden] != ids[hidden])]
    counts = drawn.bincount(minlength=SIZE)
    assert counts[list(SPECIAL)].sum() == 0
    assert all(near(int(count), len(drawn), 1 / 96) for count in counts[:96])


def test_only_hidden_tokens_are_touched():
    ids = ordinary(1000)
    before = ids.clone()
    fed, hidden = mask(ids)
    others = torch.ones(1000, dtype=torch.bool)
    others[hidden] = False
    assert torch.equal(ids, before)
    assert torch.equal(fed[others], ids[others])
    assert torch.equal(hidden, hidden.unique())  # ascending, each once
    assert fed.dtype == hidden.dtype == torch.int64


def test_special_tokens_are_never_hidden():
    ids = torch.tensor([96, *range(90), 97] * 200)
    fed, hidden = mask(ids, 1.0)
    assert torch.equal(hidden, (ids < 96).nonzero()[:, 0])
    assert torch.equal(fed[ids >= 96], ids[ids >= 96])
    fed, hidden = mask(torch.tensor([96, 97, 98, 99]), 1.0)
    assert fed.tolist() == [96, 97, 98, 99] and hidden.tolist() == []


def test_where_nothing_is_special_everything_may_be_drawn():
    fed, hidden = mask(torch.zeros(MANY, dtype=torch.int64), 1.0, special_ids=())
    assert len(hidden) == MANY
    assert (fed.bincount(minlength=SIZE) > 0).all()


keys = st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 10**9))


@given(keys, st.sampled_from([0.15, 0.3, 1.0]))
def test_one_key_one_mask(key, rate):
    ids = ordinary(500)
    first, again = mask(ids, rate, key), mask(ids, rate, key)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


@given(keys, keys)
def test_other_key_other_mask(key, other):
    ids = ordinary(500)
    same = torch.equal(mask(ids, key=key)[0], mask(ids, key=other)[0])
    assert same == (key == other)


def test_masks_of_neighbouring_steps_are_independent():
    """Two steps hide the same token as often as chance would: not the same ones, not others."""
    ids = ordinary(MANY)
    both = torch.zeros(MANY)
    for step in (1, 2):
        both[mask(ids, key=(0, step))[1]] += 1
    assert near(int((both == 2).sum()), MANY, 0.09)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.01, 30.0, math.nan, math.inf])
def test_impossible_rates(rate):
    with pytest.raises(InputError, match=rf"rate {rate}"):
        mask(ordinary(10), rate)


@given(st.lists(st.integers(0, 2**60), min_size=2, max_size=50, unique=True), st.randoms())
def test_a_token_is_drawn_for_by_its_place_alone(places, random):
    """Whatever batch it stands in: a row is masked alike by any rank, worker and order."""
    masking = Masking(0.5, MASK, SPECIAL, SIZE)
    ids, places = ordinary(len(places)).numpy(), np.array(places)
    fed, hidden = masking.mask(ids, (1, 2), places)
    order = random.sample(range(len(places)), len(places))
    fed_other, hidden_other = masking.mask(ids[order], (1, 2), places[order])
    assert (fed_other == fed[order]).all()
    assert sorted(np.array(order)[hidden_other].tolist()) == hidden.tolist()
