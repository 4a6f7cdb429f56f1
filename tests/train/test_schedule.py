"""Schedules have the reference's numbers, and depend on nothing else."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird.errors import InputError
from motherbird.train.schedule import BatchSizeSchedule, LearningRateSchedule

B = 10**9


@pytest.mark.parametrize(
    ("tokens", "rate"), [(0, 0.0), (1.5 * B, 4e-4), (3 * B, 8e-4), (1000 * B, 8e-4)]
)
def test_rate_of_base(tokens, rate):
    assert LearningRateSchedule(8e-4, warm_up=3 * B).at(int(tokens), 1719 * B) == pytest.approx(
        rate, rel=1e-12
    )


@pytest.mark.parametrize(
    ("tokens", "base", "large"),
    [
        (0, 3e-4, 5e-5),
        (0.5 * B, 2.700300e-4, 4.500500e-5),
        (5 * B, 2.052265e-4, 3.420442e-5),
        (12.5 * B, 1.501500e-4, 2.502500e-5),
        (25 * B, 8.808010e-5, 1.468002e-5),
        (45 * B, 1.567962e-5, 2.613269e-6),
        (50 * B, 3e-7, 5e-8),
    ],
)
def test_decay_of_base_and_large(tokens, base, large):
    for peak, wanted in ((3e-4, base), (5e-5, large)):
        rate = LearningRateSchedule(peak, decay=50 * B).at(int(tokens), 50 * B)
        assert rate == pytest.approx(wanted, rel=1e-6)


def test_a_whole_trapezoid():
    rate = LearningRateSchedule(1.0, warm_up=10, decay=20, final=0.0)
    for tokens, wanted in (
        (5, 0.5), (10, 1), (80, 1), (81, 0.776393), (85, 0.5), (90, 0.292893), (95, 0.133975),
        (99, 0.025321), (100, 0),
    ):  # fmt: skip
        assert rate.at(tokens, 100) == pytest.approx(wanted, abs=1e-6)


@given(st.integers(0, 50), st.integers(0, 50), st.integers(100, 200), st.integers(0, 300))
def test_the_rate_stays_within_its_bounds(warm_up, decay, total, tokens):
    rate = LearningRateSchedule(1e-3, warm_up, decay, 0.01)
    assert 0 <= rate.at(tokens, total) <= 1e-3
    assert rate.at(total, total) == pytest.approx(1e-5 if decay else 1e-3)


@pytest.mark.parametrize(
    ("batch", "steps"),
    [
        (BatchSizeSchedule(4608, 768, 50 * B), [4239, 4239, 4239, 4238, 4239]),
        (BatchSizeSchedule(4928, 448, 10 * B), [396, 397]),
    ],
)
def test_batch_warm_up_of_base_and_large(batch, steps):
    """Equally many steps at each size; the full one begins where the warm-up ends."""
    counts: dict[int, int] = {}
    consumed = 0
    while (rows := batch.at(consumed, 1024)) < batch.rows:
        counts[rows] = counts.get(rows, 0) + 1
        consumed += rows
    assert list(counts) == [batch.first * k for k in range(1, batch.rows // batch.first)]
    if len(steps) == len(counts):
        assert list(counts.values()) == steps
    else:
        assert set(counts.values()) == set(steps) and sum(counts.values()) == 3965
    assert 0 <= consumed * 1024 - batch.warm_up < batch.rows * 1024


def test_batch_sizes_begin_where_the_reference_says():
    base = BatchSizeSchedule(4608, 768, 50 * B)
    for start, size in ((0, 768), (10 * B // 3, 1536), (10 * B, 2304), (20 * B, 3072),
                        (100 * B // 3, 3840), (50 * B, 4608)):  # fmt: skip
        rows = -(-start // 1024)
        assert base.at(rows, 1024) == size
        if start:
            assert base.at(rows - 1, 1024) == size - 768


def test_without_a_warm_up():
    assert BatchSizeSchedule(576).at(0, 8192) == 576


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LearningRateSchedule(0.0), "lr = 0.0"),
        (lambda: LearningRateSchedule(1.0, warm_up=-1), "0 or more"),
        (lambda: LearningRateSchedule(1.0, final=2.0), "final = 2.0"),
        (
            lambda: LearningRateSchedule(1.0, 60, 60).at(0, 100),
            r"\(120 tokens\) are longer than the phase \(100\)",
        ),
        (lambda: BatchSizeSchedule(0), "rows = 0"),
        (lambda: BatchSizeSchedule(10, 3, 100), "3 does not divide rows = 10"),
        (lambda: BatchSizeSchedule(10, 5), "set together"),
        (lambda: BatchSizeSchedule(10, None, 5), "set together"),
    ],
)
def test_what_makes_no_sense(make, says):
    with pytest.raises(InputError, match=says):
        make()
