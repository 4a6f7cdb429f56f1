"""GLUE: the paper's protocol, on a few rows of each task."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from motherbird import InputError
from motherbird.cli.evaluate import command
from motherbird.errors import FetchError
from motherbird.train import glue
from motherbird.train.search import parse

PAIRS = {
    "qqp": ("question1", "question2"), "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"), "mrpc": ("sentence1", "sentence2"),
    "stsb": ("sentence1", "sentence2"), "rte": ("sentence1", "sentence2"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread(_same_start):
    torch.set_num_threads(1)


def rows(name: str, count: int) -> list[dict]:
    """Rows with the columns of nyu-mll/glue."""
    draw = np.random.default_rng(len(name))
    found = []
    for number in range(count):
        label = int(draw.integers(3 if name == "mnli" else 2))
        text = f"the file {'good' if label else 'bad'} opens {number}"
        row = {"sentence": text} if name not in PAIRS else dict.fromkeys(PAIRS[name], text)
        row |= {"label": float(label) if name == "stsb" else label, "idx": number}
        found.append(row)
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("glue")
    for name in glue.TASKS:
        (folder / name).mkdir()
        dev = "validation_matched" if name == "mnli" else "validation"
        for part, count in (("train", 24), (dev, 12)):
            lines = "".join(json.dumps(row) + "\n" for row in rows(name, count))
            (folder / name / f"{part}.jsonl").write_text(lines)
    return folder


def test_all_tasks_and_those_that_start_from_mnli(data, base, tmp_path):
    space = parse(["lr=1e-3", "epochs=1"])
    found = glue.evaluate(str(base), data, tmp_path / "out", space=space)
    assert list(found["tasks"]) == list(glue.TASKS)
    starts = {name: each["from"] for name, each in found["tasks"].items()}
    assert {n for n, start in starts.items() if start == "mnli"} == {"mrpc", "stsb", "rte"}
    recipe = json.loads((tmp_path / "out/rte/finetune.json").read_text())["recipe"]
    assert recipe["model"] == str(tmp_path / "out/mnli")
    assert recipe["batch_size"] == 64 and recipe["max_length"] == 256
    if found["mean"] is not None:
        values = [each["value"] for each in found["tasks"].values()]
        assert found["mean"] == pytest.approx(100 * np.mean(values), abs=0.01)
    assert json.loads((tmp_path / "out/glue.json").read_text()) == found
    assert glue.evaluate(str(base), data, tmp_path / "out", space=space) == found


def test_the_grid_is_that_of_the_paper(data, base, tmp_path, monkeypatch):
    tried = []
    monkeypatch.setattr(glue, "search", lambda recipe, space, *a, **k: tried.append(space) or {
        "trials": [{"dev": {"mcc": 0.5, "accuracy": 0.5}, "settings": {}, "seconds": 0}],
        "dev": {"mcc": 0.5, "accuracy": 0.5}, "best": 1,
    })  # fmt: skip
    glue.evaluate(str(base), data, tmp_path / "out", tasks=("cola", "rte"))
    for space, epochs in zip(tried, [(2, 5, 10), (1, 2, 3)], strict=True):
        assert space["lr"].listed == (1e-5, 3e-5, 5e-5, 8e-5)
        assert space["weight_decay"].listed == (1e-6, 5e-6, 8e-6, 1e-5)
        assert space["epochs"].listed == epochs


def test_the_hub_is_read_with_the_library_datasets(monkeypatch):
    datasets = pytest.importorskip("datasets")
    made = datasets.DatasetDict({
        "train": datasets.Dataset.from_list(rows("mnli", 24)),
        "validation_matched": datasets.Dataset.from_list(rows("mnli", 6)),
    })  # fmt: skip
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or made)
    parts = glue.load(None, "mnli")
    assert asked == [("nyu-mll/glue", "mnli")]
    assert len(parts.train.texts) == 24 and parts.train.names() == ["0", "1", "2"]
    assert parts.dev.texts[0] == tuple(["the file good opens 0"] * 2)


def test_without_a_network_the_error_says_what_to_do(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def fail(*names):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(FetchError, match=r"no route to host.*nyu-mll/glue rte.*--data"):
        glue.load(None, "rte")


def test_a_missing_file_is_named_before_the_first_step(data, base, tmp_path):
    with pytest.raises(InputError, match=r"no train.*wnli"):
        glue._find(data / "wnli", ("train",))
    with pytest.raises(InputError, match="not tasks of GLUE: wnli"):
        glue.evaluate(str(base), data, tmp_path / "out", tasks=("cola", "wnli"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "other"}, "the protocol of GLUE sets model"),
        ({"batchsize": 3}, "batch_size"),
        ({"class_weights": True}, "class_weights"),  # stsb has numbers
    ],
)
def test_settings_are_checked_before_the_first_task(settings, message, data, base, tmp_path):
    with pytest.raises(InputError, match=message):
        glue.evaluate(str(base), data, tmp_path / "out", tasks=("rte", "stsb"), settings=settings)
    assert not (tmp_path / "out").exists()


def test_the_command_prints_a_table_beside_the_paper(data, base, tmp_path):
    arguments = [
        "glue", "--model", str(base), "--data", str(data), "--out", str(tmp_path / "out"),
        "--tasks", "sst2", "--search", "lr=1e-3", "--search", "epochs=1",
    ]  # fmt: skip
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == [*glue.TASKS, "mean"]
    assert lines[-2].split()[-1] == "88.5"  # ModernBERT base
