"""The command: a run in several processes, its output, and errors in one line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from motherbird.train import state

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
SMALL = [
    "model.hidden_size=32", "model.intermediate_size=48", "model.num_attention_heads=2",
    "model.num_hidden_layers=2", "model.local_attention=16",
]  # fmt: skip


@pytest.fixture(scope="module")
def data(small_tokenizer, sources, tmp_path_factory):
    from motherbird.data.prepare import prepare

    folder = tmp_path_factory.mktemp("pretrain")
    small_tokenizer.save(folder / "tokenizer")
    prepare(sources, folder / "tokenizer", folder / "set", [256, 1024, 8192], held_out=0.2)
    return folder / "set"


def sets(*changes):
    return [part for change in changes for part in ("--set", change)]


@pytest.fixture
def smoke(data, tmp_path):
    small = sets(*SMALL, "phases.0.rows=4", "phases.0.first_rows=2", "phases.1.rows=2",
                 "phases.2.rows=2", "train.micro_tokens=512")  # fmt: skip
    return [
        "pretrain", RECIPES / "smoke.toml", "--data", data, "--out", tmp_path / "run", *small,
        "--steps", "9", "--threads", "1",
    ]  # fmt: skip


def test_a_run_in_two_slices(smoke, motherbird, tmp_path, documented, has_shape):
    first = motherbird(*smoke, "--stop-after", "4", "--json").done().json
    assert (first["step"], first["steps"], first["finished"]) == (4, 9, False)
    assert has_shape(first, documented("pretrain")[0])
    second = motherbird(*smoke)
    assert second.code == 0 and "finished" in second.out
    assert re.search(r"step 5/9 stable  loss \d", second.err), second.err
    again = motherbird(*smoke, "--json").done().json
    assert again["finished"] and again["sha256"] == state.newest(tmp_path / "run").sha256


def test_stop_after_some_time(smoke, motherbird):
    found = motherbird(*smoke, "--stop-after", "0.001s", "--json").done().json
    assert not found["finished"]


@pytest.mark.parametrize(("rank", "bars"), [("0", 1), ("1", 0)])
def test_one_of_several_ranks_shows_a_progress_bar(rank, bars, smoke, motherbird, monkeypatch):
    import rich.progress

    from motherbird.data.loader import Cursor
    from motherbird.train import pretrain

    created = []

    class Spy(rich.progress.Progress):
        def __init__(self, *columns, **options):
            created.append(self)
            super().__init__(*columns, **options)

    outcome = pretrain.Outcome(state.Progress(Cursor(0)), None)
    monkeypatch.setattr(pretrain, "pretrain", lambda *arguments, **options: outcome)
    monkeypatch.setattr(rich.progress, "Progress", Spy)
    monkeypatch.setattr("motherbird.cli.output.is_terminal", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    assert motherbird(*smoke).code == 0
    assert len(created) == bars


def test_a_dry_run_writes_nothing(smoke, motherbird, tree, tmp_path, documented, has_shape):
    before = tree(tmp_path)
    found = motherbird(*smoke, "--dry-run", "--json").done().json
    assert has_shape(found, documented("pretrain")[1])
    assert found["steps"] == 9 and [p["name"] for p in found["phases"]] == [
        "stable",
        "extend",
        "decay",
    ]
    shown = motherbird(*smoke, "--dry-run").done().out
    assert "9 steps" in shown and "memory about" in shown and tree(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("base.toml", ["phases.0.first_rows=2", "phases.0.rows=2"]),
        ("large.toml", ["phases.0.first_rows=2", "phases.0.rows=2", "phases.3.rows=1"]),
        ("mini.toml", ["phases.0.first_rows=2", "phases.0.rows=2"]),
        ("nano.toml", ["phases.0.first_rows=2", "phases.0.rows=2"]),
        ("smoke.toml", ["phases.0.first_rows=2", "phases.0.rows=2"]),
    ],
)
def test_every_recipe_takes_two_steps(name, changes, data, motherbird, model, tmp_path):
    """With a smaller model and batch, and the recipe's row lengths."""
    last = 3 if name in ("large.toml", "nano.toml") else 2
    changes = [
        *SMALL,
        *changes,
        "evaluate.tokens=8192",
        "train.micro_tokens=8192",
        "train.workers=0",
    ]
    changes += [f"phases.{i}.rows=1" for i in range(1, last + 1)]
    changes += [f"phases.{i}.micro_tokens=8192" for i in range(1, last + 1)]
    if name == "large.toml":
        changes += [f"init.from='{model}'", "model.num_hidden_layers=4"]
    found = motherbird(
        "pretrain", RECIPES / name, "--data", data, "--out", tmp_path / "run", *sets(*changes),
        "--stop-after", "2", "--threads", "1", "--json",
    ).done()  # fmt: skip
    assert found.json["step"] == 2


