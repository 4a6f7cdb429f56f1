"""Several tasks in one run: each loss, what is learned, exact resume, one directory for all."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from motherbird import Dense, Embedder, MaskedLM, Reranker
from motherbird.errors import InputError, StoppedError
from motherbird.files import sha256
from motherbird.nn import Encoder, SequenceClassifier, pack
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
from motherbird.train.vectors.rows import choose_partners, paired, text_rows


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
        MultitaskTask(kind="scores", data=(str(texts),), rows=200, teacher=str(model)),
    )
    return Multitask(
        model=str(model), task=tasks, epochs=3, batch_size=64, lr=1e-3, dtype="float32",
        save_every=2,
    )  # fmt: skip


def test_it_learns_all_tasks_and_resumes_with_the_same_result(recipe, tmp_path):
    whole = train(recipe, tmp_path / "whole")
    metrics = {"cosine", "MRR@10", "MRR@10 late", "masked accuracy", "spearman"}
    assert set(whole["dev"]) == metrics
    assert whole["dev"]["cosine"] > 0.9 and whole["dev"]["MRR@10"] > 0.5
    assert whole["documents"] == {"train": 294 + 190 + 147 + 196, "dev": 6 + 9 + 3 + 4}
    stops = 0
    while not (tmp_path / "out").exists():
        try:
            found = train(recipe, tmp_path / "out", caller=Caller(max_steps=11))
        except StoppedError:
            stops += 1
    assert stops == 3 and found["curve"] == whole["curve"]
    for name in ("model.safetensors", "2_Dense/model.safetensors", "reranker/model.safetensors"):
        assert sha256(tmp_path / "whole" / name) == sha256(tmp_path / "out" / name)
    scores = Reranker.load(tmp_path / "out/reranker").score("a text", ["a text", "another one"])
    assert scores.shape == (2,)
    config = json.loads((tmp_path / "out/reranker/config.json").read_text())
    assert config["problem_type"] == "regression" and (scores < 0.4).all()  # no sigmoid
    vectors = Embedder.load(tmp_path / "out").embed(["a text", "another one"])
    assert vectors.shape == (2, 24)
    assert len(MaskedLM.load(tmp_path / "out").fill("a [MASK] text", 3)) == 1
    again = train(
        replace(recipe, model=str(tmp_path / "out"), epochs=1, lr=1e-6, optimizer="muon"),
        tmp_path / "on",
    )  # fmt: skip
    assert again["dev"]["masked accuracy"] >= whole["dev"]["masked accuracy"] - 0.05


def test_it_starts_from_a_masked_lm(recipe, base, tmp_path):
    """Its head is kept, and a linear layer begins as the best one for its vectors."""
    start = TorchMaskedLM(Encoder.load(base, dtype="float32"))
    often = start.encoder.tokenizer.encode(" the")[1]
    start.decoder.bias.data[often] = 20
    start.save(tmp_path / "lm")
    task = replace(recipe.task[0], weight=1e-6)
    found = train(
        replace(recipe, model=str(tmp_path / "lm"), task=(task, recipe.task[2]), lr=1e-9),
        tmp_path / "out",
    )  # fmt: skip
    assert found["dev"]["cosine"] > 0.6
    assert MaskedLM.load(tmp_path / "out").fill("a [MASK] text", 1)[0][0].token_id == often


def test_a_new_head_begins_with_small_logits(base):
    encoder = Encoder.load(base, dtype="float32")
    encoder.embeddings.tok_embeddings.weight.data *= 1000
    models = (TorchMaskedLM.with_new_head(encoder, 0).eval(), TorchMaskedLM(encoder).eval())
    logits = [model(pack([[5, 6, 7]])) for model in models]
    assert logits[0].std() < 3 < 100 < logits[1].std()


def test_losses_are_those_of_the_objectives_alone(recipe, base):
    """The loss of a step is the weighted sum of those of its tasks."""
    from motherbird.train.vectors import multitask_plan

    made = multitask_plan.plan(recipe, {})
    draw = np.random.default_rng(1)
    targets = draw.normal(size=(300, 24)).astype(np.float32)
    targets /= np.linalg.norm(targets, axis=1, keepdims=True)
    rows = made.with_targets([
        (targets, None), (None, None), (None, None),
        (targets[:200], made.partners(3, targets[:200])),
    ]).train  # fmt: skip
    model = MultitaskModel(
        TorchMaskedLM(Encoder.load(base, dtype="float32")), torch.nn.Linear(32, 24, bias=False),
        torch.nn.Linear(32, 1),
    ).eval()  # fmt: skip
    tasks = [[Part(1.0, VectorsObjective(model, 5.0))],
             [Part(0.5, ContrastiveObjective(model)), Part(0.25, LateObjective(model), True)],
             [Part(0.1)], [Part(3.0)]]  # fmt: skip
    numbers = [*range(9), *range(300, 312), *range(500, 508), *range(640, 650)]
    batches = rows.micro_batches(numbers, 10**6, 1)
    assert [batch.task for batch in batches] == [0, 1, 2, 3]
    objective = MultitaskObjective(model, tasks)
    assert [objective.own_loss(batch) is None for batch in batches] == [
        True, True, False, False,
    ]  # fmt: skip
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
    scorer = SequenceClassifier(model.encoder, ("score",)).eval()
    scorer.head, scorer.classifier = model.head, model.classifier
    errors = scorer(batches[3].packed)[:, 0] - batches[3].targets[:, 0]
    torch.testing.assert_close(objective.own_loss(batches[3])(), 3 * errors.square().sum())


def test_pairs_that_are_scored(base, prose):
    """Half of the second texts are near the first; ids are those of the tokenizer."""
    tokenizer, words = Encoder.load(base, dtype="float32").tokenizer, prose[0].split()
    texts = list(dict.fromkeys(" ".join(words[n : n + 4 + n % 7]) for n in range(300)))
    rows, count = text_rows(tokenizer, texts, 64), len(texts)
    vectors = np.random.default_rng(0).normal(size=(count, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    second = choose_partners(vectors, (1, 2))
    found = paired(rows, vectors, second)
    pairs = [(texts[n], texts[other]) for n, other in enumerate(second)]
    assert [own.tolist() for own in found.ids] == tokenizer.encode_pairs(pairs, 128)[0]
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -1)
    own = cosines[np.arange(count), second]
    np.testing.assert_allclose(found.targets[:, 0], own, atol=1e-6)
    near = own >= np.sort(cosines, axis=1)[:, -16]
    assert 0.4 < near.mean() < 0.7 and len(set(second.tolist())) > count / 2


def test_mistakes(recipe, base, tmp_path):
    with pytest.raises(InputError, match="without a task of vectors none can begin"):
        train(replace(recipe, model=str(base), task=recipe.task[1:3]), tmp_path / "out")
    with pytest.raises(InputError, match="teacher is a setting of vectors, and this task is pairs"):
        replace(recipe.task[1], teacher="all-MiniLM-L6-v2")
    with pytest.raises(InputError, match="two tasks of one kind"):
        replace(recipe, task=recipe.task[:1] * 2)
    other = replace(recipe.task[0], teacher=str(base))
    with pytest.raises(InputError, match="vectors of 32 dimensions, and the model of 24"):
        train(replace(recipe, task=(other,)), tmp_path / "out")
    with pytest.raises(InputError, match="there is no"):
        replace(recipe, task=())
