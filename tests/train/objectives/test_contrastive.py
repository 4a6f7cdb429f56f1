"""Contrastive training: what the loss is, and that training by it finds the right pairs."""

from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest
import torch

from motherbird import Embedder
from motherbird.data.loader import Cursor
from motherbird.nn import Encoder
from motherbird.nn.vectors import VectorModel
from motherbird.train.distributed import Distributed
from motherbird.train.loop import train
from motherbird.train.objectives.contrastive import ContrastiveObjective
from motherbird.train.optimizer import Optimizer
from motherbird.train.state import Progress
from motherbird.train.step import Stepper
from motherbird.train.vectors.rows import TextRows

PAIRS = {
    "How do I sort a list?": "Call sorted, which returns a new one in ascending order.",
    "Where is my home folder?": "Path.home gives the directory of the user.",
    "What is the time?": "datetime.now returns hours, minutes and seconds.",
    "Compress some bytes": "zlib makes data smaller and restores it.",
    "Start another program": "subprocess.run waits until the command has ended.",
    "Read lines of JSON": "json.loads parses one string into an object.",
}
QUESTIONS, ANSWERS = list(PAIRS), list(PAIRS.values())


@pytest.fixture
def embedder(toy, small_tokenizer):
    torch.manual_seed(0)
    encoder = Encoder(replace(toy, initializer_range=32**-0.5))
    encoder.tokenizer = small_tokenizer
    return Embedder(encoder)


def batch_of(embedder, *columns, max_length=64):
    """Rows of texts: a query, its answer, and any other documents."""
    texts = [text for row in zip(*columns, strict=True) for text in row]
    tokenizer = embedder.tokenizer
    ids = [tokenizer.truncate(each, max_length) for each in tokenizer.encode_batch(texts)]
    rows = TextRows([np.array(each, np.int32) for each in ids], [len(columns)] * len(columns[0]))
    return rows.batch(range(len(rows)))


def loss(embedder, *columns, max_length=64, **settings):
    """The mean loss of rows."""
    objective = ContrastiveObjective(VectorModel(embedder.encoder, "mean"), **settings)
    batch = batch_of(embedder, *columns, max_length=max_length)
    assert objective.weight(batch) == len(columns[0])
    return objective.joint_loss([batch], [objective.model(batch.packed)]).item() / len(columns[0])


def cross_entropy(scores):
    return -(scores.diagonal() - np.log(np.exp(scores).sum(axis=1))).mean()


@torch.no_grad()
def test_the_loss_is_the_formula_written_out(embedder):
    found = loss(embedder, QUESTIONS, ANSWERS, temperature=0.02)
    scores = embedder.embed(QUESTIONS) @ embedder.embed(ANSWERS).T / 0.02
    assert found == pytest.approx(cross_entropy(scores), rel=1e-4)
    both = loss(embedder, QUESTIONS, ANSWERS, temperature=0.02, symmetric=True)
    assert both == pytest.approx((found + cross_entropy(scores.T)) / 2, rel=1e-4)
    assert abs(both - found) > 0.01


@torch.no_grad()
def test_other_documents_of_a_row_are_wrong_answers(embedder):
    wrong = ANSWERS[1:] + QUESTIONS[:1]
    found = loss(embedder, QUESTIONS, ANSWERS, [f"Not {text}" for text in wrong])
    documents = ANSWERS + [f"Not {text}" for text in wrong]
    scores = embedder.embed(QUESTIONS) @ embedder.embed(documents).T / 0.05
    assert found == pytest.approx(cross_entropy(scores), rel=1e-4)


@torch.no_grad()
def test_a_document_of_the_same_text_is_not_a_wrong_answer(embedder):
    twice = [ANSWERS[0], ANSWERS[0], *ANSWERS[2:]]
    scores = embedder.embed(QUESTIONS) @ embedder.embed(twice).T / 0.05
    scores[0, 1] = scores[1, 0] = -np.inf
    assert loss(embedder, QUESTIONS, twice) == pytest.approx(cross_entropy(scores), rel=1e-4)


@torch.no_grad()
def test_first_dimensions_are_trained_too(embedder):
    vectors = embedder.embed(QUESTIONS, normalize=False), embedder.embed(ANSWERS, normalize=False)
    each = []
    for size in (4, 8, 32):
        q, d = (v[:, :size] / np.linalg.norm(v[:, :size], axis=1)[:, None] for v in vectors)
        each.append(cross_entropy(q @ d.T / 0.05))
    found = loss(embedder, QUESTIONS, ANSWERS, dimensions=(4, 8, 32))
    assert found == pytest.approx(np.sum(each), rel=1e-4)


@torch.no_grad()
def test_long_texts_are_truncated(embedder):
    found = loss(embedder, QUESTIONS, ANSWERS, max_length=5)
    longer = [answer + " And more that is not read." * 9 for answer in ANSWERS]
    assert loss(embedder, QUESTIONS, longer, max_length=5) == found


@torch.no_grad()
def test_the_order_of_rows_does_not_matter(embedder):
    found = loss(embedder, QUESTIONS, ANSWERS)
    assert loss(embedder, QUESTIONS[::-1], ANSWERS[::-1]) == pytest.approx(found, rel=1e-4)


def test_training_finds_the_right_pairs(embedder):
    losses = []
    batch = batch_of(embedder, QUESTIONS, ANSWERS)
    train(
        ContrastiveObjective(VectorModel(embedder.encoder, "mean")),
        repeat(([batch], Cursor(0))),
        lr=5e-3,
        steps=60,
        on_step=lambda report, done: losses.append(report.loss),
    )
    assert losses[0] > 1 and losses[-1] < 0.1
    scores = embedder.embed(QUESTIONS) @ embedder.embed(ANSWERS).T
    assert (scores.argmax(axis=1) == np.arange(len(PAIRS))).all()


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_micro_batches_share_their_wrong_answers(embedder, threads):
    """The same gradients for one micro-batch and for three, whose graphs are kept or not."""
    model = VectorModel(embedder.encoder, "mean").train()
    objective = ContrastiveObjective(model)
    rows = [batch_of(embedder, QUESTIONS[n : n + 2], ANSWERS[n : n + 2]) for n in (0, 2, 4)]
    whole = batch_of(embedder, QUESTIONS, ANSWERS)
    mean = objective.joint_loss([whole], [model(whole.packed)]) / len(PAIRS)
    named = dict(model.named_parameters())
    wanted = dict(zip(named, torch.autograd.grad(mean, list(named.values())), strict=True))
    torch.set_num_threads(threads)
    stepper = Stepper(
        objective, Optimizer(model, "adamw"), Distributed(0, 1, torch.device("cpu")),
        torch.float32, seed=0,
    )  # fmt: skip
    seen = {}
    stepper.optimizer.step = lambda lr, gradients: seen.update(
        zip(stepper.optimizer.named, gradients, strict=True)
    )
    report = stepper.step(rows, Progress(Cursor(0)), 1e-3)
    assert report.loss == pytest.approx(mean.item(), rel=1e-5)
    for name, gradient in wanted.items():
        torch.testing.assert_close(seen[name], gradient, atol=1e-5, rtol=1e-4)
