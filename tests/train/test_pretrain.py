"""A run gives the same result however often it stops; NaN, spikes and signals."""

import math
import os
import shutil
import signal
import time
from collections import Counter
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import torch

from motherbird.data import loader
from motherbird.data.prepare import prepare
from motherbird.errors import DivergedError, InputError, WorkerError
from motherbird.train import gradients, run_info, run_log, state
from motherbird.train import pretrain as pretraining
from motherbird.train import step as stepping
from motherbird.train.health import Health
from motherbird.train.signals import IGNORE_SECONDS

pytestmark = pytest.mark.usefixtures("unchecked")
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


def figures(run):
    """The lines of the log without times."""
    return [{k: v for k, v in line.items() if k not in run_log.TIMES} for line in run_log.read(run)]


def hash_of(run):
    return state.newest(run).sha256


@pytest.fixture(scope="module")
def unbroken(tiny, smoke_set, train, tmp_path_factory):
    """unbroken(recipe) is the directory of a run that never stopped, created once per recipe."""
    made = {}

    def make(recipe=tiny):
        key = repr(recipe)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("unbroken") / "run"
            outcome = train(recipe, smoke_set, made[key])
            assert outcome.progress.finished and outcome.progress.step == recipe.steps()
        return made[key]

    return make


def in_parts(train, recipe, data, run, cuts, **more):
    """Run up to each of the cuts, then to the end."""
    at = 0
    for cut in [*sorted(set(cuts)), None]:
        if cut == at:
            continue
        outcome = train(recipe, data, run, steps=None if cut is None else cut - at, **more)
        at = outcome.progress.step
    assert outcome.progress.finished


VARIANTS = {  # the default suite runs the first three
    "float32": lambda r: r,
    "muon": lambda r: replace(r, train=replace(r.train, optimizer="muon")),
    "tree": lambda r: replace(r, train=replace(r.train, reduce="tree")),
    "bfloat16": lambda r: replace(r, train=replace(r.train, dtype="bfloat16")),
    "no dropout, one micro-batch": lambda r: replace(
        r, model=replace(r.model, dropout=0.0), train=replace(r.train, micro_tokens=4096)
    ),
    "float16": lambda r: replace(r, train=replace(r.train, dtype="float16")),
}


def stop_and_go_on(count, seed, recipe, unbroken, smoke_set, train, tmp_path):
    chance = np.random.default_rng(seed)
    names = list(VARIANTS)
    for number in range(count):
        variant = VARIANTS[names[number % len(names)]](recipe)
        cuts = chance.integers(1, recipe.steps(), chance.integers(1, 6)).tolist()
        run = tmp_path / str(number)
        in_parts(train, variant, smoke_set, run, cuts)
        whole = unbroken(variant)
        assert hash_of(run) == hash_of(whole), (names[number % len(names)], cuts)
        assert figures(run) == figures(whole), cuts


def test_stops_change_nothing(tiny, unbroken, smoke_set, train, tmp_path):
    """At random steps, in every variant; loss, norm and rate of every step, bit for bit."""
    stop_and_go_on(3, 7, tiny, unbroken, smoke_set, train, tmp_path)


@pytest.mark.slow
def test_stops_change_nothing_200_runs(tiny, unbroken, smoke_set, train, tmp_path, reached):
    stop_and_go_on(200, 8, tiny, unbroken, smoke_set, train, tmp_path)
    reached("R1", runs=200, variants=list(VARIANTS))


def test_saves_evaluations_and_workers_change_nothing(tiny, unbroken, smoke_set, train, tmp_path):
    """Rows 1 and 2, and promise 14."""
    variants = [
        replace(tiny, save=replace(tiny.save, every=1)),
        replace(tiny, save=replace(tiny.save, every=0), evaluate=replace(tiny.evaluate, every=0)),
        replace(tiny, train=replace(tiny.train, workers=1)),
    ]
    want = [{**line, "evaluation": None} for line in figures(unbroken())]
    for number, variant in enumerate(variants):
        run = tmp_path / str(number)
        train(variant, smoke_set, run)
        assert hash_of(run) == hash_of(unbroken())
        assert [{**line, "evaluation": None} for line in figures(run)] == want


