"""The training loop: its schedule, its data, and that it learns, repeatably."""

import itertools
import math
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from motherbird import InputError, MaskedLM, pack, unpack
from motherbird.data.packing import best_fit
from motherbird.train.loop import (
    DECAY_FROM,
    WARM_UP,
    batches,
    cut,
    evaluate,
    learning_rate,
    masked_lm_loss,
    pretrain,
    train,
    unigram_entropy,
)

CLS, SEP = 937, 938


@pytest.fixture
def model(toy):
    """At this width the paper's initial scale of 0.02 would stay on a plateau for long."""
    torch.manual_seed(0)
    return MaskedLM(replace(toy, initializer_range=32**-0.5))


def rows(count=16, length=12, distinct=40) -> list[list[int]]:
    generator = np.random.default_rng(1)
    return [[CLS, *generator.integers(distinct, size=length).tolist(), SEP] for _ in range(count)]


@pytest.fixture
def within_two_seconds():
    """What would hang fails instead."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("needs a POSIX timer")

    def late(number, frame):
        raise TimeoutError("still running after two seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 2)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# --- the schedule


@pytest.mark.parametrize(
    ("share", "wanted"),
    [
        (0.0, 0.0),
        (0.015, 0.5),
        (0.03, 1.0),
        (0.3, 1.0),
        (0.5, 1.0),
        (0.625, 0.5),  # a quarter of the decay is over: 1 - sqrt(1/4)
        (0.75, 1 - math.sqrt(0.5)),
        (0.82, 0.2),  # 1 - sqrt(0.64)
        (1.0, 0.0),
        (1.5, 0.0),
    ],
)
def test_learning_rate(share, wanted):
    assert (WARM_UP, DECAY_FROM) == (0.03, 0.5)
    assert learning_rate(share, 1.0) == pytest.approx(wanted)
    assert learning_rate(share, 2e-3) == pytest.approx(2e-3 * wanted)


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_learning_rate_rises_rests_and_falls(first, second):
    first, second = sorted((first, second))
    a, b = learning_rate(first, 1.0), learning_rate(second, 1.0)
    assert 0 <= a <= 1
    assert a <= b or first >= DECAY_FROM or second > DECAY_FROM
    assert a >= b or first < WARM_UP


# --- train


class Line(nn.Module):
    """Fits y = w x + b; remembers the learning rate of every step."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.training_when_asked = []

    def loss_of(self, number):
        self.training_when_asked.append(self.training)
        x = torch.randn(32, 3, generator=torch.Generator().manual_seed(number))
        y = x @ torch.tensor([1.0, -2.0, 0.5]) + 3
        return (self.linear(x)[:, 0] - y).square().mean(), 32


def test_train_fits_a_line():
    line = Line()
    last = train(line, line.loss_of, lr=0.1, steps=300)
    assert last.loss < 1e-3
    torch.testing.assert_close(
        line.linear.weight[0], torch.tensor([1.0, -2.0, 0.5]), atol=0.05, rtol=0
    )
    assert line.linear.bias.item() == pytest.approx(3, abs=0.05)
    assert all(line.training_when_asked) and not line.training


def test_every_step_is_told():
    line, steps = Line(), []
    last = train(line, line.loss_of, lr=0.1, steps=5, on_step=steps.append)
    assert steps[-1] is last
    assert [step.number for step in steps] == [1, 2, 3, 4, 5]
    assert [step.share for step in steps] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(math.isfinite(step.loss) and step.tokens_per_second > 0 for step in steps)
    assert last.seconds_left == 0


def test_train_by_the_clock():
    line, steps = Line(), []
    start = time.monotonic()
    last = train(line, line.loss_of, lr=0.1, seconds=0.3, on_step=steps.append)
    assert time.monotonic() - start >= 0.3
    assert last.share == 1.0 and last.number == len(steps) > 1
    shares = [step.share for step in steps]
    assert shares == sorted(shares) and shares[0] < 1


