"""Recipes: the paper's numbers, lengths that scale exactly, and every mistake refused."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motherbird import strict
from motherbird.errors import InputError
from motherbird.train import recipe as recipes
from motherbird.train.phase import Phase
from motherbird.train.recipe import Recipe, Train, differences, load

HOME = Path(__file__).resolve().parents[2] / "recipes"
RUNS = sorted(p.name for p in HOME.glob("*.toml") if not p.name.startswith("mixture"))
RUNS += [f"nano/{path.name}" for path in sorted((HOME / "nano").glob("*-masked.toml"))]
B = 10**9


def test_every_recipe_is_known_here():
    assert RUNS == [
        "base.toml", "large.toml", "mini.toml", "nano-gpu.toml", "nano.toml", "smoke.toml",
        "nano/2-masked.toml", "nano/3-masked.toml",
    ]  # fmt: skip


@pytest.mark.parametrize("name", RUNS)
def test_a_recipe_parses_and_survives_json(name):
    recipe = load(HOME / name)
    assert strict.build(Recipe, strict.plain(recipe), name) == recipe


def test_base_is_the_papers():
    recipe = load(HOME / "base.toml")
    assert [p.tokens for p in recipe.phases] == [1719 * B, 250 * B, 50 * B]
    assert [(p.seq_len, p.rows, p.theta) for p in recipe.phases] == [
        (1024, 4608, 10_000), (8192, 576, 160_000), (8192, 576, 160_000)
    ]  # fmt: skip
    peaks = [p.lr_schedule(recipe.train.lr).peak for p in recipe.phases]
    assert peaks == [8e-4, 3e-4, 3e-4] and recipe.train.weight_decay == 1e-5
    assert recipe.phases[0].steps() == 21_194 + 353_707
    assert recipe.phases[2].lr_schedule(0.1).at(50 * B, 50 * B) == pytest.approx(3e-7)
    for ranks in (1, 2, 4, 8):
        recipe.check_world_size(ranks)
    assert recipe.micro_rows(recipe.phases[0], 768) == 96
    assert recipe.train.masking == 0.3 and recipe.evaluate.masking == 0.15
    assert recipe.model.dropout == 0.1 and recipe.seed == 17


def test_large_is_the_papers():
    recipe = load(HOME / "large.toml")
    assert sum(p.tokens for p in recipe.phases) == 2019 * B
    assert [p.rows for p in recipe.phases] == [4928, 4928, 616, 624]
    assert [p.lr_schedule(recipe.train.lr).peak for p in recipe.phases] == [5e-4, 5e-5, 5e-5, 5e-5]
    assert [recipe.micro_rows(p, p.rows) for p in recipe.phases] == [56, 56, 7, 6]
    recipe.check_world_size(8)


@settings(max_examples=60)
@given(st.integers(4, 400), st.sampled_from(["smoke.toml", "nano.toml", "nano-gpu.toml"]))
def test_a_length_in_steps_is_exact(steps, name):
    recipe = load(HOME / name)
    scaled = recipe.with_steps(steps)
    assert scaled.steps() == steps
    each = [p.steps() for p in scaled.phases]
    whole = [p.steps() for p in recipe.phases]
    for now, before in zip(each, whole, strict=True):
        assert now >= 1 and abs(now - before * steps / sum(whole)) <= 2 + 0.01 * steps
    assert scaled.phases[-1].decay == scaled.phases[-1].tokens


@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 5000), st.integers(1, 10**5))
def test_steps_are_what_counting_gives(first, times, warm_up, tokens):
    grows = warm_up > 0
    phase = Phase(
        "p", tokens, 16, first * times, first_rows=first if grows else None, rows_warm_up=warm_up
    )
    rows = steps = 0
    while not phase.is_over(rows):
        rows += phase.batch_size.at(rows, 16)
        steps += 1
    assert phase.steps() == steps


def test_changes_reach_every_corner():
    recipe = load(
        HOME / "smoke.toml", ["train.lr=1e-5", "phases.1.rows=4", 'train.reduce="tree"', "seed=3"]
    )
    assert (recipe.train.lr, recipe.phases[1].rows, recipe.train.reduce) == (1e-5, 4, "tree")
    assert recipe.seed == 3


def test_differences_are_named():
    old = load(HOME / "smoke.toml")
    new = replace(
        old,
        train=replace(old.train, lr=1.0),
        phases=(replace(old.phases[0], rows=64), *old.phases[1:]),
    )
    found = sorted(differences(strict.plain(old), strict.plain(new)))
    assert found == ["phases.0.rows is 64, was 32", "train.lr is 1.0, was 0.004"]
    assert list(differences(strict.plain(old), strict.plain(old))) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("train.learning_rate=1", "unknown key train.learning_rate .keys: lr"),
        ("trian.lr=1", "unknown key trian .did you mean train"),
        ("train.lr=0", "lr = 0.0 has to be more than 0"),
        ("train.lr=-1", "more than 0"),
        ("train.lr=nan", "lr"),
        ('train.lr="8e-4"', "train.lr = '8e-4' is not a number"),
        ("train.lr=true", "is not a number"),
        ("train.masking=0", "masking = 0.0 has to be more than 0"),
        ("train.masking=1.5", "masking = 1.5"),
        ("phases.0.masking=-0.1", "masking"),
        ("model.dropout=1", "dropout = 1.0"),
        ("train.optimizer=sgd", "one of adamw, stableadamw, muon"),
        ("train.micro_tokens=0", "micro_tokens = 0"),
        ("phases.0.tokens=0", "tokens = 0"),
        ("phases.0.seq_len=4", "seq_len = 4"),
        ("phases.0.rows=0", "rows = 0"),
        (
            "phases.0.rows=33",
            "phases.0.first_rows = 16 does not divide rows = 33: rows has to be a multiple",
        ),
        ("phases.0.warm_up=10000000", r"phases.0.warm_up and decay .* are longer than the phase"),
        ("phases.1.seq_len=64", "shorter rows"),
        ("phases.1.name=stable", "two phases have the same name"),
        ("phases.7.rows=4", "there is no phases.7"),
        ("phases=[]", "at least one of"),
        ("seed=-1", "seed = -1"),
        ("seed=9223372036854775808", "seed"),
        ("save.keep=0", "keep = 0"),
        ("save.every=-1", "0 or more"),
        ("evaluate.tokens=0", "1 or more"),
        ("train.workers=1000", "workers = 1000"),
        ("train.timeout=0", "timeout"),
        ("model.preset=huge", "one of base, large, mini, nano"),
        ("phases.0.final=2", "final = 2.0 is not within"),
        ("phases.0.theta=0", "theta = 0.0"),
    ],
)
def test_what_is_refused(change, says):
    with pytest.raises(InputError, match=says):
        load(HOME / "smoke.toml", [change])


RENAMED = [
    *((f"phases.0.{old}", f"phases.0.{new}") for old, new in Phase.RENAMED.items()),
    *((f"health.{old}", f"health.{new}") for old, new in recipes.Limits.RENAMED.items()),
]


@pytest.mark.parametrize(("old", "new"), RENAMED)
def test_a_renamed_key_is_refused_with_its_new_name(old, new):
    with pytest.raises(InputError, match=f"{old} was renamed to {new}"):
        load(HOME / "smoke.toml", [f"{old}=100"])
    load(HOME / "smoke.toml", ["health.min_skip=0", f"{new}=100"])


def test_a_phase_is_set_by_its_number():
    says = r"there is no phases.stable to set: phases.stable.rows=8: phases are numbered: phases.0 "
    with pytest.raises(InputError, match=says + r"\(\w+\), phases.1 \(\w+\), phases.2 \(\w+\)$"):
        load(HOME / "smoke.toml", ["phases.stable.rows=8"])
    with pytest.raises(InputError, match="there is no phases.7 to set.*phases are numbered"):
        load(HOME / "smoke.toml", ["phases.7.rows=8"])


def test_all_mistakes_are_told_at_once():
    with pytest.raises(InputError) as error:
        load(HOME / "smoke.toml", ["train.lr=0", "phases.0.rows=0", "sedd=1"])
    for part in ("lr = 0.0", "rows = 0", "unknown key sedd (did you mean seed?)"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("ranks", "changes", "says", "do"),
    [
        (3, ['train.reduce="tree"'], "3 ranks cannot use", "1, 2, 4, 8"),
        (
            2,
            ["train.micro_tokens=8192"],
            "16 rows is not a multiple of 2 ranks",
            "micro_tokens to .*2048",
        ),
        (32, [], "16 rows is not a multiple of 32 ranks", "multiple of 32"),
        (1, ["phases.1.rows=7", "train.micro_tokens=4096"], "7 rows is not a multiple", "7168"),
    ],
)
def test_ranks_that_do_not_fit(ranks, changes, says, do):
    recipe = load(HOME / "smoke.toml", changes)
    with pytest.raises(InputError, match=says) as error:
        recipe.check_world_size(ranks)
    import re

    assert re.search(do, error.value.how)


def test_a_vocabulary_comes_from_the_data(small_tokenizer, toy):
    config = load(HOME / "nano.toml").model.config(small_tokenizer)
    assert (config.vocab_size, config.hidden_size, config.cls_token_id) == (1024, 320, 937)
    assert config.attention_dropout == 0.0
    from_toy = recipes.Geometry(num_hidden_layers=7).config(small_tokenizer, toy)
    assert (from_toy.hidden_size, from_toy.num_hidden_layers) == (32, 7)
    assert from_toy.attention_dropout == 0.1


def test_the_configuration_of_a_phase(small_tokenizer):
    recipe = load(HOME / "smoke.toml")
    base = recipe.model.config(small_tokenizer)
    found = [recipe.config(base, i) for i in range(3)]
    assert [(c.global_rope_theta, c.max_position_embeddings) for c in found] == [
        (10_000, 256), (160_000, 1024), (160_000, 1024)
    ]  # fmt: skip


def test_a_run_needs_a_phase_and_steps():
    with pytest.raises(InputError, match="at least one"):
        Recipe((), Train(lr=1.0))
    with pytest.raises(
        InputError, match="steps = 2 is less than one per phase .3.: use --steps 3 or"
    ):
        load(HOME / "smoke.toml", steps=2)
