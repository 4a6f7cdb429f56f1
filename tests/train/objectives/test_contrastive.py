"""Contrastive training: what the loss is, and that training by it finds the right pairs."""

from dataclasses import replace
from itertools import repeat

import numpy as np
import pytest
import torch

from motherbird import Embedder
from motherbird.data.loader import Cursor
from motherbird.errors import InputError
from motherbird.nn import Encoder
from motherbird.train.loop import train
from motherbird.train.objectives.contrastive import ContrastiveObjective, pair_batch

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


def loss(embedder, questions, answers, temperature=0.05, max_length=64):
    """The mean loss of pairs, and their number of tokens."""
    objective = ContrastiveObjective(embedder.encoder, temperature=temperature)
    batch = pair_batch(embedder.tokenizer, questions, answers, max_length)
    assert objective.weight(batch) == len(questions)
    return objective.loss(batch).item() / len(questions), len(batch.packed.ids)


@torch.no_grad()
@pytest.mark.parametrize("answers", [ANSWERS, ANSWERS[:1] * 5 + ANSWERS[5:]], ids=["six", "two"])
def test_the_loss_is_the_formula_written_out(answers, embedder):
    found, tokens = loss(embedder, QUESTIONS, answers, temperature=0.02)
    scores = embedder.embed(QUESTIONS) @ embedder.embed(answers).T / 0.02
    to_answers = -np.log(np.exp(scores) / np.exp(scores).sum(1, keepdims=True)).diagonal().mean()
    to_questions = -np.log(np.exp(scores) / np.exp(scores).sum(0)).diagonal().mean()
    if answers is not ANSWERS:
        assert abs(to_answers - to_questions) > 0.1 * to_answers  # so that both are needed
    assert found == pytest.approx((to_answers + to_questions) / 2, rel=1e-4)
    ids = embedder.tokenizer.encode_batch(QUESTIONS + answers)
    assert tokens == sum(map(len, ids))


@torch.no_grad()
def test_long_texts_are_truncated(embedder):
    found, tokens = loss(embedder, QUESTIONS, ANSWERS, max_length=5)
    assert tokens == 5 * 12
    longer = [answer + " And more that is not read." * 9 for answer in ANSWERS]
    assert loss(embedder, QUESTIONS, longer, max_length=5)[0] == found


@torch.no_grad()
def test_the_order_of_pairs_does_not_matter(embedder):
    found, _ = loss(embedder, QUESTIONS, ANSWERS)
    assert loss(embedder, QUESTIONS[::-1], ANSWERS[::-1])[0] == pytest.approx(found, rel=1e-4)


def test_questions_without_answers_are_refused(small_tokenizer):
    for questions, answers in ((QUESTIONS, ANSWERS[1:]), ([], [])):
        with pytest.raises(InputError, match="are not pairs"):
            pair_batch(small_tokenizer, questions, answers, 64)


def rank_of_the_right_answer(embedder) -> list[int]:
    scores = embedder.embed(QUESTIONS) @ embedder.embed(ANSWERS).T
    return [int((row > row[number]).sum()) for number, row in enumerate(scores)]


def test_training_finds_the_right_pairs(embedder):
    losses = []
    batch = pair_batch(embedder.tokenizer, QUESTIONS, ANSWERS, 64)
    train(
        ContrastiveObjective(embedder.encoder),
        repeat(([batch], Cursor(0))),
        lr=5e-3,
        steps=60,
        on_step=lambda report, done: losses.append(report.loss),
    )
    assert losses[0] > 1 and losses[-1] < 0.1
    assert rank_of_the_right_answer(embedder) == [0] * len(PAIRS)
    vectors = embedder.embed(QUESTIONS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