def test_two_threads_are_exact_too(tiny_bfloat16, smoke_set, train, tmp_path):
    recipe = replace(tiny_bfloat16, train=replace(tiny_bfloat16.train, micro_tokens=64))
    train(recipe, smoke_set, tmp_path / "whole", threads=2)
    in_parts(train, recipe, smoke_set, tmp_path / "parts", [5, 9, 20], threads=2)
    assert hash_of(tmp_path / "whole") == hash_of(tmp_path / "parts")
    assert figures(tmp_path / "whole") == figures(tmp_path / "parts")


def boundaries(recipe):
    """Steps at which the batch grows or a phase ends."""
    found, step = [], 0
    for phase in recipe.phases:
        rows, size = 0, None
        while not phase.is_over(rows):
            now = phase.batch_size.at(rows, phase.seq_len)
            if size is not None and now != size:
                found.append(step)
            size, rows, step = now, rows + now, step + 1
        found.append(step)
    return found[:-1]


@pytest.mark.parametrize("offset", [-2, -1, 0, 1, 2])
def test_stops_around_every_boundary(offset, tiny, unbroken, smoke_set, train, tmp_path):
    """The growth of the batch, and every phase's end, with a save exactly there."""
    found = boundaries(tiny)
    assert len(found) == 3
    in_parts(train, tiny, smoke_set, tmp_path / "run", [b + offset for b in found])
    assert hash_of(tmp_path / "run") == hash_of(unbroken())
    assert figures(tmp_path / "run") == figures(unbroken())


@pytest.mark.slow
def test_stops_around_boundaries_of_random_ramps(
    tiny, unbroken, smoke_set, train, tmp_path, reached
):
    chance = np.random.default_rng(3)
    runs = 0
    for number in range(24):
        first = int(chance.choice([1, 2]))
        phase = replace(
            tiny.phases[0], first_rows=first, rows=first * int(chance.integers(2, 5)),
            rows_warm_up=int(chance.integers(64, 1500)), tokens=int(chance.integers(1500, 3000)),
            warm_up=100,
        )  # fmt: skip
        recipe = replace(
            tiny, phases=(phase, *tiny.phases[1:]), train=replace(tiny.train, micro_tokens=64)
        )
        for offset in (-2, -1, 0, 1, 2):
            cuts = [c for b in boundaries(recipe) if 0 < (c := b + offset) < recipe.steps()]
            run = tmp_path / f"{number}-{offset}"
            in_parts(train, recipe, smoke_set, run, cuts)
            assert figures(run) == figures(unbroken(recipe)), (number, offset, cuts)
            assert hash_of(run) == hash_of(unbroken(recipe))
            runs += 1
    reached("R3", runs=runs)


def chain(lengths, recipe, unbroken, smoke_set, train, run):
    while True:
        outcome = train(recipe, smoke_set, run, steps=int(next(lengths)))
        left = {p.name for p in run.rglob(".*")}
        assert not left, left
        if outcome.progress.finished:
            break
    assert hash_of(run) == hash_of(unbroken(recipe)) and figures(run) == figures(unbroken(recipe))
    newest = state.folder(run, recipe.steps())
    for name in (state.TENSORS, state.PROGRESS, "motherbird.json"):
        other = state.folder(unbroken(recipe), recipe.steps()) / name
        assert (newest / name).read_bytes() == other.read_bytes()


@pytest.mark.parametrize("seed", [1, 2])
def test_a_chain_of_short_slices(seed, tiny, unbroken, smoke_set, train, tmp_path):
    """The same files at the end, byte by byte."""
    chance = np.random.default_rng(seed)
    lengths = iter(lambda: chance.integers(1, 8), None)
    chain(lengths, tiny, unbroken, smoke_set, train, tmp_path / "run")


