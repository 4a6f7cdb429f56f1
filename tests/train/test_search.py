"""Searching for settings of fine-tuning."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from motherbird import Classifier, InputError
from motherbird.errors import OutputExistsError, StoppedError
from motherbird.files import sha256
from motherbird.train import search as module
from motherbird.train.finetune import finetune
from motherbird.train.search import parse, search, trials


@pytest.fixture(autouse=True)
def _one_thread(_same_start):
    torch.set_num_threads(1)


def test_lists_make_a_grid():
    space = parse(["lr=1e-4,3e-4", "epochs = 2, 5, 10", "optimizer=adamw,stableadamw"])
    found = trials(space, None, 0)
    assert len(found) == 12 and found[0] == {"lr": 1e-4, "epochs": 2, "optimizer": "adamw"}
    assert trials(space, 100, 0) == found  # more than there are


@given(st.integers(0, 2**40), st.integers(1, 20))
def test_random_trials_are_within_their_ranges_and_depend_on_the_seed_alone(seed, count):
    space = parse(["lr=1e-5..1e-3", "epochs=1..1000", "dropout=0.0,0.1"])
    found = trials(space, count, seed)
    assert len(found) == count and found == trials(space, count, seed)
    assert found[: count // 2] == trials(space, count, seed)[: count // 2]
    for each in found:
        assert 1e-5 <= each["lr"] <= 1e-3 and each["dropout"] in (0.0, 0.1)
        assert isinstance(each["epochs"], int) and 1 <= each["epochs"] <= 1000
    assert len({json.dumps(each) for each in found}) == count


def test_a_range_is_drawn_by_its_logarithm():
    drawn = [each["lr"] for each in trials(parse(["lr=1e-6..1e-2"]), 400, 0)]
    assert 170 < sum(lr < 1e-4 for lr in drawn) < 230


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["lr"], "needs KEY="),
        (["lr="], "needs KEY="),
        (["learning_rate=1,2"], "learning_rate cannot be searched"),
        (["epoch=1,2"], "did you mean epochs"),
        (["task=tag"], "task cannot be searched"),
        (["model=a,b"], "model cannot be searched"),
        (["lr=1e-4", "lr=1e-3"], "searched twice"),
        (["lr=1e-3..1e-4"], "lower one first"),
        (["lr=0..1"], "lower one first"),
        (["lr=a..b"], "two numbers"),
        (["lr=..1"], "two numbers"),
    ],
)
def test_mistakes_are_named(texts, message):
    with pytest.raises(InputError, match=message):
        parse(texts)


def test_a_range_needs_a_number_of_trials():
    with pytest.raises(InputError, match="set --trials"):
        trials(parse(["lr=1e-4..1e-3"]), None, 0)


def test_there_are_fewer_trials_than_wanted_if_there_are_fewer_values():
    assert len(trials(parse(["epochs=1..2"]), 5, 0)) == 2
    assert len(trials(parse(["lr=1e-4,1e-4,3e-4"]), None, 0)) == 2


def test_an_impossible_trial_is_refused_before_the_first_one(recipe, tmp_path, good_or_bad):
    space = parse(["max_length=64,100000"])
    with pytest.raises(InputError, match="max_length"):
        search(recipe, space, None, good_or_bad, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_trials_of_an_unfinished_search_are_kept(recipe, tmp_path, good_or_bad, monkeypatch):
    first = parse(["lr=1e-4,3e-4"])
    real, limits = finetune, iter([None, 3])
    monkeypatch.setattr(module, "finetune", lambda *a, **k: real(*a, max_steps=next(limits), **k))
    with pytest.raises(StoppedError):  # in the second trial
        search(replace(recipe, epochs=2), first, None, good_or_bad, tmp_path / "out")
    monkeypatch.setattr(module, "finetune", real)
    finished = tmp_path / ".out.unfinished/1/out/model.safetensors"
    assert finished.is_file()
    with pytest.raises(InputError, match="unfinished run of other settings"):
        other = parse(["lr=1e-4,3e-4,1e-3"])
        search(replace(recipe, epochs=2), other, None, good_or_bad, tmp_path / "out")
    assert finished.is_file()


def test_a_search_runs_in_one_process(recipe, tmp_path, good_or_bad, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="without torchrun"):
        search(recipe, parse(["lr=1e-4,3e-4"]), None, good_or_bad, tmp_path / "out")


def test_a_wrong_value_is_refused_before_the_first_trial(recipe, tmp_path, good_or_bad):
    space = parse(["lr=1e-4,fast"])
    with pytest.raises(InputError, match="lr"):
        search(recipe, space, None, good_or_bad, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_the_best_trial_is_written_also_after_stops(recipe, tmp_path, monkeypatch, good_or_bad):
    space = parse(["lr=1e-5,8e-3,4e-3"])
    whole = search(recipe, space, None, good_or_bad, tmp_path / "whole")
    scores = [row["dev"]["accuracy"] for row in whole["trials"]]
    assert [row["settings"]["lr"] for row in whole["trials"]] == [1e-5, 8e-3, 4e-3]
    assert whole["recipe"]["lr"] == [1e-5, 8e-3, 4e-3][scores.index(max(scores))]
    assert scores[0] < max(scores) == whole["dev"]["accuracy"]
    alone = replace(recipe, lr=whole["recipe"]["lr"])
    finetune(alone, good_or_bad, tmp_path / "alone")
    weights = "model.safetensors"
    assert sha256(tmp_path / "whole" / weights) == sha256(tmp_path / "alone" / weights)
    assert Classifier.load(tmp_path / "whole").labels == ("bad", "good")
    assert "# whole" in (tmp_path / "whole/README.md").read_text()

    stopped = 0
    for limit in (2, 9, 30):  # stopped in each trial
        monkeypatch.setattr(
            module, "finetune", lambda *a, n=limit, **k: finetune(*a, max_steps=n, **k)
        )
        try:
            search(recipe, space, None, good_or_bad, tmp_path / "again")
        except StoppedError:
            stopped += 1
    monkeypatch.setattr(module, "finetune", finetune)
    again = search(recipe, space, None, good_or_bad, tmp_path / "again")
    assert stopped == 2
    assert sha256(tmp_path / "whole" / weights) == sha256(tmp_path / "again" / weights)
    assert [row["dev"] for row in again["trials"]] == [row["dev"] for row in whole["trials"]]
    assert not list(tmp_path.glob(".*"))
    assert search(recipe, space, None, good_or_bad, tmp_path / "again") == again  # nothing computed
    with pytest.raises(OutputExistsError):
        search(recipe, parse(["lr=1e-4,1e-3"]), None, good_or_bad, tmp_path / "again")
