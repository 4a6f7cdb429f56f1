"""Runs on disk: list, show, average, rewind, export."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from motherbird.disk import locked
from motherbird.errors import DamagedError, InputError, OutdatedError, OutputExistsError
from motherbird.nn import MaskedLM
from motherbird.train import init_weights, recipe, run_info, run_log, runs, state
from motherbird.train.recipe import Save

pytestmark = pytest.mark.usefixtures("unchecked")

KEYS = ["run", "step", "steps", "tokens", "masked", "loss", "phase", "finished", "sha256",
        "evaluation", "checkpoints", "skipped_steps", "skips", "changes", "data",
        "world_size", "seconds"]  # fmt: skip


@pytest.fixture(scope="module")
def plan(tiny):
    """`tiny` with every third checkpoint kept."""
    return replace(tiny, save=Save(every=3, keep=100))


@pytest.fixture(scope="module")
def whole(plan, smoke_set, train, tmp_path_factory):
    """A run that was never stopped."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    train(plan, smoke_set, run)
    return run


@pytest.fixture(scope="module")
def stopped(plan, smoke_set, train, tmp_path_factory):
    """The same run in two parts."""
    run = tmp_path_factory.mktemp("runs") / "stopped"
    train(plan, smoke_set, run, steps=10)
    train(plan, smoke_set, run)
    return run