@pytest.mark.slow
def test_a_chain_of_a_hundred_slices(tiny, unbroken, smoke_set, train, tmp_path, reached):
    recipe = tiny.with_steps(380)
    for seed in (1, 2, 3):
        chance = np.random.default_rng(seed)
        lengths = iter(lambda: chance.integers(1, 8), None)  # noqa: B023
        chain(lengths, recipe, unbroken, smoke_set, train, tmp_path / str(seed))
    reached("R14", chains=3, slices_about=95)


# --- the directory of the run


def test_another_recipe_or_other_data_are_refused(tiny, smoke_set, train, tmp_path):
    train(tiny, smoke_set, tmp_path / "run", steps=2)
    other = replace(tiny, train=replace(tiny.train, lr=1.0), seed=6)
    with pytest.raises(InputError, match=r"seed is 6, was 5; train\.lr is 1\.0, was 0\.004"):
        train(other, smoke_set, tmp_path / "run")
    home = smoke_set.parent
    prepare(home / "library", home / "tokenizer", tmp_path / "set", [64, 256], held_out=0.2)
    with pytest.raises(InputError, match="prepared dataset is not the run's"):
        train(tiny, tmp_path / "set", tmp_path / "run")


def test_a_finished_run_stays_as_it_is(tiny, smoke_set, unbroken, train):
    before = hash_of(unbroken())
    outcome = train(tiny, smoke_set, unbroken())
    assert outcome.progress.finished and hash_of(unbroken()) == before


def test_retention(tiny, smoke_set, train, tmp_path):
    recipe = replace(tiny, save=replace(tiny.save, every=1, keep=2, keep_every=5))
    train(recipe, smoke_set, tmp_path / "run")
    ends = [b for b in boundaries(recipe) if b > 6] + [recipe.steps()]
    kept = set(state.steps(tmp_path / "run"))
    assert {recipe.steps(), recipe.steps() - 1, *ends[:2]} <= kept
    assert {s for s in range(5, recipe.steps(), 5)} <= kept
    assert len(kept) <= 2 + 1 + 3 + recipe.steps() // 5 + 1


# --- health (row 9)


def spoil(monkeypatch, at, where, value):
    """Change the loss or the gradient of this rank in some steps, also when they are repeated."""
    real = gradients.micro_batch_gradients

    def spoiled(parameters, function):
        loss, found = real(parameters, function)
        step = function.args[1][2] + 1  # the dropout's key: kind, seed, step, micro-batch
        if step in at and where == "loss":
            loss *= value
        elif step in at:
            found[3].view(-1)[0] = value
        return loss, found

    monkeypatch.setattr(gradients, "micro_batch_gradients", spoiled)


@pytest.fixture
def long(tiny):
    """80 steps, with limits that fit them."""
    recipe = tiny.with_steps(80)
    limits = replace(
        tiny.health, window=16, min_steps=8, min_skip=3, max_skip=9, shift_window=4,
        shift_steps=8, rollback_steps=4, factor=1.3, sigmas=8.0, shift_sigmas=8.0,
    )  # fmt: skip
    return replace(recipe, health=limits, save=replace(tiny.save, every=5, keep=30))


def events(run, name):
    return [e for e in run_log.read(run, run_log.EVENTS) if e["event"] == name]


BAD = [("loss", math.nan), ("gradient", math.inf), ("loss", 10.0), ("loss", 1000.0)]
MORE_BAD = [("loss", math.inf), ("gradient", math.nan), ("gradient", 1000.0)]
# Steps of `long` in which a spike can be detected: not the first ones of a phase.
JUDGED = [*range(10, 38), *range(47, 56), *range(65, 81)]


