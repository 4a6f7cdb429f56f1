"""The schedule of a run with a simulated clock: it ends in time, and systems take turns."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from motherbird.bench import check as checks_module
from motherbird.bench.check import Check, check
from motherbird.bench.peers import Job, all_systems
from motherbird.bench.pool import EncodeResult, Pool
from motherbird.bench.runner import NO_TIME, SIZES, MeasurementPlan, measure
from motherbird.bench.workloads import WORKLOADS
from motherbird.errors import WorkerError

MINUTES = 55
JOB = Job(Path("model"), Path("folder"), 2, 768, 12, 50368, 8192, 600.0)
# Tokens a second at 512 and at 8,192 tokens, base, two cores of an AVX512-BF16 CPU: what was
# measured for some, and what that makes likely for the others.
SPEEDS = {
    "motherbird/float32": (600, 260), "motherbird/bfloat16": (1300, 560),
    "motherbird/int8": (2000, 800), "transformers/float32": (400, 150),
    "transformers-sorted/float32": (400, 150), "transformers/bfloat16": (850, 258),
    "transformers-sorted/bfloat16": (850, 258), "openvino/float32": (750, 300),
    "openvino/bfloat16": (1240, 440), "openvino/int8": (1700, 600),
    "openvino-dynamic/int8": (1500, 550),
    "onnxruntime/float32": (700, 130), "onnxruntime/int8": (1000, 150),
    "llama.cpp/float16": (250, 138), "llama.cpp/bfloat16": (250, 138),
    "llama.cpp/int8": (370, 168),
    "sentence-transformers/float32": (400, 150), "sentence-transformers/bfloat16": (850, 258),
    "bert/bfloat16": (1100, 1), "roberta/bfloat16": (1100, 1), "deberta-v3/bfloat16": (500, 1),
    "nomic-bert/bfloat16": (900, 200), "gte/bfloat16": (900, 200),
}  # fmt: skip
# Seconds of conversions, the first one of a peer included.
PREPARE = {"openvino/float32": 160, "openvino/int8": 90, "openvino-dynamic/int8": 40,
           "onnxruntime/float32": 30, "onnxruntime/int8": 40, "llama.cpp/float16": 10,
           "llama.cpp/bfloat16": 10, "llama.cpp/int8": 10}  # fmt: skip


class Clock(Pool):
    """Systems that only count the seconds they would have taken."""

    def __init__(self, slower=1.0, starts=8.0):
        self.now, self.slower, self.starts = 0.0, slower, starts
        self.alive, self.asked, self.broken = set(), [], {}

    def __call__(self):
        return self.now

    def prepare(self, system):
        self.now += PREPARE.get(system.key, 1) * self.slower

    def ask(self, system, request, limit):
        if system not in self.alive:
            self.now += self.starts * self.slower
            self.alive.add(system)
        self.asked.append((system.key, request))
        seconds = [self.seconds(system, batch) for batch in request.batches]
        self.now += sum(seconds) + 0.05
        if self.broken.get(system.key, lambda request: False)(request):
            raise WorkerError("broken")
        vectors = [np.ones((len(batch), 4), np.float32) for batch in request.batches]
        return EncodeResult(seconds, 1000.0, 900.0, vectors if request.vectors else [])

    def stop(self, system):
        self.alive.discard(system)

    def seconds(self, system, batch):
        """A cost per token that grows with the length, padding paid for where there is any."""
        short, long = SPEEDS[system.key]
        slope = (1 / long - 1 / short) / (8192 - 512) if long > 1 else 0.0
        start = 1 / short - 512 * slope
        lengths = [len(document) for document in batch]
        if system.order != "tokens":
            lengths = [max(lengths)] * len(lengths)
        return self.slower * (0.002 + sum(n * (start + slope * n) for n in lengths))


def resolved():
    return tuple(
        dataclasses.replace(s, dtype="bfloat16") if s.dtype == "auto" else s for s in all_systems()
    )


def run(clock, systems, workloads, repeats=3, minutes=MINUTES, checked=None):
    found, steps = {}, []
    ones = np.ones((10, 4), np.float32)

    def reference(system):
        return ones[: sum(map(len, checks_module.cases(system, JOB)))]

    known = checked or {s: check(s, JOB, clock, reference) for s in systems}
    plan = MeasurementPlan(
        systems, tuple(WORKLOADS[w] for w in workloads), repeats, minutes * 60.0, clock
    )
    measure(
        plan, JOB, clock, known,
        lambda line, count: steps.append(count),
        lambda pairs: found.update({(p.workload.name, p.system.key): p for p in pairs}),
    )  # fmt: skip
    assert sum(steps) == len(systems) * len(workloads) * (1 + repeats)
    return found


def test_the_default_run_ends_in_time_and_measures_everything():
    clock = Clock()
    clock.now = 30 + 15 + 5 * 12  # the machine, the oracle's vectors, those of five others
    pairs = run(clock, resolved(), WORKLOADS, minutes=MINUTES - 0.5)
    assert clock.now < MINUTES * 60
    for (workload, key), pair in pairs.items():
        if pair.reason is None:
            assert pair.repeats, (workload, key)
        else:
            assert "at most 512" in pair.reason or "as transformers" in pair.reason
    for workload in ("short-fixed", "short-variable", "queries", "latency"):
        runs = [len(p.repeats) for (w, _), p in pairs.items() if w == workload and p.repeats]
        assert min(runs) >= 2 and sum(n == 3 for n in runs) > len(runs) / 2
    for (workload, key), pair in pairs.items():
        if workload.startswith("long") and key.split("/")[0] in ("motherbird", "transformers"):
            assert len(pair.repeats) >= 2
    assert pairs["short-fixed", "transformers/float32"].tried.keys() == {1, 4}
    assert pairs["queries", "openvino/bfloat16"].tried.keys() == {1, 4, 8, 16, 32}


@pytest.mark.parametrize("slower", [2.0, 4.0])
def test_a_slow_machine_ends_in_time_too(slower):
    """What it has no time for says so, and nothing else does."""
    clock = Clock(slower=slower)
    pairs = run(clock, resolved(), WORKLOADS, minutes=MINUTES - 0.5)
    assert clock.now < (MINUTES + 1) * 60
    for pair in pairs.values():
        if pair.repeats:
            assert pair.reason is None
        else:
            assert pair.reason and ("at most" in pair.reason or pair.reason in (NO_TIME,)
                                    or "as transformers" in pair.reason)  # fmt: skip
    assert sum(bool(pair.repeats) for pair in pairs.values()) >= 60


def systems(*keys):
    return tuple(s for s in resolved() if s.key in keys)


def test_systems_take_turns():
    clock = Clock()
    few = systems("motherbird/float32", "transformers/float32", "openvino/bfloat16")
    pairs = run(clock, few, ["queries"])
    tail = [key for key, _ in clock.asked][-9:]
    assert tail == [s.key for s in few] * 3
    assert all(len(pair.repeats) == 3 for pair in pairs.values())


def test_with_time_every_batch_size_is_tried_and_the_best_is_kept():
    clock = Clock()
    few = systems("transformers/bfloat16", "openvino/bfloat16", "motherbird/bfloat16")
    pairs = run(clock, few, ["queries"], minutes=600)
    for pair in pairs.values():
        sizes = SIZES[pair.system.order]
        # Unsorted queries only get slower with the batch: two sizes in a row are enough to know.
        expected = sizes[:3] if pair.system.order == "given" else sizes
        assert tuple(pair.tried) == expected
        speeds = {size: pair.speed(run) for size, run in pair.tried.items()}
        assert pair.batch == max(speeds, key=speeds.get)


def test_every_system_is_given_the_same_documents():
    """Of the lengths of the pool, and of the same ids where the number is the same."""
    clock = Clock()
    run(clock, systems("transformers/float32", "openvino/float32"), ["short-variable"])
    seen = {}
    for _, request in clock.asked[10:]:
        for batch in request.batches:
            for document in batch:
                seen.setdefault(tuple(document[:8]), set()).add(tuple(document))
    assert len(seen) > 20 and all(len(same) == 1 for same in seen.values())


def test_the_peak_is_reset_for_each_workload():
    clock = Clock()
    run(clock, systems("motherbird/float32"), ["queries", "latency"])
    reset = [request.reset_peak for _, request in clock.asked if not request.vectors]
    assert sum(reset) == 2 and reset[0]


def test_shorter_documents_come_first():
    clock = Clock()
    run(clock, systems("motherbird/bfloat16"), ["long-fixed", "queries", "short-fixed"])
    firsts = [r.batches[0][0] for _, r in clock.asked if r.reset_peak]
    assert len(firsts) == 3 and [len(d) for d in firsts] == sorted(map(len, firsts))


def test_a_failure_has_a_reason_and_the_others_continue():
    clock = Clock()
    clock.broken["transformers/float32"] = lambda request: not request.vectors
    pairs = run(clock, systems("motherbird/float32", "transformers/float32"), ["queries"])
    broken = pairs["queries", "transformers/float32"]
    assert broken.reason == "broken" and not broken.repeats and broken.batch is None
    assert len(pairs["queries", "motherbird/float32"].repeats) == 3


def test_a_batch_too_large_is_no_failure():
    """Of a system that cannot take 16 documents, smaller batches are measured."""
    clock = Clock()
    clock.broken["openvino/float32"] = lambda request: len(request.batches[0]) >= 16
    pairs = run(clock, systems("openvino/float32"), ["queries"], minutes=600)
    pair = pairs["queries", "openvino/float32"]
    assert pair.reason is None and len(pair.repeats) == 3 and pair.batch in (1, 4, 8)
    assert pair.tried[16] is None and 32 not in pair.tried


def test_sorted_and_not_are_the_same_where_lengths_are():
    clock = Clock()
    both = systems("transformers/float32", "transformers-sorted/float32")
    pairs = run(clock, both, ["short-fixed"])
    reason = pairs["short-fixed", "transformers-sorted/float32"].reason
    assert reason == "as transformers: all documents have one length"
    alone = run(Clock(), both[1:], ["short-fixed"])
    assert alone["short-fixed", "transformers-sorted/float32"].repeats


def test_a_model_of_fewer_tokens_has_no_long_workload():
    clock = Clock()
    known = {s: Check(1.0, True, None, True, 500.0) for s in systems("bert/bfloat16")}
    pairs = run(clock, systems("bert/bfloat16"), ["long-fixed", "queries"], checked=known)
    assert pairs["long-fixed", "bert/bfloat16"].reason == "it takes at most 512 tokens"
    assert pairs["queries", "bert/bfloat16"].repeats
