"""A run is the same however often it stops; and what it does about NaN, spikes and signals."""

import math
import os
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from motherbird.data.prepare import prepare
from motherbird.errors import DivergedError, InputError, WorkerError
from motherbird.train import journal, state
from motherbird.train import step as stepping
from motherbird.train.health import Health

pytestmark = pytest.mark.usefixtures("unchecked")
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


def figures(run):
    """What the log says, without times."""
    return [{k: v for k, v in line.items() if k not in journal.TIMES} for line in journal.read(run)]


def hash_of(run):
    return state.newest(run).sha256


@pytest.fixture(scope="module")
def unbroken(tiny, smoke_set, train, tmp_path_factory):
    """unbroken(recipe) is a run that never stopped: its folder; made once each."""
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


VARIANTS = {
    "float32": lambda r: r,
    "bfloat16": lambda r: replace(r, train=replace(r.train, dtype="bfloat16")),
    "muon": lambda r: replace(r, train=replace(r.train, optimizer="muon")),
    "no dropout, one micro-batch": lambda r: replace(
        r, model=replace(r.model, dropout=0.0), train=replace(r.train, micro_tokens=4096)
    ),
    "tree": lambda r: replace(r, train=replace(r.train, reduce="tree")),
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
    """Row 1: at random steps, in every variant; every step's loss, norm and rate, to the bit."""
    stop_and_go_on(12, 7, tiny, unbroken, smoke_set, train, tmp_path)


@pytest.mark.slow
def test_stops_change_nothing_200_runs(tiny, unbroken, smoke_set, train, tmp_path, reached):
    stop_and_go_on(200, 8, tiny, unbroken, smoke_set, train, tmp_path)
    reached("R1", runs=200, variants=list(VARIANTS))


def test_saves_evaluations_and_workers_change_nothing(tiny, unbroken, smoke_set, train, tmp_path):
    """Rows 1 and 2, and promise 14."""
    variants = [
        replace(tiny, save=replace(tiny.save, every=1)),
        replace(tiny, save=replace(tiny.save, every=0), evaluate=replace(tiny.evaluate, every=0)),
        replace(tiny, train=replace(tiny.train, workers=2)),
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
            now = phase.batch.at(rows, phase.seq_len)
            if size is not None and now != size:
                found.append(step)
            size, rows, step = now, rows + now, step + 1
        found.append(step)
    return found[:-1]


@pytest.mark.parametrize("offset", [-2, -1, 0, 1, 2])
def test_stops_around_every_boundary(offset, tiny, unbroken, smoke_set, train, tmp_path):
    """Row 3: the growth of the batch, and every phase's end, with a save exactly there."""
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
    """Row 14: the same files at the end, byte by byte."""
    chance = np.random.default_rng(seed)
    lengths = iter(lambda: chance.integers(1, 8), None)
    chain(lengths, tiny, unbroken, smoke_set, train, tmp_path / "run")


@pytest.mark.slow
def test_a_chain_of_a_hundred_slices(tiny, unbroken, smoke_set, train, tmp_path, reached):
    recipe = tiny.of_steps(380)
    for seed in (1, 2, 3):
        chance = np.random.default_rng(seed)
        lengths = iter(lambda: chance.integers(1, 8), None)  # noqa: B023
        chain(lengths, recipe, unbroken, smoke_set, train, tmp_path / str(seed))
    reached("R14", chains=3, slices_about=95)


# --- the run's folder


def test_another_recipe_or_other_data_are_refused(tiny, smoke_set, train, tmp_path):
    train(tiny, smoke_set, tmp_path / "run", steps=2)
    other = replace(tiny, train=replace(tiny.train, lr=1.0), seed=6)
    with pytest.raises(InputError, match=r"seed: 6, was 5; train\.lr: 1\.0, was 0\.004"):
        train(other, smoke_set, tmp_path / "run")
    home = smoke_set.parent
    prepare(home / "library", home / "tokenizer", tmp_path / "set", [64, 256], held_out=0.2)
    with pytest.raises(InputError, match="prepared text is not the one"):
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


def spoil(monkeypatch, at, how):
    """Change the loss or the gradient of some steps, as often as they come by."""
    real = stepping.of_step

    def of_step(parameters, leaves, threads, world, *, tree=False):
        losses, gradients = real(parameters, leaves, threads, world, tree=tree)
        step = leaves[0].args[2][2] + 1  # the dropout's key: kind, seed, step, micro-batch
        if step in at:
            if how == "loss":
                losses = [math.nan] * len(losses)
            elif how == "gradient":
                gradients[3].view(-1)[0] = math.inf
            else:
                losses = [loss * how for loss in losses]
        return losses, gradients

    monkeypatch.setattr(stepping, "of_step", of_step)


@pytest.fixture
def long(tiny):
    """80 steps, with limits that fit them."""
    recipe = tiny.of_steps(80)
    limits = replace(
        tiny.health, window=16, least=8, level=4, level_steps=8, back=4, skip_least=3, skip_most=9,
        factor=1.3, sigmas=8.0, level_sigmas=8.0,
    )  # fmt: skip
    return replace(recipe, health=limits, save=replace(tiny.save, every=5, keep=30))


def events(run, name):
    return [e for e in journal.read(run, journal.EVENTS) if e["event"] == name]


@pytest.mark.parametrize("how", ["loss", "gradient", 10.0, 1000.0])
def test_one_bad_step_is_skipped(how, long, smoke_set, train, monkeypatch, tmp_path):
    spoil(monkeypatch, {30}, how)
    outcome = train(long, smoke_set, tmp_path / "run")
    skipped = [
        line["step"] for line in journal.read(tmp_path / "run") if line["verdict"] != "apply"
    ]
    assert skipped == [30] == [e["step"] for e in events(tmp_path / "run", "skip")]
    assert outcome.progress.updates == outcome.progress.step - 1 == 79
    assert all(torch.isfinite(t).all() for t in state.newest(tmp_path / "run").tensors().values())


def test_bad_steps_in_a_row_roll_back_and_are_left_out_for_ever(
    long, smoke_set, train, monkeypatch, tmp_path
):
    """Back to a checkpoint before, past the rows; stopped and resumed behind it: the same bits."""
    hashes = []
    for name, cuts in (("whole", []), ("parts", [20, 33, 60])):
        run = tmp_path / name
        with monkeypatch.context() as patch:
            at = {31, 32, 33}
            spoil(patch, at, "loss")

            def heal(text, at=at):  # what was wrong with those rows is left out with them
                if "back from" in text:
                    at.clear()

            step = 0
            for cut in [*cuts, None]:
                outcome = train(
                    long, smoke_set, run, steps=None if cut is None else max(1, cut - step),
                    on_event=heal,
                )  # fmt: skip
                step = outcome.progress.step
        assert outcome.progress.finished
        about = state.read_run(run)
        [skip] = about.skips
        assert skip["step"] == 33 and skip["to"] == 25
        assert skip["last"] - skip["first"] == skip["batches"] * 4 and 3 <= skip["batches"] <= 9
        taken = [line["consumed"] for line in journal.read(run) if line["phase"] == "a"]
        assert not any(
            skip["first"] < c - 2 < skip["last"] - 2 and c <= skip["last"] for c in taken
        )
        assert len(journal.read(run)) == 80
        hashes.append((hash_of(run), figures(run)))
        assert list((run / "quarantine").iterdir())
    assert hashes[0] == hashes[1]


def test_it_stops_when_it_rolls_back_again_and_again(long, smoke_set, train, monkeypatch, tmp_path):
    spoil(monkeypatch, set(range(31, 50)), "loss")
    with pytest.raises(DivergedError, match="rolled back 2 times and went wrong again"):
        train(long, smoke_set, tmp_path / "run")
    assert len(state.read_run(tmp_path / "run").skips) == 2
    assert state.newest(tmp_path / "run") is not None


def test_a_weight_that_is_not_finite_is_never_saved(long, smoke_set, train, monkeypatch, tmp_path):
    real, spoiled = stepping.Optimizer.step, []

    def step(self, lr, gradients):
        real(self, lr, gradients)
        if self.steps == 38 and not spoiled:
            spoiled.append(True)
            with torch.no_grad():
                next(iter(self.named.values())).view(-1)[0] = math.nan

    monkeypatch.setattr(stepping.Optimizer, "step", step)
    # Left alone, the next loss would tell; judge nothing, so that the check before a save has to.
    monkeypatch.setattr(Health, "judge", lambda *a: stepping.Judgement("apply"))
    outcome = train(long, smoke_set, tmp_path / "run")
    assert outcome.progress.finished and spoiled
    assert [s["to"] for s in state.read_run(tmp_path / "run").skips] == [35]
    for step_ in state.steps(tmp_path / "run"):
        state.read(state.folder(tmp_path / "run", step_)).tensors()


def test_float16_halves_its_scale_and_goes_on(tiny, smoke_set, train, monkeypatch, tmp_path):
    recipe = replace(tiny, train=replace(tiny.train, dtype="float16"))
    spoil(monkeypatch, {4, 5}, "gradient")
    outcome = train(recipe, smoke_set, tmp_path / "run")
    assert outcome.progress.scale == stepping.SCALE / 4
    assert outcome.progress.updates == recipe.steps() - 2
    losses = [line["loss"] for line in journal.read(tmp_path / "run")]
    assert all(loss is None or math.isfinite(loss) for loss in losses)


# --- signals (row 5)


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_step_finish_and_saves(
    number, tiny, unbroken, smoke_set, train, forked, tmp_path
):
    def work(talk):
        def tick(tick):
            if tick.step.number == 7:
                os.kill(os.getpid(), number)

        outcome = train(tiny, smoke_set, tmp_path / "run", on_tick=tick)
        return outcome.signal, outcome.progress.step

    assert forked(work).result(30) == (number, 7)
    assert state.newest(tmp_path / "run").progress.step == 7
    train(tiny, smoke_set, tmp_path / "run")
    assert hash_of(tmp_path / "run") == hash_of(unbroken())
    assert figures(tmp_path / "run") == figures(unbroken())


@posix
@pytest.mark.parametrize("seed", range(3))
def test_two_signals_end_it_at_once_without_damage(
    seed, tiny, unbroken, smoke_set, train, forked, tmp_path
):
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


# --- workers (row 10)


@posix
def test_a_data_worker_that_is_killed_changes_nothing(tiny, unbroken, smoke_set, train, tmp_path):
    import multiprocessing

    recipe = replace(tiny, train=replace(tiny.train, workers=1))
    killed = []

    def tick(tick):
        if tick.step.number in (4, 9):
            for child in multiprocessing.active_children():
                killed.append(child.pid)
                child.kill()

    train(recipe, smoke_set, tmp_path / "run", on_tick=tick)
    assert len(killed) >= 2 and hash_of(tmp_path / "run") == hash_of(unbroken())


@posix
def test_a_worker_that_always_fails_ends_the_run_with_its_state_saved(
    tiny, unbroken, smoke_set, train, monkeypatch, tmp_path
):
    from motherbird.data import loader

    real, calls = loader.Maker.__call__, []

    def broken(self, request):
        calls.append(request)
        if len(calls) > 8:
            raise WorkerError("a data worker failed 3 times", "row 5")
        return real(self, request)

    with monkeypatch.context() as patch:
        patch.setattr(loader.Maker, "__call__", broken)
        with pytest.raises(WorkerError, match="row 5"):
            train(tiny, smoke_set, tmp_path / "run")
    assert state.newest(tmp_path / "run").progress.step == 6
    train(tiny, smoke_set, tmp_path / "run")
    assert hash_of(tmp_path / "run") == hash_of(unbroken())
