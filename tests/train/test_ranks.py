"""Several ranks with torchrun and gloo give the same run, and end together if one is lost."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import psutil
import pytest
import torch

from motherbird import disk, files
from motherbird.errors import DamagedError, InputError, WorkerError
from motherbird.train import pretrain as pretraining
from motherbird.train import run_log, state
from motherbird.train.distributed import Distributed, join
from motherbird.train.step import Stepper

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")

# Arguments: the run's folder, the data, steps or "all"; the recipe comes as JSON.
RANK = """
import json, os, sys, time
import torch
from pathlib import Path
from motherbird.train.pretrain import pretrain
from motherbird import strict
from motherbird.train.recipe import Recipe

def on_step(report):
    print("step", report.number, flush=True)
    time.sleep(wait)

if __name__ == "__main__":  # data workers import this file
    torch.set_num_threads(1)
    run, data, steps, recipe, wait = *sys.argv[1:5], float(sys.argv[5])
    print("rank", os.environ.get("RANK"), os.getpid(), flush=True)
    pretrain(strict.build(Recipe, json.loads(recipe), "test"), Path(data), Path(run),
             max_steps=None if steps == "all" else int(steps), on_step=on_step)
"""


# Without it restarted ranks connect to the address of the old ones (pytorch #135712).
UNSHARED = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


@pytest.fixture
def ranks(smoke_set, tmp_path):
    """Start ranks; those still running at the end of the test are killed."""
    started = []

    def start(world, recipe, run, steps="all", wait=0.0, restarts=0):
        import json

        from motherbird import strict

        script = tmp_path / "rank.py"
        script.write_text(RANK)
        command = [
            sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world),
            "--standalone", "--max-restarts", str(restarts), str(script), str(run), str(smoke_set),
            str(steps), json.dumps(strict.plain(recipe)), str(wait),
        ]  # fmt: skip
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **UNSHARED},
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        for child in [*_children(process.pid), process.pid]:
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.communicate()


def _children(pid):
    try:
        return [c.pid for c in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def finished(process, seconds=90):
    out, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, out[-3000:]
    return out


def losses(run):
    return [line["loss"] for line in run_log.read(run)]


@pytest.fixture
def tree(tiny):
    """8 micro-batches per step, two for each of 4 ranks."""
    phases = (
        replace(tiny.phases[0], rows=8, first_rows=4, tokens=64 * 40),
        replace(tiny.phases[1], rows=4, tokens=1024 * 3),
        replace(tiny.phases[2], rows=4, tokens=1024 * 4, decay=1024 * 4),
    )
    train = replace(tiny.train, micro_tokens=64, reduce="tree", timeout=20.0)
    return replace(tiny, phases=phases, train=train)


@pytest.fixture
def together(forked_ranks, unchecked, smoke_set, train):
    """together(ranks, recipe, run, steps) resumes a run with several ranks, without torchrun."""

    def go_on(world, recipe, run, steps=None):
        def work(rank, talk):
            train(recipe, smoke_set, run, steps=steps)

        for child in forked_ranks(world, work):
            child.result(60)

    return go_on


def test_any_number_of_ranks_gives_the_same_bits(tree, smoke_set, train, together, tmp_path):
    """Saved by one rank, resumed by 2, then 4, then 1."""
    train(tree, smoke_set, tmp_path / "one")
    train(tree, smoke_set, tmp_path / "mixed", steps=3)
    together(2, tree, tmp_path / "mixed", 4)
    train(tree, smoke_set, tmp_path / "mixed", steps=2)
    together(4, tree, tmp_path / "mixed")
    assert state.newest(tmp_path / "mixed").sha256 == state.newest(tmp_path / "one").sha256
    one, mixed = (run_log.read(tmp_path / name) for name in ("one", "mixed"))
    for key in ("loss", "norm", "consumed", "tokens", "masked", "lr"):
        assert [line[key] for line in mixed] == [line[key] for line in one], key


@pytest.mark.slow
def test_a_hundred_changes_of_ranks(tree, smoke_set, train, ranks, tmp_path, reached):
    """Stopped at random steps, resumed by another number of ranks."""
    chance = np.random.default_rng(2)
    changes, runs, workers = 0, 0, (0, 1, 4)
    while changes < 100:
        settings = replace(tree.train, workers=workers[runs % 3], timeout=60.0)
        recipe = replace(tree, train=settings)
        if runs < 3:
            train(recipe, smoke_set, tmp_path / f"one-{runs}")
        run, world, at = tmp_path / str(runs), 1, 0
        while at < recipe.steps():
            world = int(chance.choice([w for w in (1, 2, 4) if w != world]))
            left = recipe.steps() - at
            steps = int(chance.integers(1, 5)) if left > 4 else left
            finished(ranks(world, recipe, run, steps))
            at, changes = at + steps, changes + 1
        one = tmp_path / f"one-{runs % 3}"
        assert state.newest(run).sha256 == state.newest(one).sha256
        for key in ("loss", "norm", "consumed", "tokens", "masked", "lr"):
            found, wanted = ([line[key] for line in run_log.read(r)] for r in (run, one))
            assert found == wanted, key
        runs += 1
    reached("R2", changes=changes, runs=runs, ranks=[1, 2, 4], workers=list(workers))


def test_the_default_sum_is_near(tree, smoke_set, train, together, tmp_path):
    recipe = replace(tree, train=replace(tree.train, reduce="sum"))
    train(recipe, smoke_set, tmp_path / "one")
    together(2, recipe, tmp_path / "two")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-5)


def after_steps(process, steps):
    """Return the processes of the ranks after some steps."""
    pids, seen = {}, 0
    for line in process.stdout:
        pids |= {rank: int(pid) for rank, pid in re.findall(r"rank (\d) (\d+)", line)}
        seen += line.count("step")
        if seen >= steps:
            return pids
    raise AssertionError("the run ended before")


def gone(pid, seconds):
    """Return whether a process ends within some seconds; zombies count as ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


