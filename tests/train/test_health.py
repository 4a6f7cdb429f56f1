"""What is done about NaN, spikes and shifts; healthy runs are not affected."""

import copy
import math
import random
from dataclasses import replace

import pytest

from motherbird.train.health import Health, too_many_rollbacks
from motherbird.train.recipe import Limits

LIMITS = Limits()


def healthy(seed, steps, level=3.0, noise=0.05, fall=0.3):
    chance = random.Random(seed)
    return [level + fall * math.exp(-i / 500) + chance.gauss(0, noise) for i in range(steps)]


def run(losses, norms=None, limits=LIMITS, health=None, start=1):
    health = health or Health()
    norms = norms or [1.0 + 0.1 * math.sin(i) for i in range(len(losses))]
    found = []
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), start):
        found.append(health.judge(step, loss, norm, limits))
    return health, found


def verdicts(found):
    return [(i + 1, j.action) for i, j in enumerate(found) if j.action != "apply"]


@pytest.mark.parametrize(
    "seed", [*range(5), *(pytest.param(n, marks=pytest.mark.slow) for n in range(5, 20))]
)
def test_no_false_alarm_in_clean_runs_of_5000_steps(seed):
    assert verdicts(run(healthy(seed, 5000))[1]) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "norm"])
def test_one_that_is_not_finite_costs_one_step(value, where):
    losses, norms = healthy(1, 600), [1.0] * 600
    (losses if where == "loss" else norms)[300] = value
    health, found = run(losses, norms)
    assert verdicts(found) == [(301, "skip")]
    assert all(map(math.isfinite, health.losses + health.norms))


def test_three_in_a_row_roll_back():
    losses = healthy(1, 300)
    losses[200:203] = [math.nan] * 3
    _, found = run(losses[:203])
    assert verdicts(found) == [(201, "skip"), (202, "skip"), (203, "roll back")]
    assert found[202].onset == 201


def test_ten_lately_roll_back():
    losses = healthy(1, 800)
    for i in range(10):
        losses[100 + 50 * i] = math.nan
    _, found = run(losses[:551])
    assert [v for _, v in verdicts(found)] == ["skip"] * 9 + ["roll back"]


@pytest.mark.parametrize("times", [1.5, 10, 1000])
@pytest.mark.parametrize("where", ["loss", "norm"])
def test_a_spike_costs_one_step(times, where):
    losses, norms = healthy(2, 600), [1.0] * 600
    (losses if where == "loss" else norms)[300] *= times
    health, found = run(losses, norms)
    assert verdicts(found) == [(301, "skip")] and "spike" in found[300].reason
    assert max(health.losses) < 4 and max(health.norms) <= 1.0


def test_five_spikes_in_a_row_roll_back_to_before_the_first():
    losses = healthy(2, 305)
    losses[300:] = [30.0] * 5
    _, found = run(losses)
    assert verdicts(found)[-1] == (305, "roll back") and found[-1].onset == 301


def test_a_quiet_run_needs_more_than_six_deviations():
    losses = [3.0 + 1e-6 * (i % 2) for i in range(400)]
    losses[300] = 3.2  # a hundred thousand deviations, and 7% above the mean
    assert verdicts(run(losses)[1]) == []


def test_nothing_is_judged_before_there_is_something_to_compare_with():
    losses = [10.0] * 30 + [500.0] + [10.0] * 32
    assert verdicts(run(losses)[1]) == []


def test_a_new_phase_forgets():
    health, _ = run(healthy(3, 300))
    health.begin_phase()
    _, found = run([9.0] * 64, health=health, start=301)
    assert verdicts(found) == []


def test_a_shift_of_the_level_rolls_back_after_a_hundred_steps():
    losses = healthy(4, 1000)
    for i in range(500, 1000):
        losses[i] += 0.2  # four deviations: no spike
    _, found = run(losses[:800])
    first, verdict = verdicts(found)[0]
    assert verdict == "roll back" and 600 <= first <= 660
    assert 470 <= found[first - 1].onset <= 540


def test_a_state_that_was_saved_judges_alike():
    losses = healthy(5, 900)
    losses[300], losses[700] = 99.0, math.nan
    _, whole = run(losses)
    health, first = run(losses[:450])
    _, second = run(losses[450:], [1.0 + 0.1 * math.sin(i) for i in range(450, 900)],
                    health=copy.deepcopy(health), start=451)  # fmt: skip
    assert first + second == whole


def test_limits_are_the_recipes():
    limits = replace(LIMITS, nonfinite=1)
    assert run([math.nan], [1.0], limits)[1][0].action == "roll back"


@pytest.mark.parametrize(
    ("before", "step", "wanted"),
    [([], 10, False), ([5], 10, False), ([5, 8], 10, True), ([5, 8], 9000, False),
     ([1, 9000, 18000, 27000, 36000], 45000, True)],
)  # fmt: skip
def test_too_many_rollbacks(before, step, wanted):
    assert too_many_rollbacks(before, step, LIMITS) is wanted
