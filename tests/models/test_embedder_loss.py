"""The contrast of pairs: what it computes, and that training by it finds the right pair."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from motherbird import Embedder
from motherbird.nn import Encoder
from motherbird.train.loop import train

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


@torch.no_grad()
@pytest.mark.parametrize("answers", [ANSWERS, ANSWERS[:1] * 5 + ANSWERS[5:]], ids=["six", "two"])
def test_the_loss_is_the_formula_written_out(answers, embedder):
    loss, tokens = embedder.loss(QUESTIONS, answers, temperature=0.02)
    scores = embedder.embed(QUESTIONS) @ embedder.embed(answers).T / 0.02
    to_answers = -np.log(np.exp(scores) / np.exp(scores).sum(1, keepdims=True)).diagonal().mean()
    to_questions = -np.log(np.exp(scores) / np.exp(scores).sum(0)).diagonal().mean()
    if answers is not ANSWERS:
        assert abs(to_answers - to_questions) > 0.1 * to_answers  # so that both are needed
    wanted = (to_answers + to_questions) / 2
    assert loss.item() == pytest.approx(wanted, rel=0.03)  # perhaps computed in bfloat16
    ids = embedder.tokenizer.encode_batch(QUESTIONS + answers)
    assert tokens == sum(map(len, ids))


@torch.no_grad()
def test_long_texts_are_cut(embedder):
    loss, tokens = embedder.loss(QUESTIONS, ANSWERS, max_length=5)
    assert tokens == 5 * 12
    longer = [answer + " And more that nobody reads." * 9 for answer in ANSWERS]
    assert embedder.loss(QUESTIONS, longer, max_length=5)[0] == loss


@torch.no_grad()
def test_the_order_of_pairs_does_not_matter(embedder):
    loss, _ = embedder.loss(QUESTIONS, ANSWERS)
    assert embedder.loss(QUESTIONS[::-1], ANSWERS[::-1])[0].item() == pytest.approx(
        loss.item(), rel=0.02
    )


def rank_of_the_right_answer(embedder) -> list[int]:
    scores = embedder.embed(QUESTIONS) @ embedder.embed(ANSWERS).T
    return [int((row > row[number]).sum()) for number, row in enumerate(scores)]


def test_training_finds_the_right_pairs(embedder):
    losses = []
    train(
        embedder.encoder,
        lambda number: embedder.loss(QUESTIONS, ANSWERS),
        lr=5e-3,
        steps=60,
        on_step=lambda step: losses.append(step.loss),
    )
    assert losses[0] > 1 and losses[-1] < 0.1
    assert rank_of_the_right_answer(embedder) == [0] * len(PAIRS)
    vectors = embedder.embed(QUESTIONS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