# --- opening the dataset


def test_one_rank_hashes_the_dataset(tree, smoke_set, train, forked_ranks, tmp_path):
    def work(rank, talk):
        hashed, real = [], files.sha256
        files.sha256 = lambda path: hashed.append(path.name) or real(path)
        train(tree, smoke_set, tmp_path / "run", steps=1)
        return {name for name in hashed if name.endswith((".bin", ".npy"))}

    first, second = (child.result() for child in forked_ranks(2, work))
    assert {"documents.npy", "tokens-00000.bin"} < first and not second


def test_every_rank_names_the_damaged_file(tree, smoke_set, train, forked_ranks, tmp_path):
    shutil.copytree(smoke_set, tmp_path / "set")
    path = tmp_path / "set" / "tokens-00000.bin"
    path.write_bytes(path.read_bytes()[:-2] + b"xx")

    def work(rank, talk):
        train(tree, tmp_path / "set", tmp_path / "run", steps=1)

    for child in forked_ranks(2, work):
        with pytest.raises(DamagedError, match=r"was changed.*tokens-00000\.bin"):
            child.result()
    assert not (tmp_path / "run" / "run.json").exists()


def test_the_turns_of_ranks(forked_ranks, tmp_path):
    """Rank 0, then the first rank of the other machine, then the others; each gets its own."""

    def work(rank, talk):
        os.environ["LOCAL_RANK"] = str(rank % 2)  # two machines of two ranks
        with join("cpu", 60.0) as distributed:

            def own():
                time.sleep(0.2 if rank in (0, 2) else 0)
                with (tmp_path / "order").open("a") as file:
                    file.write(f"{rank}\n")
                return rank

            return distributed.in_turns(own)

    assert [child.result() for child in forked_ranks(4, work)] == [0, 1, 2, 3]
    order = (tmp_path / "order").read_text().split()
    assert order[:2] == ["0", "2"] and sorted(order[2:]) == ["1", "3"]


# --- lost ranks