def test_weights_decay_and_biases_do_not():
    line = Line()
    before = line.linear.weight.detach().clone(), line.linear.bias.detach().clone()
    train(line, lambda number: (0 * line.linear(torch.ones(3)).sum(), 1), lr=0.1, steps=20)
    assert (line.linear.weight.abs() < before[0].abs()).all()
    assert torch.equal(line.linear.bias, before[1])


@pytest.mark.parametrize(
    "length",
    [
        {},
        {"seconds": 1.0, "steps": 1},
        {"seconds": 0.0, "steps": 1},
        {"seconds": 0.0},
        {"seconds": -1.0},
        {"seconds": math.nan},
        {"steps": 0},
        {"steps": -5},
    ],
    ids=str,
)
def test_a_run_has_one_length(length):
    line = Line()
    with pytest.raises(InputError, match="either seconds or steps"):
        train(line, line.loss_of, lr=0.1, **length)
    assert line.training_when_asked == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_it_does_harm(value):
    line = Line()

    def loss_of(number):
        loss, size = line.loss_of(number)
        return loss * (value if number == 3 else 1), size

    with pytest.raises(FloatingPointError, match="at step 3"):
        train(line, loss_of, lr=0.1, steps=10)
    assert all(parameter.isfinite().all() for parameter in line.parameters())


# --- pieces and batches


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 900), max_size=50), max_size=6), st.integers(3, 20))
def test_cut_frames_pieces_and_loses_nothing(small_tokenizer, insides, length):
    pieces = cut([[CLS, *inside, SEP] for inside in insides], small_tokenizer, length)
    assert all(3 <= len(piece) <= length for piece in pieces)
    assert all((piece[0], piece[-1]) == (CLS, SEP) for piece in pieces)
    assert [i for piece in pieces for i in piece[1:-1]] == [i for d in insides for i in d]
    assert len(pieces) == sum(math.ceil(len(inside) / (length - 2)) for inside in insides)


def test_cut_leaves_what_fits_as_it_is(small_tokenizer):
    document = small_tokenizer.encode("What fits into a piece is the piece.")
    assert cut([document], small_tokenizer, len(document)) == [document]


@pytest.mark.parametrize("length", [2, 1, 0, -1])
def test_pieces_of_nothing_but_a_frame_are_refused(length, small_tokenizer):
    with pytest.raises(InputError):
        cut([[CLS, 1, 2, 3, SEP]], small_tokenizer, length)


def numbered(lengths) -> list[list[int]]:
    """Documents that can be told apart: the first token is the number."""
    return [[number, *[0] * (length - 1)] for number, length in enumerate(lengths)]


@settings(deadline=None)
@given(st.lists(st.integers(1, 16), min_size=1, max_size=30), st.integers(1, 5), st.integers(0, 99))
def test_every_epoch_uses_every_piece_once(lengths, per_batch, seed):
    documents = numbered(lengths)
    full_rows = best_fit(lengths, 16)
    per_epoch = math.ceil(len(full_rows) / per_batch)
    source = batches(documents, 16, per_batch, seed)
    for _ in range(3):
        got = []
        for packed in itertools.islice(source, per_epoch):
            assert len(packed.ids) <= 16 * per_batch
            got += [ids.tolist() for ids in unpack(packed.ids, packed)]
        assert sorted(got) == documents


def test_the_seed_decides_the_order():
    documents = numbered([3, 9, 16, 5, 8, 16, 12, 2, 7, 16, 1, 6])

    def order(seed, skip=0):
        source = batches(documents, 16, 1, seed)
        return [packed.ids.tolist() for packed in itertools.islice(source, skip, skip + 7)]

    assert len(best_fit([len(d) for d in documents], 16)) == 7
    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != order(0, skip=7)  # the second epoch


def test_batches_of_nothing_are_refused(within_two_seconds):
    with pytest.raises(InputError):
        next(batches([], 16, 1, 0))


def test_training_on_nothing_is_refused(model, small_tokenizer, within_two_seconds):
    with pytest.raises(InputError):
        pretrain(model, [[CLS, SEP]], small_tokenizer, steps=1)