def one_is_skipped(run, step):
    skipped = [line["step"] for line in run_log.read(run) if line["verdict"] != "apply"]
    assert skipped == [step] == [e["step"] for e in events(run, "skip")]
    found = state.newest(run)
    assert found.progress.updates == found.progress.step - 1 == 79
    assert all(torch.isfinite(t).all() for t in found.tensors().values())


@pytest.mark.parametrize(("where", "value"), BAD)
def test_one_bad_step_is_skipped(where, value, long, smoke_set, train, monkeypatch, tmp_path):
    spoil(monkeypatch, {30}, where, value)
    train(long, smoke_set, tmp_path / "run")
    one_is_skipped(tmp_path / "run", 30)


@pytest.mark.slow
def test_one_bad_step_is_skipped_wherever_it_is(
    long, smoke_set, train, monkeypatch, tmp_path, reached
):
    chance, tally = np.random.default_rng(9), Counter()
    for turn in range(28):
        where, value = [*BAD, *MORE_BAD][turn % 7]
        step, run = int(chance.choice(JUDGED)), tmp_path / str(turn)
        with monkeypatch.context() as patch:
            spoil(patch, {step}, where, value)
            train(long, smoke_set, run)
        one_is_skipped(run, step)
        tally[f"{where}, {value}"] += 1
    reached("R9 steps", faults=tally.total(), **tally)


@posix
@pytest.mark.slow
def test_one_bad_step_of_one_rank_is_skipped_by_all(
    long, smoke_set, train, monkeypatch, forked_ranks, tmp_path, reached
):
    """A problem of one rank is treated as one of all ranks."""
    recipe = replace(long, train=replace(long.train, micro_tokens=64, reduce="tree"))
    chance, tally = np.random.default_rng(9), Counter()
    for turn in range(14):
        where, value = [*BAD, *MORE_BAD][turn % 7]
        step, bad = int(chance.choice(JUDGED)), int(chance.integers(2))
        one, two = tmp_path / f"one-{turn}", tmp_path / f"two-{turn}"

        def work(rank, talk, bad=bad, fault=({step}, where, value), run=two):
            if rank == bad:
                spoil(pytest.MonkeyPatch(), *fault)
            return asdict(train(recipe, smoke_set, run).progress)

        first, second = [child.result() for child in forked_ranks(2, work)]
        assert first == second
        one_is_skipped(two, step)
        with monkeypatch.context() as patch:
            spoil(patch, {step}, where, value)
            train(recipe, smoke_set, one)
        assert hash_of(two) == hash_of(one)
        tally[f"{where}, {value}"] += 1
    reached("R9 ranks", ranks=2, faults=tally.total(), **tally)


def left_out_for_ever(fault, stops, recipe, smoke_set, train, monkeypatch, home):
    """A rollback skips the rows, and stops after it do not change the result.

    Returns the skipped range in run.json, from the run that did not stop.
    """
    hashes = []
    for name, cuts in (("parts", stops), ("whole", [])):
        run = home / name
        with monkeypatch.context() as patch:
            at = set(fault[0])
            spoil(patch, at, *fault[1:])

            def heal(text, at=at):  # the cause is skipped with the rows
                if "back from" in text:
                    at.clear()

            step = 0
            for cut in [*cuts, None]:
                outcome = train(
                    recipe, smoke_set, run, steps=None if cut is None else max(1, cut - step),
                    on_event=heal,
                )  # fmt: skip
                step = outcome.progress.step
        assert outcome.progress.finished
        about = run_info.read(run)
        [skip] = about.skips
        phase = recipe.phases[skip["phase"]]
        assert skip["last"] - skip["first"] == skip["batches"] * phase.rows
        assert 3 <= skip["batches"] <= 9
        taken = [line["consumed"] for line in run_log.read(run) if line["phase"] == phase.name]
        assert not any(skip["first"] <= c - phase.rows < skip["last"] for c in taken)
        assert len(run_log.read(run)) == 80
        hashes.append((hash_of(run), figures(run)))
        assert list((run / "quarantine").iterdir())
    assert hashes[0] == hashes[1]
    return skip


