"""Several tasks in one run: each loss, what is learned, exact resume, one directory for all."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from motherbird import Dense, Embedder, MaskedLM
from motherbird.errors import InputError, StoppedError
from motherbird.files import sha256
from motherbird.nn import Encoder
from motherbird.nn import MaskedLM as TorchMaskedLM
from motherbird.nn.heads import pool
from motherbird.nn.vectors import MultitaskModel
from motherbird.train.objectives.contrastive import ContrastiveObjective
from motherbird.train.objectives.late import LateObjective
from motherbird.train.objectives.multitask import MultitaskObjective, Part
from motherbird.train.objectives.vectors import VectorsObjective
from motherbird.train.tuning_run import Caller
from motherbird.train.vectors.multitask import train
from motherbird.train.vectors.recipe import Multitask, MultitaskTask


@pytest.fixture
def model(base, tmp_path):
    """A model of mean pooling and one linear layer, to 24 dimensions."""
    weight = np.linalg.qr(np.random.default_rng(0).normal(size=(32, 24)))[0].T
    dense = Dense(np.ascontiguousarray(weight, np.float32))
    Embedder(Encoder.load(base, dtype="float32"), dense=[dense]).save(tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def recipe(model, prose, tmp_path):
    pytest.importorskip("sentence_transformers")
    words = prose[0].split()
    texts, pairs = tmp_path / "texts.jsonl", tmp_path / "pairs.jsonl"
    rows = [" ".join(words[n : n + 3 + n % 20]) for n in range(0, 3000, 10)]
    texts.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    pairs.write_text("".join(
        json.dumps({"query": " ".join(row.split()[:2]), "positive": row}) + "\n"
        for row in dict.fromkeys(rows)
    ))  # fmt: skip
    tasks = (
        MultitaskTask(kind="vectors", data=(str(texts),), rows=300, teacher=str(model)),
        MultitaskTask(kind="pairs", data=(str(pairs),), rows=200, weight=0.5, dimensions=(8,)),
        MultitaskTask(kind="masked", data=(str(texts),), rows=150, weight=0.1),
    )
    return Multitask(
        model=str(model), task=tasks, epochs=3, batch_size=64, lr=1e-3, dtype="float32",
        save_every=2,
    )  # fmt: skip


def test_it_learns_all_tasks_and_resumes_with_the_same_result(recipe, tmp_path):
    whole = train(recipe, tmp_path / "whole")
    assert set(whole["dev"]) == {"cosine", "MRR@10", "MRR@10 late", "masked accuracy"}
    assert whole["dev"]["cosine"] > 0.9 and whole["dev"]["MRR@10"] > 0.5
    assert whole["documents"] == {"train": 294 + 190 + 147, "dev": 6 + 9 + 3}
    stops = 0
    while not (tmp_path / "out").exists():
        try:
            found = train(recipe, tmp_path / "out", caller=Caller(max_steps=11))
        except StoppedError:
            stops += 1
    assert stops == 2 and found["curve"] == whole["curve"]
    for name in ("model.safetensors", "2_Dense/model.safetensors"):
        assert sha256(tmp_path / "whole" / name) == sha256(tmp_path / "out" / name)
    vectors = Embedder.load(tmp_path / "out").embed(["a text", "another one"])
    assert vectors.shape == (2, 24)
    assert len(MaskedLM.load(tmp_path / "out").fill("a [MASK] text", 3)) == 1
    again = train(replace(recipe, model=str(tmp_path / "out"), epochs=1, lr=1e-6), tmp_path / "on")
    assert again["dev"]["masked accuracy"] >= whole["dev"]["masked accuracy"] - 0.05


def test_losses_are_those_of_the_objectives_alone(recipe, base):
    """The loss of a step is the weighted sum of those of its tasks."""
    from motherbird.train.vectors import multitask

    made = multitask.plan(recipe, {})
    draw = np.random.default_rng(1)
    targets = draw.normal(size=(300, 24)).astype(np.float32)
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    rows = made.with_targets([targets, None, None]).train
    model = MultitaskModel(
        TorchMaskedLM(Encoder.load(base, dtype="float32")), torch.nn.Linear(32, 24, bias=False)
    ).eval()
    tasks = [[Part(1.0, VectorsObjective(model, 5.0))],
             [Part(0.5, ContrastiveObjective(model)), Part(0.25, LateObjective(model), True)],
             [Part(0.1)]]  # fmt: skip
    batches = rows.micro_batches([*range(9), *range(300, 312), *range(500, 508)], 10**6, 1)
    assert [batch.task for batch in batches] == [0, 1, 2]
    objective = MultitaskObjective(model, tasks)
    assert [objective.own_loss(batch) is None for batch in batches] == [True, True, False]
    found = objective.joint_loss(batches[:2], [model(batch.packed) for batch in batches[:2]])
    unit = torch.nn.functional.normalize
    tokens = [model(batch.packed) for batch in batches[:2]]
    texts = [unit(pool(x, b.packed, "mean"), dim=-1) for b, x in zip(batches, tokens, strict=False)]
    expected = (
        tasks[0][0].objective.joint_loss(batches[:1], texts[:1])
        + 0.5 * tasks[1][0].objective.joint_loss(batches[1:2], texts[1:])
        + 0.25 * tasks[1][1].objective.joint_loss(batches[1:2], [unit(tokens[1], dim=-1)])
    )
    torch.testing.assert_close(found, expected)
    masked = batches[2].masked
    assert (batches[2].packed.ids[masked.positions] != masked.targets).float().mean() > 0.6
    alone = model.masked_lm.loss(batches[2].packed, *masked)
    torch.testing.assert_close(objective.own_loss(batches[2])(), 0.1 * alone)


def test_mistakes(recipe, base, tmp_path):
    with pytest.raises(InputError, match="not one of mean pooling and one linear layer"):
        train(replace(recipe, model=str(base)), tmp_path / "out")
    with pytest.raises(InputError, match="teacher is a setting of vectors, and this task is pairs"):
        replace(recipe.task[1], teacher="all-MiniLM-L6-v2")
    with pytest.raises(InputError, match="two tasks of one kind"):
        replace(recipe, task=recipe.task[:1] * 2)
    other = replace(recipe.task[0], teacher=str(base))
    with pytest.raises(InputError, match="vectors of 32 dimensions, and the model of 24"):
        train(replace(recipe, task=(other,)), tmp_path / "out")
    with pytest.raises(InputError, match="there is no"):
        replace(recipe, task=())
