"""Estimates of runs, and runs that do not fit are refused before their first step."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from motherbird.errors import InputError
from motherbird.train import cost
from motherbird.train.recipe import load

CPU = torch.device("cpu")
RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.fixture
def recipe():
    return load(RECIPES / "nano.toml")


def test_a_plan(tiny, smoke_set):
    found = cost.estimate(tiny, smoke_set, None)
    assert found["steps"] == tiny.steps() == sum(p["steps"] for p in found["phases"])
    assert found["tokens"] == sum(p.tokens for p in tiny.phases)
    assert all(p["tokens_per_s"] > 0 and p["epochs"] > 0 for p in found["phases"])
    assert found["hours"] > 0 and found["memory"]["total"] > found["memory"]["state"]


def test_the_checkpoint_is_as_large_as_was_said(tiny, smoke_set, train, tmp_path):
    from motherbird.train import state

    train(tiny, smoke_set, tmp_path / "run", steps=2)
    size = (state.newest(tmp_path / "run").directory / state.TENSORS).stat().st_size
    assert size == pytest.approx(cost.estimate(tiny, smoke_set, None)["checkpoint"], rel=0.05)


def test_what_does_not_fit_into_memory_is_refused(recipe, small_tokenizer, monkeypatch, tmp_path):
    config = recipe.model.config(small_tokenizer)
    monkeypatch.setattr("motherbird.machine.available_mb", lambda: 300.0)
    with pytest.raises(InputError, match="GB of memory are needed and 300MB are free") as error:
        cost.check(recipe, config, CPU, 2, tmp_path / "run")
    assert "fewer threads, shorter rows" in error.value.how  # a row of 8,192 each
    halved = replace(recipe, phases=(replace(recipe.phases[0], micro_tokens=65536),))
    with pytest.raises(InputError, match="GB of memory") as error:
        cost.check(halved, config, CPU, 2, tmp_path / "run")
    assert "halve phases.0.micro_tokens (8192)" in error.value.how


def test_what_does_not_fit_on_the_disk_is_refused(recipe, small_tokenizer, monkeypatch, tmp_path):
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(InputError, match="checkpoints need .*[MG]B and 1MB are free"):
        cost.check(recipe, recipe.model.config(small_tokenizer), CPU, 2, tmp_path / "run")


def test_more_of_anything_needs_more(recipe, small_tokenizer):
    config = recipe.model.config(small_tokenizer)
    least = cost.memory(recipe, config, CPU, 1)["total"]
    more_tokens = replace(recipe, train=replace(recipe.train, micro_tokens=16384))
    assert cost.memory(recipe, config, CPU, 2)["total"] > least
    assert cost.memory(more_tokens, config, CPU, 1)["total"] > least
    assert cost.memory(recipe, replace(config, num_hidden_layers=20), CPU, 1)["total"] > least


def test_a_run_that_does_not_fit_leaves_nothing(tiny, smoke_set, train, monkeypatch, tmp_path):
    monkeypatch.setattr("motherbird.machine.available_mb", lambda: 1.0)
    with pytest.raises(InputError, match="of memory are needed"):
        train(tiny, smoke_set, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()
