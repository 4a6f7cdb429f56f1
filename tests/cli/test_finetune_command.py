"""motherbird finetune: from tables to a model that the other commands run."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import pytest

QUICK = ("--set", "dtype=float32", "--lr", "4e-3", "--batch-size", "16")


def rows(count: int) -> list[tuple[str, str]]:
    """Texts with separators, quotes and line breaks, and their labels."""
    words = ["open", "the, file", 'a "path"', "two\nlines", "read"]
    return [
        (f"{words[n % 5]} {'good' if n % 3 else 'bad'} {words[n % 4]}", "yes" if n % 3 else "no")
        for n in range(count)
    ]


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "train.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([("sentence", "label"), *rows(90)])
    return path


def test_from_a_table_to_labels(motherbird, base, table, tmp_path):
    out = tmp_path / "model"
    call = ("finetune", "classify", "--train", table, "--model", base, "--out", out, *QUICK)
    trained = motherbird(*call, "--epochs", 10, "--json").done().json
    assert trained["dev"]["accuracy"] == 1.0 and trained["dev"]["auc"] == 1.0
    assert trained["documents"] == {"train": 81, "dev": 9}
    assert trained["model"] == str(out)
    again = motherbird(*call, "--epochs", 10, "--json").done().json
    assert again == trained
    labels = motherbird("classify", table, "--column", "sentence", "--model", out)
    assert labels.code == 0
    found = [json.loads(line)["label"] for line in labels.out.splitlines()]
    assert found == [label for _, label in rows(90)]


def test_what_it_says(motherbird, base, table, tmp_path):
    out = tmp_path / "model"
    shown = motherbird(
        "finetune", "classify", "--train", table, "--model", base, "--out", out, *QUICK,
        "--epochs", 2, "--max-length", 8,
    )  # fmt: skip
    assert shown.code == 0
    assert "train: 81 examples: no 27, yes 54" in shown.err
    assert "truncated" in shown.err
    assert "at most 2 epochs of 6 steps, learning rate 0.004" in shown.err
    assert shown.out.startswith("dev: accuracy ") and f"{out}: epoch " in shown.out


def test_a_recipe_and_what_overrides_it(motherbird, base, table, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'task = "classify"\nmodel = "{base}"\nepochs = 9\ndtype = "float32"\n')
    call = ("finetune", "classify", "--train", table, "--recipe", recipe, "--json")
    found = motherbird(*call, "--out", tmp_path / "a", "--epochs", 1, "--seed", 3).done().json
    assert found["recipe"]["epochs"] == 1 and found["recipe"]["seed"] == 3
    motherbird(*call, "--out", tmp_path / "b", "--set", "epoch=1").refused("did you mean epochs")
    motherbird(*call, "--out", tmp_path / "b", "--set", "lr=0").refused("lr = 0")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("text,label\na,yes\nb,yes\n", "have the same label"),
        ("text,label\na,yes\n,no\n", r"train\.csv:3"),
        ("text,label\na,yes\nb,\n", r"train\.csv:3"),
        ("words,kind\na,yes\nb,no\n", "--text"),
        ('text,label\n"a,yes\n', "quote"),
        ("", "empty"),
    ],
)
def test_bad_data_is_refused_before_work(content, says, motherbird, base, tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(content)
    call = ("finetune", "classify", "--train", path, "--model", base, "--out", tmp_path / "model")
    motherbird(*call).refused(says)
    assert [p.name for p in tmp_path.iterdir()] == ["train.csv"]


def test_outputs_that_exist(motherbird, base, table, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.txt").write_text("mine")
    call = ("finetune", "classify", "--train", table, "--model", base)
    motherbird(*call, "--out", tmp_path / "model").refused("the output exists")
    motherbird(*call, "--out", base).refused("input")
    assert (tmp_path / "model/mine.txt").read_text() == "mine"


@pytest.mark.skipif(os.name != "posix", reason="needs signals")
def test_ctrl_c_saves_and_the_same_command_resumes(base, table, tmp_path):
    out = tmp_path / "model"
    command = [
        sys.executable, "-m", "motherbird", "finetune", "classify", "--train", str(table),
        "--model", str(base), "--out", str(out), *QUICK, "--epochs", "20", "--set", "patience=0",
        "--json",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log = tmp_path / ".model.unfinished/log.jsonl"
    end = time.monotonic() + 60
    while not (log.is_file() and log.read_text().count("\n") > 5) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "the same command resumes" in err and "Traceback" not in err
    steps = log.read_text().count("\n")
    assert not out.exists()
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = (out / "log.jsonl").read_text().splitlines()
    assert len(lines) == 20 * 6 and steps < len(lines)
    assert [json.loads(line)["step"] for line in lines] == list(range(1, 121))
