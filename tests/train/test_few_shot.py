"""Fine-tuning on a few texts of each label."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from easy_labels import parts
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from motherbird import InputError
from motherbird.errors import NoMemoryError, StoppedError
from motherbird.files import sha256
from motherbird.nn.packed import pack
from motherbird.train.few_shot import PENALTY, in_pairs, logistic_regression
from motherbird.train.finetune import finetune
from motherbird.train.objectives.labels import LabelledBatch
from motherbird.train.objectives.supervised_contrastive import SupervisedContrastiveObjective
from motherbird.train.tuning_plan import initial_model, plan


@pytest.fixture(autouse=True)
def _one_thread(_same_start):
    torch.set_num_threads(1)


@pytest.fixture
def few_shot(recipe):
    return replace(recipe, few_shot=True, epochs=10, batch_size=8)


@torch.no_grad()
def test_the_loss_is_the_formula_written_out(few_shot):
    model = initial_model(plan(few_shot, parts("single"))).eval()
    targets = torch.tensor([0, 1, 0, 2, 1, 0])  # the label 2 occurs once
    documents = [list(range(5 + n, 12 + 2 * n)) for n in range(6)]
    objective = SupervisedContrastiveObjective(model, temperature=0.2)
    batch = LabelledBatch(pack(documents), targets)
    vectors = model.head(model.pooled(batch.packed)).numpy().astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.exp(vectors @ vectors.T / 0.2)
    expected = 0.0
    for i, own in enumerate(targets):
        others = [j for j in range(6) if j != i]
        same = [j for j in others if targets[j] == own]
        if same:
            total = sum(scores[i, j] for j in others)
            expected -= np.mean([np.log(scores[i, j] / total) for j in same])
    assert objective.weight(batch) == 6
    assert objective.loss(batch).item() == pytest.approx(expected, rel=1e-5)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.integers(0, 2**40))
def test_texts_of_one_label_follow_each_other(labels, seed):
    order = in_pairs(labels, (seed, 0))
    assert sorted(order) == list(range(len(labels)))
    runs, place = Counter(), 0
    while place < len(order):
        label = labels[order[place]]
        has_pair = place + 1 < len(order) and labels[order[place + 1]] == label
        runs[label, 1 + has_pair] += 1
        place += 1 + has_pair
    for label, count in Counter(labels).items():
        # Two single texts of one label may not follow each other, so there is at most one.
        assert 2 * runs[label, 2] + runs[label, 1] == count and runs[label, 1] <= 1
    assert order == in_pairs(labels, (seed, 0))


def test_logistic_regression_is_that_of_scikit_learn():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(60, 8)).astype(np.float32)
    targets = draw.integers(3, size=60)
    vectors[np.arange(60), targets] += 2
    weight, bias = logistic_regression(torch.tensor(vectors), torch.tensor(targets), 3)
    scale = np.linalg.norm(vectors, axis=1).mean()
    peer = LogisticRegression(C=1 / PENALTY, max_iter=1000, tol=1e-8)
    peer.fit(vectors / scale, targets)
    own = torch.softmax(torch.tensor(vectors) @ weight.T + bias, dim=1).numpy()
    np.testing.assert_allclose(own, peer.predict_proba(vectors / scale), atol=1e-3)


def test_it_learns_and_resumes(few_shot, tmp_path):
    found = finetune(few_shot, parts("single"), tmp_path / "whole")
    assert found["test"]["accuracy"] > 0.9
    stops = 0
    while not (tmp_path / "stopped").exists():
        try:
            finetune(few_shot, parts("single"), tmp_path / "stopped", max_steps=17)
        except StoppedError:
            stops += 1
    assert stops == 3
    weights = "model.safetensors"
    assert sha256(tmp_path / "whole" / weights) == sha256(tmp_path / "stopped" / weights)


@pytest.mark.parametrize("kind", ["multi", "number", "tags"])
def test_it_needs_one_label_for_each_text(kind, few_shot, tmp_path):
    task = {"multi": "classify", "number": "score", "tags": "tag"}[kind]
    with pytest.raises(InputError, match="each has one label"):
        finetune(replace(few_shot, task=task), parts(kind), tmp_path / "out")


def test_settings_that_few_shot_does_not_have(few_shot, tmp_path):
    with pytest.raises(InputError, match="few_shot has no class_weights"):
        finetune(replace(few_shot, class_weights=True), parts("single"), tmp_path / "out")


def test_memory_that_does_not_suffice_names_the_batch_size(few_shot, tmp_path, monkeypatch):
    def loss(self, batch):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")

    monkeypatch.setattr(SupervisedContrastiveObjective, "loss", loss)
    with pytest.raises(NoMemoryError, match="batch-size"):
        finetune(few_shot, parts("single"), tmp_path / "out")
