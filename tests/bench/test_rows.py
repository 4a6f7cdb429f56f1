"""A row of the JSON from what was measured."""

import json

import pytest

from motherbird import presets
from motherbird.bench.check import Check
from motherbird.bench.peers import System
from motherbird.bench.rows import Measurement, Pair, median, spread
from motherbird.bench.workloads import WORKLOADS
from motherbird.core.flops import flops

KEYS = ["system", "workload", "dtype", "batch", "batch_of", "documents", "tokens_per_s", "ms",
        "spread", "repeats", "tried", "peak_mb", "loaded_mb", "roofline_fraction", "correct",
        "cosine", "compared_with", "reason"]  # fmt: skip
GOOD = Check(1.0, True, None, True, 100.0, 400.0)
ROOFLINES = {"float32": 0.5, "bfloat16": None, "int8": 2.0}


def pair(workload, **arguments):
    system = System("peer", "name", "float32", arguments.pop("order", "sorted"))
    return Pair(system, WORKLOADS[workload], GOOD, **arguments)


def row(measured):
    result = measured.row(presets.base(), ROOFLINES)
    json.dumps(result, allow_nan=False)
    assert list(result) == KEYS
    return result


def test_throughput():
    chosen = [[0, 1], [2, 3]]
    runs = [Measurement(chosen, [s, 2 * s]) for s in (1.0, 2.0, 4.0)]
    found = row(
        pair("short-fixed", batch=2, batches=chosen, repeats=runs, peak_mb=1000.0,
             tried={1: runs[0], 2: runs[1], 4: None})
    )  # fmt: skip
    assert found["tokens_per_s"] == 4 * 512 / 6
    assert found["spread"] == pytest.approx((4 * 512 / 3 - 4 * 512 / 12) / (4 * 512 / 6))
    assert (found["documents"], found["batch"], found["repeats"]) == (4, 2, 3)
    assert found["tried"] == {"1": 4 * 512 / 3, "2": 4 * 512 / 6, "4": None}
    assert found["ms"] is None and found["reason"] is None and found["correct"]
    fraction = 4 * 512 / 6 * flops(presets.base(), [512]) / 512 / 0.5e12
    assert found["roofline_fraction"] == pytest.approx(fraction)


def test_latency_is_that_of_the_median_call():
    chosen = [[0], [1], [2]]
    runs = [Measurement(chosen, [0.001, 0.002, 9.0]), Measurement(chosen, [0.004, 0.004, 0.004])]
    found = row(pair("latency", batch=1, batches=chosen, repeats=runs))
    assert found["ms"] == 3.0
    assert found["tokens_per_s"] == (16 / 0.002 + 16 / 0.004) / 2
    assert found["spread"] == pytest.approx(2 / 3)


def test_nothing_measured():
    found = row(pair("queries", reason="no time"))
    assert found["reason"] == "no time" and found["documents"] == found["repeats"] == 0
    assert found["tokens_per_s"] is found["roofline_fraction"] is found["batch"] is None


def test_wrong_systems_keep_their_measurements():
    chosen = [[0]]
    wrong = Check(None, False, "wrong: NaN", True, 100.0, 400.0)
    measured = pair("queries", batch=1, batches=chosen, repeats=[Measurement(chosen, [1.0])])
    measured.check = wrong
    found = row(measured)
    assert found["tokens_per_s"] == 16 and found["correct"] is False
    assert found["reason"] == "wrong: NaN" and found["spread"] is None


def test_reasons_are_not_repeated():
    measured = pair("queries", reason="broken")
    measured.check = Check(reason="broken")
    assert row(measured)["reason"] == "broken"
    measured.check = Check(0.5, False, "wrong", True)
    assert row(measured)["reason"] == "broken; wrong"


def test_other_weights_have_no_fraction():
    chosen = [[0]]
    system = System("peer", "bert", "float32", "sorted", same_weights=False)
    found = row(
        Pair(
            system, WORKLOADS["queries"], GOOD, batches=chosen, repeats=[Measurement(chosen, [1.0])]
        )
    )
    assert found["roofline_fraction"] is None and found["compared_with"] == "itself"


def test_batches_of_tokens():
    assert row(pair("queries", order="tokens"))["batch_of"] == "tokens"
    assert row(pair("queries"))["batch_of"] == "documents"


def test_median_and_spread():
    assert median([3.0, 1.0, 2.0]) == 2.0 and median([]) is None
    assert spread([3.0, 1.0, 2.0]) == 1.0
    assert spread([3.0]) is None and spread([]) is None