@pytest.fixture
def run(whole, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(whole, tmp_path / "run")


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and the time of its last change."""
    stats = {str(p.relative_to(folder)): p.stat() for p in folder.rglob("*")}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def log_of(run):
    times = {*run_log.TIMES}
    return [{k: v for k, v in x.items() if k not in times} for x in run_log.read(run)]


# --- list and show


def test_show(whole, stopped, plan):
    one, other = runs.show(whole), runs.show(stopped)
    assert list(one) == KEYS
    assert one["step"] == one["steps"] == plan.steps() and one["finished"]
    assert one["sha256"] == other["sha256"] and len(one["sha256"]) == 64
    differs = {"run": "", "checkpoints": [], "seconds": 0}
    assert {**one, **differs} == {**other, **differs} and one["seconds"] > 0
    assert set(other["checkpoints"]) - set(one["checkpoints"]) == {10}
    assert one["phase"] == "c" and one["evaluation"]["step"] == plan.steps()
    assert set(one["evaluation"]) == {"step", "phase", "loss", "accuracy", "masked"}
    assert json.loads(json.dumps(one)) == one


def test_show_tells_what_was_skipped_on_the_way(run):
    """Skipped steps that a kill, a rollback or a rewind discarded are not shown."""
    events = run_log.RunLog(run, state.newest(run).progress.step)
    for step, event, more in (
        (1, "start", {}), (3, "skip", {"reason": "a"}), (7, "skip", {"reason": "b"}),
        (5, "start", {}), (8, "skip", {"reason": "d"}),
        (8, "rewound", {"to": 7}), (7, "start", {}), (10**6, "skip", {"reason": "e"}),
    ):  # fmt: skip
        events.event(event, step, **more)
    events.close()
    assert runs.show(run)["skipped_steps"] == [
        {"step": 3, "why": "a"},
    ]


def test_show_is_of_the_newest_that_verifies(run, plan, caplog):
    last = state.folder(run, plan.steps())
    content = bytearray((last / state.TENSORS).read_bytes())
    content[-5] ^= 1
    (last / state.TENSORS).write_bytes(content)
    found = runs.show(run)
    assert found["step"] == sorted(state.steps(run))[-2] and not found["finished"]
    assert found["evaluation"]["step"] <= found["step"]
    assert last.name in caplog.text and last.exists()


def test_list(run, tmp_path, plan):
    (tmp_path / "other").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    (tmp_path / "fresh").mkdir()
    shutil.copy(run / "run.json", tmp_path / "fresh")
    before = tree(tmp_path)
    broken, fresh, found = runs.list_runs(tmp_path)
    assert tree(tmp_path) == before
    assert [Path(s["run"]).name for s in (broken, fresh, found)] == ["broken", "fresh", "run"]
    assert "not valid JSON" in broken["problem"] and found["problem"] is None
    assert (fresh["step"], fresh["steps"], fresh["phase"]) == (None, plan.steps(), "a")
    assert (found["step"], found["phase"], found["finished"]) == (plan.steps(), "c", True)
    shown = runs.show(run)
    assert found["loss"] == shown["loss"] and found["tokens"] == shown["tokens"]
    assert not found["running"] and found["written"] > 1e9
    [again] = runs.list_runs(run)
    assert {**again, "written": 0} == {**found, "written": 0}
    with locked(run / "LOCK"):
        assert runs.list_runs(run)[0]["running"]
    assert not runs.is_busy(run) and not (tmp_path / "fresh" / "LOCK").exists()
    with pytest.raises(InputError, match="directory does not exist"):
        runs.list_runs(tmp_path / "gone")


def test_a_run_of_another_version_is_refused_as_such(run, plan, smoke_set, train, tmp_path):
    """As the first development version wrote it: its recipe has keys that were renamed since."""
    about = json.loads((run / "run.json").read_text())
    about.pop("format", None)
    for stored in (about["given"], about["recipe"]):
        stored["health"]["least"] = stored["health"].pop("min_steps")
    (run / "run.json").write_text(json.dumps(about))
    before = tree(tmp_path)
    for call in (
        lambda: runs.show(run),
        lambda: runs.rewind(run, 9),
        lambda: runs.export(run, tmp_path / "out"),
        lambda: runs.average(run, tmp_path / "out", last=1),
        lambda: init_weights.load(str(run)),
        lambda: train(plan, smoke_set, run),
    ):
        with pytest.raises(OutdatedError, match="by another version of .* the version that wrote"):
            call()
    assert "by another version of motherbird" in runs.list_runs(run)[0]["problem"]
    assert {**tree(tmp_path), "run/LOCK": 0} == {**before, "run/LOCK": 0}


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": 3}', "null"])
def test_a_run_json_of_another_format(text, run):
    (run / "run.json").write_text(text)
    with pytest.raises(OutdatedError, match="another version"):
        run_info.read(run)


def test_a_run_json_without_a_key(run):
    about = json.loads((run / "run.json").read_text())
    del about["data"]
    (run / "run.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="not a valid run.json"):
        run_info.read(run)


# --- average


def test_the_average_is_the_mean(whole, tmp_path):
    steps = sorted(state.steps(whole))[-3:]
    assert runs.average(whole, tmp_path / "out", last=2, steps=[steps[0], steps[2]]) == steps
    found = MaskedLM.load(tmp_path / "out", dtype="stored")
    each = [init_weights.model_of_run(whole, step)[0].state_dict() for step in steps]
    for name, tensor in found.state_dict().items():
        mean = sum(weights[name].double() for weights in each) / 3
        assert tensor.dtype == torch.float32 and torch.equal(tensor, mean.float())
    assert found.model.tokenizer is not None
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"The mean of steps {steps[0]}, {steps[1]}, {steps[2]} of a run" in card
    assert "not those of the mean" in card and "| device | cpu |" in card
    assert runs.average(whole, tmp_path / "out", last=1) == steps[2:]  # replaces the first
    one = init_weights.model_of_run(whole, steps[2])[0].state_dict()
    assert all(
        torch.equal(t, one[n])
        for n, t in MaskedLM.load(tmp_path / "out", dtype="stored").state_dict().items()
    )
    runs.average(whole, tmp_path / "out", last=1, dtype="bfloat16")
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"--step {steps[2]} --dtype bfloat16 --out" in card and "not those of" not in card
    found = MaskedLM.load(tmp_path / "out", dtype="bfloat16")
    assert all(torch.equal(t, one[n].bfloat16()) for n, t in found.state_dict().items())


def test_the_best_are_those_of_the_lowest_loss(run, tmp_path):
    lines = [{**line} for line in run_log.read(run)]
    for line in lines:
        if "evaluation" in line:
            line["evaluation"]["loss"] = 1.0 if line["step"] == 24 else 5.0 + line["step"]
    (run / run_log.LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert runs.average(run, tmp_path / "out", best=1) == [24]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "no checkpoint is chosen"),
        ({"last": 1000}, r"--last 1000: the run has only \d+ checkpoints"),
        ({"best": 1000}, r"--best 1000: the run has only \d+ evaluated checkpoints"),
        ({"steps": [1]}, "no checkpoint for step 1: .*: existing steps: 0, 3, 6"),
        ({"steps": [3, 24]}, "steps 3 and 24 belong to phases with other lengths"),
        ({"last": 2, "data": "gone"}, "prepared dataset is missing"),
    ],
)
def test_averages_that_are_refused(options, says, whole, tmp_path):
    if "data" in options:
        options = {**options, "data": tmp_path / options["data"]}
    with pytest.raises(InputError, match=says):
        runs.average(whole, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


# --- rewind


def test_a_run_goes_on_with_what_was_set(run, whole, plan, smoke_set, train):
    before = runs.show(run)["sha256"]
    changes = ["train.lr=1e-3", "phases.2.tokens=2048", "phases.2.decay=2048"]
    assert runs.rewind(run, 15, changes) == plan.steps()
    found = runs.show(run)
    assert found["step"] == 15 and found["steps"] == plan.steps() - 4 and not found["finished"]
    assert max(found["checkpoints"]) == 15 and found["evaluation"]["step"] <= 15
    aside = sorted(p.name for p in (run / "quarantine").iterdir())
    assert len(aside) == len([s for s in state.steps(whole) if s > 15]) and "rewound" in aside[0]
    assert found["changes"] == [{"step": 15, "set": changes, "from": plan.steps()}]
    about = run_info.read(run)
    assert about.given == run_info.read(whole).given != about.recipe
    train(plan, smoke_set, run)  # the recipe that it began with
    old, new = log_of(whole), log_of(run)
    assert new[:15] == old[:15] and len(new) == plan.steps() - 4
    assert {line["lr"] for line in new[15:18]} == {1e-3} != {line["lr"] for line in old[15:18]}
    assert runs.show(run)["finished"] and runs.show(run)["sha256"] != before


def test_a_rewind_without_changes_leads_to_the_same_weights(run, plan, smoke_set, train):
    before = runs.show(run)
    runs.rewind(run, 9)
    train(plan, smoke_set, run)
    after = runs.show(run)
    changes = [{"step": 9, "set": [], "from": plan.steps()}]
    assert after == {**before, "changes": changes, "seconds": after["seconds"]}
    assert [e["event"] for e in run_log.read(run, run_log.EVENTS)] == [
        "start", "finish", "rewound", "start", "finish",
    ]  # fmt: skip


def test_a_setting_may_change_where_the_run_stands(run, plan):
    runs.rewind(run, 15)
    assert runs.rewind(run, 15, ["save.every=2"]) == 15
    assert run_info.read(run).recipe["save"]["every"] == 2
    with pytest.raises(InputError, match="at step 15 already"):
        runs.rewind(run, 15, ["save.every=2"])


def test_what_was_left_out_later_is_forgotten(run):
    about = run_info.read(run)
    skips = [{"phase": 0, "first": 0, "last": 2, "batches": 1, "step": step, "to": to, "why": "x"}
             for step, to in ((6, 3), (18, 9), (21, 18))]  # fmt: skip
    run_info.write(run, replace(about, skips=skips))
    runs.rewind(run, 9)
    assert run_info.read(run).skips == skips[:2]


@pytest.mark.parametrize(
    ("step", "changes", "says"),
    [
        (26, [], "the run is over at step 26"),
        (26, ["train.lr=1e-3"], "the run is over at step 26"),
        (14, [], "no checkpoint for step 14: .*: existing steps: 0, 3, 6"),
        (-1, [], "no checkpoint for step -1"),
        (15, ["train.lr"], "needs KEY=VALUE"),
        (15, ["train.lrr=1"], "unknown key train.lrr .did you mean train.lr"),
        (15, ["train.lr=fast"], "train.lr = 'fast' is not a number"),
        (15, ["train.lr=-1"], "lr = -1.0 has to be more than 0"),
        (15, ["train.optimizer=muon"], "train.optimizer cannot be changed"),
        (15, ["seed=2"], "seed cannot be changed"),
        (15, ["model.dropout=0.5"], "model.dropout cannot be changed"),
        (15, ["phases.2.rows=4"], "phases.2.rows cannot be changed"),
        (15, ["phases.1.seq_len=64"], "phases.1.seq_len cannot be changed"),
        (15, ["phases.5.lr=1"], "there is no phases.5 to set"),
        (15, ["phases=[]"], "at least one of"),
        (15, ["phases.0.lr=1e-4"], "phases.0.lr is of a phase that is over at step 15"),
        (15, ["phases.1.tokens=512"], "phase 'b' would be over before step 15"),
    ],
)
def test_rewinds_that_are_refused(step, changes, says, whole):
    before = tree(whole)
    with pytest.raises(InputError, match=says) as refused:
        runs.rewind(whole, step, changes)
    assert "\n" not in str(refused.value)
    now = tree(whole)
    assert {**now, "LOCK": 0} == {**before, "LOCK": 0}


def test_a_rewind_waits_for_nobody(run, tmp_path):
    before = tree(run)
    with locked(run / "LOCK"), pytest.raises(InputError, match="another process"):
        runs.rewind(run, 9)
    assert tree(run).keys() == before.keys()
    with pytest.raises(InputError, match="not the directory of a run"):
        runs.rewind(tmp_path, 9)
    assert not (tmp_path / "LOCK").exists()


def test_a_rewind_to_damage_changes_nothing(run):
    path = state.folder(run, 9) / state.TENSORS
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    before = tree(run)
    with pytest.raises(DamagedError, match="changed after it was written"):
        runs.rewind(run, 9)
    assert {**tree(run), "LOCK": 0} == {**before, "LOCK": 0}


def test_a_rewind_that_fails_between_leaves_the_old_recipe(run, plan, monkeypatch, caplog):
    """Whichever checkpoint cannot be moved, the run is at one of its earlier steps."""
    about = run_info.read(run)

    def full(when, name, path, detail):
        if name == "rename" and path.name == "step-00000018":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("motherbird.disk.watch", full)
    with pytest.raises(DamagedError, match="step-00000018|cannot be moved"):
        runs.rewind(run, 9, ["train.lr=1e-3"])
    assert run_info.read(run) == about
    monkeypatch.undo()
    assert runs.rewind(run, 9, ["train.lr=1e-3"]) == 18
    assert state.steps(run)[0] == 9


# --- export


def test_an_export_loads_and_says_how_it_was_made(whole, plan, smoke_set, tmp_path):
    found = runs.export(whole, tmp_path / "out")
    assert found.progress.step == plan.steps()
    model = MaskedLM.load(tmp_path / "out", dtype="stored")
    assert model.model.config.max_position_embeddings == 256
    ours = init_weights.model_of_run(whole)[0].state_dict()
    assert all(torch.equal(t, ours[n]) for n, t in model.state_dict().items())
    assert model.model.tokenizer.encode("import os")
    card = (tmp_path / "out" / "README.md").read_text()
    for words in ("Step 26 of a run of 26 steps", "| c | 4,096 | 8 | 256 | 2 |", "stableadamw",
                  "library", "motherbird pretrain recipe.toml", "motherbird export run --step 26",
                  f"{found.progress.tokens:,} tokens", "## Limits", "| cpu | ", "torch 2",
                  runs.show(whole)["data"], "products in float32", "| held out | license |",
                  "hours of steps, in 1 process"):  # fmt: skip
        assert words in card, words
    assert str(smoke_set.parent) not in card  # paths are private
    (tmp_path / "recipe.toml").write_text(card.split("```toml\n")[1].split("```")[0])
    assert recipe.load(tmp_path / "recipe.toml") == plan


def test_the_code_of_a_card_runs(whole, tmp_path, monkeypatch):
    runs.export(whole, tmp_path / whole.name)
    card = (tmp_path / whole.name / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    assert len(names["model"].fill("import [MASK]")) == 1
    assert names["embedder"].embed(["import os", "a file"]).shape == (2, 32)


def test_an_export_of_a_step_has_the_configuration_of_its_phase(whole, tmp_path):
    runs.export(whole, tmp_path / "out", step=6)
    config = MaskedLM.load(tmp_path / "out", dtype="stored").model.config
    assert (config.max_position_embeddings, config.global_rope_theta) == (64, 10_000.0)
    assert "Step 6 of a run" in (tmp_path / "out" / "README.md").read_text()


def test_an_export_of_a_run_that_moved(run, smoke_set, tmp_path):
    about = run_info.read(run)
    run_info.write(run, replace(about, data_path=str(tmp_path / "gone")))
    with pytest.raises(InputError, match="gone: set --data to its directory"):
        runs.export(run, tmp_path / "out")
    runs.export(run, tmp_path / "out", data=smoke_set)
    run_info.write(run, replace(about, data="0" * 64))
    with pytest.raises(InputError, match="not the dataset that the run was trained on"):
        runs.export(run, tmp_path / "out")


def test_the_card_tells_of_rewinds_and_of_what_was_left_out(run, tmp_path):
    skip = {"phase": 0, "first": 0, "last": 9, "batches": 4, "step": 8, "to": 6, "why": "a | b"}
    run_info.write(run, replace(run_info.read(run), skips=[skip]))
    runs.rewind(run, 15, ["train.lr=1e-3"])
    runs.export(run, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "At step 8 the run was rolled back to step 6 and skipped 4 batches: a / b." in card
    assert "From step 26 it was rewound to step 15; changed: `train.lr=1e-3`." in card


def test_exports_that_are_refused(whole, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("not to be lost")
    with pytest.raises(OutputExistsError):
        runs.export(whole, tmp_path / "mine")
    with pytest.raises(InputError, match="no checkpoint for step 7"):
        runs.export(whole, tmp_path / "out", step=7)
    with pytest.raises(InputError, match="not the directory of a run"):
        runs.export(tmp_path, tmp_path / "out")
    assert [p.name for p in tmp_path.rglob("*")] == ["mine", "notes.txt"]


def test_a_summary_is_plain(whole):
    assert json.loads(json.dumps(runs.list_runs(whole)[0]))["problem"] is None