# --- the loss, and what it is compared with


def test_unigram_entropy_of_a_worked_example():
    documents = [[CLS, 1, 1, 2, SEP], [CLS, 1, 3, SEP]]  # shares 3/5, 1/5, 1/5
    wanted = -(0.6 * math.log(0.6) + 0.4 * math.log(0.2))
    assert unigram_entropy(documents, [CLS, SEP, 999_999]) == pytest.approx(wanted)


@given(st.integers(1, 50))
def test_unigram_entropy_of_equal_shares(count):
    documents = [[CLS, *range(count), SEP]] * 3
    assert unigram_entropy(documents, [CLS, SEP]) == pytest.approx(math.log(count), abs=1e-12)


def without_context(model, logits):
    """Make a model answer the same for every token."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.decoder.bias.copy_(logits)
    return model


def test_a_model_that_knows_nothing_loses_the_logarithm_of_the_vocabulary(model, small_tokenizer):
    loss = evaluate(without_context(model, torch.zeros(1024)), rows(50), small_tokenizer)
    assert loss == pytest.approx(math.log(1024), rel=0.01)


def test_a_model_that_knows_frequencies_loses_their_entropy(model, small_tokenizer):
    """So that the two numbers that the demo compares can be compared."""
    generator = np.random.default_rng(0)
    inside = generator.geometric(0.2, size=(300, 40)).clip(max=60)
    documents = [[CLS, *document, SEP] for document in inside.tolist()]
    shares = torch.tensor(np.bincount(inside.ravel(), minlength=1024) / inside.size)
    known = without_context(model, shares.clamp(min=1e-6).log())
    loss = evaluate(known, documents, small_tokenizer)
    assert loss == pytest.approx(unigram_entropy(documents, [CLS, SEP]), abs=0.05)


def test_a_batch_in_which_nothing_is_masked_has_a_loss(model, small_tokenizer):
    packed = pack([[CLS, 5, SEP]])
    loss, count = masked_lm_loss(model, packed, small_tokenizer, 1e-9, (0, 0))
    assert count == 0 and loss == 0
    loss.backward()


def test_evaluation_is_deterministic(toy, small_tokenizer):
    torch.manual_seed(1)
    model = MaskedLM(replace(toy, mlp_dropout=0.5, embedding_dropout=0.5)).train()
    documents = rows(40)
    first = evaluate(model, documents, small_tokenizer)
    torch.manual_seed(2)
    assert evaluate(model.train(), documents, small_tokenizer) == first
    assert not model.training
    assert evaluate(model, rows(39), small_tokenizer) != first


# --- pretraining


@pytest.mark.usefixtures("unchecked")
def test_a_toy_model_learns_sixteen_rows_by_heart(model, small_tokenizer):
    documents = rows()
    entropy = unigram_entropy(documents, small_tokenizer.special_ids)
    before = evaluate(model, documents, small_tokenizer)
    last = pretrain(
        model, documents, small_tokenizer, lr=1e-2, batch_tokens=224, length=14, steps=300
    )
    assert last.number == 300
    after = evaluate(model, documents, small_tokenizer)
    assert before > entropy > 3
    assert after < entropy / 3


def weights_after_training(toy, tokenizer, seed):
    torch.manual_seed(seed)
    model = MaskedLM(toy)
    losses = []
    pretrain(
        model, rows(30), tokenizer, batch_tokens=128, length=32, seed=seed, steps=8,
        on_step=lambda step: losses.append(step.loss),
    )  # fmt: skip
    return model.state_dict(), losses


def test_the_same_seed_gives_the_same_weights(toy, small_tokenizer):
    torch.set_num_threads(1)
    first, losses = weights_after_training(toy, small_tokenizer, 3)
    again, same_losses = weights_after_training(toy, small_tokenizer, 3)
    assert losses == same_losses and len(set(losses)) == 8
    assert all(torch.equal(first[name], again[name]) for name in first)
    other, _ = weights_after_training(toy, small_tokenizer, 4)
    assert not all(torch.equal(first[name], other[name]) for name in first)