def test_bad_steps_in_a_row_roll_back_and_are_left_out_for_ever(
    long, smoke_set, train, monkeypatch, tmp_path
):
    fault = range(31, 34), "loss", math.nan
    skip = left_out_for_ever(fault, [20, 33, 60], long, smoke_set, train, monkeypatch, tmp_path)
    assert skip["step"] == 33 and skip["to"] == 25


# The problem, its number of consecutive steps, and its first step at the earliest and the latest:
# the batch has its full size then, and the phase does not end before the rollback.
ROLLS_BACK = [
    ("loss", math.nan, 3, 25, 34),
    ("gradient", math.inf, 3, 25, 34),
    ("loss", 10.0, 5, 25, 32),
    ("gradient", 1000.0, 5, 25, 32),
    ("loss", 1.25, 12, 66, 69),  # not a spike, but a shift
]


@pytest.mark.slow
def test_whatever_rolls_back_is_left_out_for_ever(
    long, smoke_set, train, monkeypatch, tmp_path, reached
):
    chance, tally = np.random.default_rng(9), Counter()
    for turn in range(12):
        where, value, count, earliest, latest = ROLLS_BACK[turn % 5]
        first = int(chance.integers(earliest, latest + 1))
        fault = range(first, first + count), where, value
        cuts = sorted(chance.choice(range(1, 80), 3, replace=False).tolist())
        home = tmp_path / str(turn)
        skip = left_out_for_ever(fault, cuts, long, smoke_set, train, monkeypatch, home)
        assert skip["step"] in fault[0] and skip["to"] <= first - long.health.rollback_steps, (
            fault,
            cuts,
        )
        tally[f"{where}, {value}"] += 1
    reached("R9 rollbacks", faults=tally.total(), **tally)


def test_it_stops_when_it_rolls_back_again_and_again(long, smoke_set, train, monkeypatch, tmp_path):
    spoil(monkeypatch, set(range(31, 50)), "loss", math.nan)
    with pytest.raises(DivergedError, match="diverged at step .* after 2 rollbacks"):
        train(long, smoke_set, tmp_path / "run")
    assert len(run_info.read(tmp_path / "run").skips) == 2
    assert state.newest(tmp_path / "run") is not None