@pytest.mark.parametrize(
    ("error", "is_lost"),
    [
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [::1]:1"), True),
        (RuntimeError("Read error [127.0.0.1]:36: Connection reset by peer"), True),
        (RuntimeError("Timed out waiting 4000ms for recv operation to complete"), True),
        (RuntimeError("Application timeout caused pair closure"), True),
        (torch.distributed.DistNetworkError("The server socket has failed to listen"), True),
        (torch.distributed.DistBackendError("remote process exited or network error"), True),
        (torch.distributed.DistBackendError("NCCL error: invalid usage, duplicate GPU"), False),
        (RuntimeError("op.preamble.length <= op.nbytes. 400 vs 4"), False),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
    ],
    ids=str,
)
def test_only_a_lost_rank_is_called_lost(error, is_lost, monkeypatch):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(torch.distributed, "all_gather", fail)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    distributed = Distributed(0, 2, torch.device("cpu"))
    with pytest.raises(WorkerError if is_lost else type(error)) as found:
        distributed.all_gather([1.0])
    assert is_lost or found.value is error


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_dies_or_hangs_ends_the_run(how, tree, smoke_set, train, ranks, tmp_path):
    """Non-zero, no process left, a good checkpoint, and the same end after it."""
    recipe = replace(tree, train=replace(tree.train, timeout=4.0)).with_steps(30)
    process = ranks(2, recipe, tmp_path / "run", wait=0.05)
    pids = after_steps(process, 8)
    os.kill(pids["1"], how)
    assert gone(pids["0"], 15)  # it does not wait forever
    if how == signal.SIGSTOP:  # torchrun would kill it 30 seconds later
        os.kill(pids["1"], signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode != 0 and "another rank ended or did not answer in time" in out
    assert all(gone(pid, 5) for pid in pids.values())
    assert state.newest(tmp_path / "run").progress.step >= 6
    train(recipe, smoke_set, tmp_path / "run")
    train(recipe, smoke_set, tmp_path / "one")
    assert state.newest(tmp_path / "run").sha256 == state.newest(tmp_path / "one").sha256


@pytest.mark.slow
def test_behind_the_loss_of_a_rank_torchrun_goes_on(tree, smoke_set, train, ranks, tmp_path):
    """With --max-restarts 1."""
    recipe = tree.with_steps(30)
    process = ranks(2, recipe, tmp_path / "run", wait=0.05, restarts=1)
    os.kill(after_steps(process, 8)["1"], signal.SIGKILL)
    finished(process)
    train(recipe, smoke_set, tmp_path / "one")
    assert state.newest(tmp_path / "run").sha256 == state.newest(tmp_path / "one").sha256


# Where a rank is lost: a function, and the least number of its calls on each rank of `tree`.
PLACES = {
    "the weights": (Distributed, "broadcast", 2),
    "forward": (Stepper, "_loss", 10),
    "the sum": (Distributed, "all_reduce", 10),
    "an evaluation": (pretraining, "evaluate", 3),
    "a save": (state, "save", 4),  # by rank 0 only
    "the end": (torch.distributed, "barrier", 1),
}


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_fifty_ranks_that_die_or_hang(
    tree, smoke_set, train, forked_ranks, upon, monkeypatch, tmp_path, reached
):
    """Wherever one rank waits for another; the other ranks end by themselves."""
    monkeypatch.setattr("motherbird.train.distributed.SLOW_TIMEOUT", 5.0)
    recipe = replace(tree, train=replace(tree.train, timeout=5.0))
    train(recipe, smoke_set, tmp_path / "one")
    chance, slowest, tally = np.random.default_rng(11), 0.0, Counter()

    def work(rank, talk, lost, fault, how, run):
        def end():
            talk.sendall(b"!")
            os.kill(os.getpid(), how)

        if rank == lost:
            upon(*fault, end)
        train(recipe, smoke_set, run)

    for turn in range(50):
        place = list(PLACES)[turn % 6]
        how = (signal.SIGKILL, signal.SIGSTOP)[turn // 6 % 2]
        world = (2, 4)[turn // 12 % 2]
        owner, name, most = PLACES[place]
        fault = owner, name, int(chance.integers(1, most + 1))
        lost = 0 if place == "a save" else int(chance.integers(world))
        about, run = (place, how, world, lost, fault[2]), tmp_path / str(turn)
        children = forked_ranks(world, partial(work, lost=lost, fault=fault, how=how, run=run))
        victim = children.pop(lost)
        assert victim.ours.recv(1) == b"!", about
        began = time.monotonic()
        for child in children:
            with pytest.raises(WorkerError, match="another rank ended or did not answer"):
                child.result(15)
        slowest = max(slowest, time.monotonic() - began)
        victim.kill()
        assert victim.wait() == -signal.SIGKILL
        for step in state.steps(run):
            state.read(state.folder(run, step))
        train(recipe, smoke_set, run)
        assert state.newest(run).sha256 == state.newest(tmp_path / "one").sha256, about
        tally[f"{place}, {how.name}, {world} ranks"] += 1
    reached("R11", faults=tally.total(), slowest=round(slowest, 1), **tally)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_signals_to_one_rank_or_to_one_behind_the_other(
    tree, smoke_set, train, forked_ranks, upon, tmp_path, reached
):
    """As from a launcher, or from a scheduler of several machines."""
    chance, runs = np.random.default_rng(5), 0
    train(tree, smoke_set, tmp_path / "one")

    def work(rank, talk, first, call, run):
        def send():
            talk.sendall(b"!")
            os.kill(os.getpid(), signal.SIGTERM)

        if rank == first:
            upon(Stepper, "step", call, send)
        disk.watch = lambda when, name, *_: name == "rename" and time.sleep(0.1)  # a large one
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # if it arrives after the end
        outcome = train(tree, smoke_set, run)
        return outcome.signal, outcome.progress.step

    for turn in range(20):
        run, world, call = tmp_path / str(turn), (2, 4)[turn % 2], int(chance.integers(1, 9))
        others_too = turn % 4 > 1  # rank 0 as well, while it saves
        first = int(chance.integers(int(others_too), world))
        children = forked_ranks(world, partial(work, first=first, call=call, run=run))
        assert children[first].ours.recv(1) == b"!"
        for rank, child in enumerate(children):
            if rank != first and others_too:
                time.sleep(chance.uniform(0, 0.2))
                os.kill(child.pid, signal.SIGTERM)
        assert {child.result() for child in children} == {(signal.SIGTERM, call)}, turn
        assert state.newest(run).progress.step == call
        train(tree, smoke_set, run)
        assert state.newest(run).sha256 == state.newest(tmp_path / "one").sha256
        runs += 1
    reached("R5 ranks", runs=runs, ranks=[2, 4], unequal=0)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["a rank", "the launcher"])
def test_a_signal_saves_on_all_ranks(to, tree, smoke_set, train, ranks, tmp_path):
    recipe = tree.with_steps(60)
    process = ranks(2, recipe, tmp_path / "run", wait=0.05)
    pids = after_steps(process, 5)
    if to == "a rank":
        os.kill(pids["1"], signal.SIGTERM)
        finished(process)
    else:
        process.terminate()
        process.communicate(timeout=60)
        assert process.returncode != 0  # torchrun's own
    assert all(gone(pid, 5) for pid in pids.values())
    stopped = state.newest(tmp_path / "run").progress
    assert 5 <= stopped.step < recipe.steps() and stopped.world_size == 2
    train(recipe, smoke_set, tmp_path / "run")
    train(recipe, smoke_set, tmp_path / "one")
    assert state.newest(tmp_path / "run").sha256 == state.newest(tmp_path / "one").sha256


def test_a_batch_that_cannot_be_shared_is_refused(tiny, together, tmp_path):
    with pytest.raises(InputError, match="is not a multiple of 2 ranks"):
        together(2, tiny, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()