def test_tensorboard(smoke, motherbird, tmp_path):
    pytest.importorskip("tensorboard")
    motherbird(*smoke, "--stop-after", "2", "--tensorboard", "--json")
    assert list((tmp_path / "run" / "tensorboard").glob("events*"))


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_so(number, code, smoke, tmp_path):
    command = [sys.executable, "-m", "motherbird", *map(str, smoke)]
    command[command.index("--steps") + 1] = "2000"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") > 3):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    step = state.newest(tmp_path / "run").progress.step
    assert process.returncode == code, err
    last = err.strip().splitlines()[-1]
    assert last.startswith(f"error: stopped by {number.name}, saved at step {step}: ")
    assert "the same command resumes" in last


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--set", "trian.lr=1"], "unknown key trian .did you mean train"),
        (["--set", "train.lr"], "needs KEY=VALUE"),
        (["--stop-after", "0"], "use a number of steps, such as 200, or a time"),
        (["--stop-after", "-3"], "use a number of steps|No such option"),
        (["--stop-after", "9x"], "use a number of steps"),
        (["--steps", "0"], "0 is not in the range"),
        (["--device", "cuda:99"], "is not available"),
        (["--data", "nowhere"], "directory does not exist"),
        (["--set", "phases.0.seq_len=64"], "no rows of 64"),
        (
            ["--set", "phases.0.seq_len=64", "--set", "phases.1.seq_len=512"],
            "no rows of 64 or 512 tokens: .*: it has rows of 256, .*; .* 64,256,512,1024,8192$",
        ),
        (["--set", "lr=1e-3"], r"unknown key lr \(did you mean train.lr or phases.N.lr\?\)"),
        (["--set", "every=5"], r"unknown key every \(did you mean save.every or evaluate.every"),
        (["--batch-size", "4"], "No such option"),
        (["--set", "train.micro_tokens=1024", "--set", "phases.0.rows=6"], "micro-batches"),
    ],
)
def test_mistakes_are_refused_before_work(more, says, smoke, motherbird, tree, tmp_path):
    before = tree(tmp_path)
    motherbird(*smoke, *more).refused(says)
    assert tree(tmp_path) == before or set(tree(tmp_path)) - set(before) <= {"run", "run/LOCK"}


def test_the_output_is_checked(smoke, motherbird, data, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    motherbird(*smoke).refused("contains 'mine.txt' and is not a run")
    smoke[smoke.index("--out") + 1] = data / "run"
    motherbird(*smoke).refused("inside the input")
    del smoke[smoke.index("--out") : smoke.index("--out") + 2]
    motherbird(*smoke).refused("Missing option .--out.")


def test_another_recipe_in_the_same_folder(smoke, motherbird):
    motherbird(*smoke, "--stop-after", "1", "--json").done()
    motherbird(*smoke, "--set", "train.lr=1").refused("train.lr is 1.0, was 0.004")


def test_no_recipe(motherbird, data, tmp_path):
    motherbird("pretrain", tmp_path / "no.toml", "--data", data, "--out", "x").refused(
        "cannot read"
    )
    (tmp_path / "bad.toml").write_text("a = \n")
    motherbird("pretrain", tmp_path / "bad.toml", "--data", data, "--out", "x").refused("line 1")


def test_help_shows_what_to_do(motherbird):
    shown = motherbird("pretrain", "--help").done().out
    for word in ("--set", "--stop-after", "--dry-run", "torchrun", "recipes/smoke.toml"):
        assert word in shown
    assert json.dumps("sha256") in shown