@pytest.mark.parametrize("count", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_a_weight_that_is_not_finite_is_never_saved(
    count, long, smoke_set, train, monkeypatch, tmp_path, reached
):
    """A problem that the loss does not show."""
    real, due = stepping.Optimizer.step, []

    def step(self, lr, gradients):
        real(self, lr, gradients)
        if self.steps in due:
            due.clear()
            with torch.no_grad():
                next(iter(self.named.values())).view(-1)[0] = math.nan

    monkeypatch.setattr(stepping.Optimizer, "step", step)
    # The next loss would show it, so losses are not judged: the check before a checkpoint has to.
    monkeypatch.setattr(Health, "judge", lambda *a: stepping.Verdict("apply"))
    for at, to in ((38, 35), (9, 5), (31, 30), (55, 50), (63, 60), (80, 75))[:count]:
        run = tmp_path / str(at)
        due.append(at)
        outcome = train(long, smoke_set, run)
        assert outcome.progress.finished and not due
        assert [s["to"] for s in run_info.read(run).skips] == [to]
        for step_ in state.steps(run):
            state.read(state.folder(run, step_)).tensors()
    if count > 1:
        reached("R9 weights", faults=count)


def test_float16_halves_its_scale_and_goes_on(tiny, smoke_set, train, monkeypatch, tmp_path):
    recipe = replace(tiny, train=replace(tiny.train, dtype="float16"))
    spoil(monkeypatch, {4, 5}, "gradient", math.inf)
    outcome = train(recipe, smoke_set, tmp_path / "run")
    assert outcome.progress.scale == stepping.FLOAT16_SCALE / 4
    assert outcome.progress.updates == recipe.steps() - 2
    losses = [line["loss"] for line in run_log.read(tmp_path / "run")]
    assert all(loss is None or math.isfinite(loss) for loss in losses)


# --- signals (row 5)


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_step_finish_and_saves(
    number, tiny, unbroken, smoke_set, train, forked, tmp_path
):
    def work(talk):
        def on_step(report):
            if report.number == 7:
                os.kill(os.getpid(), number)

        outcome = train(tiny, smoke_set, tmp_path / "run", on_step=on_step)
        return outcome.signal, outcome.progress.step

    assert forked(work).result(30) == (number, 7)
    assert state.newest(tmp_path / "run").progress.step == 7
    train(tiny, smoke_set, tmp_path / "run")
    assert hash_of(tmp_path / "run") == hash_of(unbroken())
    assert figures(tmp_path / "run") == figures(unbroken())


@posix
@pytest.mark.parametrize("seed", range(3))
def test_two_signals_at_once_do_no_damage(seed, tiny, unbroken, smoke_set, train, forked, tmp_path):
    def work(talk):
        talk.sendall(b"go")
        train(tiny, smoke_set, tmp_path / "run")

    child = forked(work)
    child.ours.recv(2)
    time.sleep(0.1 + 0.1 * np.random.default_rng(seed).random())
    for _ in range(2):
        os.kill(child.pid, signal.SIGTERM)
        time.sleep(0.001)
    assert child.wait(30) in (0, -signal.SIGTERM)
    train(tiny, smoke_set, tmp_path / "run")
    assert hash_of(tmp_path / "run") == hash_of(unbroken())


# Where a signal arrives: a function, and how often an unbroken run of `tiny` calls it.
WITHIN = {
    "step": (stepping.Stepper, "step", 26),
    "evaluation": (pretraining, "evaluate", 8),
    "save": (state, "save", 10),
}


@posix
@pytest.mark.slow
def test_a_hundred_signals(tiny, unbroken, smoke_set, train, forked, upon, tmp_path, reached):
    """One signal, or a second one later than an echo; and at any time."""
    chance, tally = np.random.default_rng(5), Counter()

    def work(talk, place, call, send, run):
        seen = [0]

        def act():
            talk.sendall(seen[0].to_bytes())
            send()

        if place != "any time":
            upon(*WITHIN[place][:2], call, act)
        talk.sendall(b"!")
        outcome = train(
            tiny, smoke_set, run, on_step=lambda report: seen.__setitem__(0, report.number)
        )
        return outcome.signal, outcome.progress.step

    for turn in range(100):
        run, number = tmp_path / str(turn), (signal.SIGTERM, signal.SIGINT)[turn % 2]
        how = ("once", "again", "any time")[turn % 3]
        place = how if how == "any time" else str(chance.choice(list(WITHIN)))
        call = int(chance.integers(1, WITHIN[place][2] + 1)) if place in WITHIN else 0

        def send(number=number, again=how == "again"):
            os.kill(os.getpid(), number)
            if again:
                time.sleep(1.2 * IGNORE_SECONDS)
                os.kill(os.getpid(), number)

        child = forked(partial(work, place=place, call=call, send=send, run=run))
        assert child.ours.recv(1) == b"!"
        if how == "any time":
            time.sleep(chance.uniform(0, 0.6))
            for _ in range(chance.integers(1, 3)):
                os.kill(child.pid, number)
            assert child.wait(30) in (0, -number)
        elif how == "again":
            assert child.wait(30) == -number, (place, call)
        else:
            before = child.ours.recv(1)[0]
            got, step = child.result(30)
            assert got == number and step - before in range(3), (place, call)
            assert state.newest(run).progress.step == step == len(figures(run))
        train(tiny, smoke_set, run)
        assert hash_of(run) == hash_of(unbroken()) and figures(run) == figures(unbroken())
        assert not list(run.rglob(".*"))
        shutil.rmtree(run)
        tally[f"{how}, {place}" if how != place else how] += 1
    reached("R5", signals=tally.total(), unequal=0, **tally)


# --- workers (row 10)


def lose_workers(at, recipe, smoke_set, train, run):
    """Send signals to all data workers of a run after some steps, and return their number."""
    import gc

    from motherbird.workers import Worker

    lost = []

    def on_step(report):
        if report.number in at:
            for worker in [each for each in gc.get_objects() if type(each) is Worker]:
                if worker.alive:
                    lost.append(worker.pid)
                    os.kill(worker.pid, at[report.number])

    train(recipe, smoke_set, run, on_step=on_step)
    return len(lost)


@posix
def test_a_data_worker_that_is_killed_changes_nothing(tiny, unbroken, smoke_set, train, tmp_path):
    recipe = replace(tiny, train=replace(tiny.train, workers=1))
    at = {4: signal.SIGKILL}
    assert lose_workers(at, recipe, smoke_set, train, tmp_path / "run") >= 1
    assert hash_of(tmp_path / "run") == hash_of(unbroken())


@posix
@pytest.mark.slow
def test_data_workers_that_die_or_hang_change_nothing(
    tiny, unbroken, smoke_set, train, monkeypatch, tmp_path, caplog, reached
):
    """In each phase, early enough to be noticed."""
    monkeypatch.setattr("motherbird.train.pretrain.Loader", partial(loader.Loader, limit=2.0))
    chance, lost, runs = np.random.default_rng(10), 0, 0
    while lost < 40:
        recipe = replace(tiny, train=replace(tiny.train, workers=1 + runs % 2))
        at = {
            int(chance.integers(*steps)): int(chance.choice([signal.SIGKILL, signal.SIGSTOP]))
            for steps in ((1, 9), (13, 15), (19, 23))
        }
        lost += lose_workers(at, recipe, smoke_set, train, tmp_path / str(runs))
        assert hash_of(tmp_path / str(runs)) == hash_of(unbroken()), at
        assert figures(tmp_path / str(runs)) == figures(unbroken()), at
        runs += 1
    said = [record.getMessage() for record in caplog.records]
    killed, hung = (sum(what in text for text in said) for what in ("SIGKILL", "within 2 s"))
    assert killed and hung  # not each: a worker that had finished the phase is not missed
    reached("R10 lost", workers=lost, killed=killed, hung=hung, runs=runs)


class Raising(loader.BatchBuilder):
    """Raises for every request from some row on."""

    def __init__(self, *arguments, first):
        super().__init__(*arguments)
        self.first = first

    def __call__(self, request):
        if request.first >= self.first:
            raise WorkerError("a worker process failed 3 times", f"row {request.first}")
        return super().__call__(request)


@posix
@pytest.mark.parametrize("count", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_a_worker_that_always_fails_ends_the_run_with_its_state_saved(
    count, tiny, unbroken, smoke_set, train, monkeypatch, tmp_path, reached
):
    """In this process, and in a worker process."""
    chance = np.random.default_rng(10)
    starts = [0, *(line["consumed"] for line in figures(unbroken()) if line["phase"] == "a")]
    for turn in range(count):
        workers, step = (1, int(chance.integers(1, 13))) if turn else (0, 9)
        recipe = replace(tiny, train=replace(tiny.train, workers=workers))
        run, first = tmp_path / str(turn), starts[step - 1]
        with monkeypatch.context() as patch:
            patch.setattr(loader, "BatchBuilder", partial(Raising, first=first))
            with pytest.raises(WorkerError, match=f"row {first}$"):
                train(recipe, smoke_set, run)
        assert state.newest(run).progress.step == (step - 1) // 3 * 3
        train(recipe, smoke_set, run)
        assert hash_of(run) == hash_of(unbroken())
    if count > 1:
        reached("R10 raised", runs=count)
