"""The training loop: its schedule, its data, and that it learns, repeatably."""

import itertools
import math
import signal
import time
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from motherbird import InputError
from motherbird.data.loader import Cursor
from motherbird.data.micro_batch import MicroBatch
from motherbird.data.packing import best_fit
from motherbird.nn import MaskedLM, pack, unpack
from motherbird.train.evaluation import evaluate, unigram_entropy
from motherbird.train.in_memory import evaluation_batches, split, training_batches
from motherbird.train.loop import train
from motherbird.train.objectives.masked_lm import MaskedLMObjective

CLS, SEP = 937, 938


@pytest.fixture
def model(toy):
    """At this width the paper's initial scale of 0.02 would hardly learn for long."""
    torch.manual_seed(0)
    return MaskedLM(replace(toy, initializer_range=32**-0.5))


def rows(count=16, length=12, distinct=40) -> list[list[int]]:
    generator = np.random.default_rng(1)
    return [[CLS, *generator.integers(distinct, size=length).tolist(), SEP] for _ in range(count)]


@pytest.fixture
def within_two_seconds():
    """Fail instead of hanging."""
    if not hasattr(signal, "setitimer"):
        pytest.skip("needs a POSIX timer")

    def late(number, frame):
        raise TimeoutError("still running after two seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 2)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


# --- train


@dataclass
class Points:
    """A batch of an objective without text; `packed` is used for its length only."""

    number: int
    packed: object = pack([[1] * 32])


class Line:
    """Fits y = w x + b."""

    def __init__(self, factors=None):
        self.model = nn.Sequential(nn.Linear(3, 1))
        self.training, self.factors = [], factors or {}

    def weight(self, batch):
        return 32

    def loss(self, batch):
        self.training.append(self.model.training)
        x = torch.randn(32, 3, generator=torch.Generator().manual_seed(batch.number))
        y = x @ torch.tensor([1.0, -2.0, 0.5]) + 3
        with torch.autocast("cpu", enabled=False):
            loss = (self.model(x)[:, 0] - y).square().sum()
        return loss * self.factors.get(batch.number, 1)


def points():
    for number in itertools.count():
        yield [Points(number)], Cursor(0, consumed=number)


def test_train_fits_a_line():
    line = Line()
    last = train(line, points(), lr=0.1, steps=300)
    assert last.loss < 1e-3
    weight, bias = line.model[0].weight[0], line.model[0].bias
    torch.testing.assert_close(weight, torch.tensor([1.0, -2.0, 0.5]), atol=0.05, rtol=0)
    assert bias.item() == pytest.approx(3, abs=0.05)
    assert all(line.training) and not line.model.training


def test_every_step_is_reported():
    found = []
    last = train(Line(), points(), lr=0.1, steps=5, on_step=lambda *given: found.append(given))
    reports, done = zip(*found, strict=True)
    assert reports[-1] is last
    assert [report.number for report in reports] == [1, 2, 3, 4, 5]
    assert done == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(math.isfinite(report.loss) and report.tokens == 32 for report in reports)
    assert last.progress.tokens == 5 * 32 and last.progress.updates == 5


def test_the_learning_rate_rises_stays_and_falls():
    rates = []
    train(
        Line(), points(), lr=1e-3, steps=100, on_step=lambda report, done: rates.append(report.lr)
    )
    assert rates[0] == pytest.approx(1e-3 * 1e-3 / 0.03)
    assert rates[1] == pytest.approx(1e-3 / 3) and rates[3:51] == [1e-3] * 48
    assert rates[75] == pytest.approx(1e-3 * (1 - math.sqrt(0.5)))
    assert all(a > b for a, b in itertools.pairwise(rates[50:])) and rates[99] < 2e-5


def test_train_by_the_clock():
    done, start = [], time.monotonic()
    last = train(
        Line(), points(), lr=0.1, seconds=0.3, on_step=lambda report, part: done.append(part)
    )
    assert time.monotonic() - start >= 0.3
    assert last.number == len(done) > 1
    assert done == sorted(done) and done[0] < 1


def test_the_shortest_time_is_one_step():
    assert train(Line(), points(), lr=0.1, seconds=1e-9).number == 1


def test_weights_decay_and_biases_do_not():
    line = Line(dict.fromkeys(range(20), 0))
    linear = line.model[0]
    before = linear.weight.detach().clone(), linear.bias.detach().clone()
    train(line, points(), lr=0.1, steps=20)
    assert (linear.weight.abs() < before[0].abs()).all()
    assert torch.equal(linear.bias, before[1])


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
        train(line, points(), lr=0.1, **length)
    assert line.training == []


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_it_does_harm(value):
    line = Line({3: value})
    with pytest.raises(FloatingPointError, match="at step 4"):
        train(line, points(), lr=0.1, steps=10)
    assert all(parameter.isfinite().all() for parameter in line.model.parameters())


# --- pieces and batches


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 900), max_size=50), max_size=6), st.integers(3, 20))
def test_split_adds_special_tokens_and_loses_nothing(small_tokenizer, insides, length):
    pieces = split([[CLS, *inside, SEP] for inside in insides], small_tokenizer, length)
    assert all(3 <= len(piece) <= length for piece in pieces)
    assert all((piece[0], piece[-1]) == (CLS, SEP) for piece in pieces)
    assert [i for piece in pieces for i in piece[1:-1]] == [i for d in insides for i in d]
    assert len(pieces) == sum(math.ceil(len(inside) / (length - 2)) for inside in insides)


def test_split_leaves_what_fits_as_it_is(small_tokenizer):
    document = small_tokenizer.encode("What fits into a piece is the piece.")
    assert split([document], small_tokenizer, len(document)) == [document]


@pytest.mark.parametrize("length", [2, 1, 0, -1])
def test_pieces_of_nothing_but_a_frame_are_refused(length, small_tokenizer):
    with pytest.raises(InputError):
        split([[CLS, 1, 2, 3, SEP]], small_tokenizer, length)


def numbered(lengths) -> list[list[int]]:
    """Documents that can be told apart: the first ordinary token is the number."""
    return [[CLS, number, *[0] * (length - 3), SEP] for number, length in enumerate(lengths)]


def original(batch: MicroBatch) -> list[list[int]]:
    """The documents of a micro-batch before masking."""
    ids = batch.packed.ids.clone()
    ids[batch.positions] = batch.targets
    return [document.tolist() for document in unpack(ids, batch.packed)]


@settings(deadline=None)
@given(
    st.lists(st.integers(3, 16), min_size=1, max_size=30), st.integers(1, 5), st.integers(0, 99),
    st.integers(1, 3),
)  # fmt: skip
def test_every_epoch_uses_every_piece_once(small_tokenizer, lengths, per_step, seed, most):
    documents = numbered(lengths)
    rows = len(best_fit(np.array(lengths), 16)[1]) - 1
    per_epoch = math.ceil(rows / per_step)
    source = training_batches(
        documents, small_tokenizer, length=16, rows=per_step, micro_batches=most, seed=seed
    )
    for epoch in range(1, 4):
        found = []
        for batches, cursor in itertools.islice(source, per_epoch):  # noqa: B007
            assert 1 <= len(batches) <= most
            assert sum(len(batch.packed.ids) for batch in batches) <= 16 * per_step
            found += [document for batch in batches for document in original(batch)]
        assert sorted(found) == documents and cursor.consumed == epoch * rows


def test_the_seed_decides_order_and_masks(small_tokenizer):
    documents = numbered([3, 9, 16, 5, 8, 16, 12, 3, 7, 16, 3, 6])

    def batches(seed, skip=0):
        source = training_batches(
            documents, small_tokenizer, length=16, rows=1, micro_batches=1, seed=seed
        )
        return [batch for [batch], _ in itertools.islice(source, skip, skip + 7)]

    def order(*given):
        return [original(batch) for batch in batches(*given)]

    def masks(*given):
        return [batch.positions.tolist() for batch in batches(*given)]

    assert len(best_fit(np.array([len(d) for d in documents]), 16)[1]) == 7 + 1
    assert order(0) == order(0) and masks(0) == masks(0)
    assert order(0) != order(1) and masks(0) != masks(1)
    assert order(0) != order(0, 7)  # the second epoch


@pytest.mark.parametrize("documents", [[], [[CLS, SEP]]])
def test_training_on_nothing_is_refused(documents, small_tokenizer, within_two_seconds):
    with pytest.raises(InputError, match="no text to train on"):
        next(
            training_batches(documents, small_tokenizer, length=16, rows=1, micro_batches=1, seed=0)
        )


# --- the loss, and the entropy that it is compared with


def test_unigram_entropy_of_a_worked_example():
    documents = [[CLS, 1, 1, 2, SEP], [CLS, 1, 3, SEP]]  # shares 3/5, 1/5, 1/5
    wanted = -(0.6 * math.log(0.6) + 0.4 * math.log(0.2))
    assert unigram_entropy(documents, [CLS, SEP, 999_999]) == pytest.approx(wanted)


@given(st.integers(1, 50))
def test_unigram_entropy_of_equal_shares(count):
    documents = [[CLS, *range(count), SEP]] * 3
    assert unigram_entropy(documents, [CLS, SEP]) == pytest.approx(math.log(count), abs=1e-12)


def without_context(model, logits):
    """Make a model predict the same for every token."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.decoder.bias.copy_(logits)
    return model


def loss_of(model, documents, tokenizer):
    return evaluate(model, evaluation_batches(documents, tokenizer, 256)).loss


def test_a_model_that_knows_nothing_loses_the_logarithm_of_the_vocabulary(model, small_tokenizer):
    loss = loss_of(without_context(model, torch.zeros(1024)), rows(50), small_tokenizer)
    assert loss == pytest.approx(math.log(1024), rel=0.01)


def test_a_model_that_knows_frequencies_loses_their_entropy(model, small_tokenizer):
    """The two numbers that the demo compares are comparable."""
    generator = np.random.default_rng(0)
    inside = generator.geometric(0.2, size=(300, 40)).clip(max=60)
    documents = [[CLS, *document, SEP] for document in inside.tolist()]
    shares = torch.tensor(np.bincount(inside.ravel(), minlength=1024) / inside.size)
    known = without_context(model, shares.clamp(min=1e-6).log())
    loss = loss_of(known, documents, small_tokenizer)
    assert loss == pytest.approx(unigram_entropy(documents, [CLS, SEP]), abs=0.05)


def test_a_batch_in_which_nothing_is_masked_has_a_loss(model):
    nothing = torch.empty(0, dtype=torch.int64)
    batch = MicroBatch(pack([[CLS, 5, SEP]]), nothing, nothing)
    objective = MaskedLMObjective(model)
    loss = objective.loss(batch)
    assert objective.weight(batch) == 0 and loss == 0
    loss.backward()


def test_evaluation_is_deterministic(toy, small_tokenizer):
    torch.manual_seed(1)
    model = MaskedLM(replace(toy, mlp_dropout=0.5, embedding_dropout=0.5)).train()
    documents = rows(40)
    first = loss_of(model, documents, small_tokenizer)
    torch.manual_seed(2)
    assert loss_of(model, documents, small_tokenizer) == first
    assert model.training
    assert loss_of(model, rows(39), small_tokenizer) != first


def test_evaluation_of_nothing_is_refused(model):
    with pytest.raises(InputError, match="too little text"):
        evaluate(model, [])


# --- masked-LM training


def train_on(model, documents, tokenizer, *, length, rows, seed=0, micro_batches=2, **more):
    batches = training_batches(
        documents, tokenizer, length=length, rows=rows, micro_batches=micro_batches, seed=seed
    )
    return train(MaskedLMObjective(model), batches, seed=seed, **more)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_a_toy_model_learns_sixteen_rows_by_heart(model, small_tokenizer):
    documents = rows()
    entropy = unigram_entropy(documents, small_tokenizer.special_ids)
    before = loss_of(model, documents, small_tokenizer)
    last = train_on(model, documents, small_tokenizer, lr=1e-2, rows=16, length=14, steps=300)
    assert last.number == 300
    after = loss_of(model, documents, small_tokenizer)
    assert before > entropy > 3
    assert after < entropy / 3


def weights_after_training(toy, tokenizer, seed):
    torch.manual_seed(seed)
    model = MaskedLM(toy)
    losses = []
    train_on(
        model, rows(30), tokenizer, rows=4, length=32, seed=seed, steps=8, lr=2e-3,
        on_step=lambda report, done: losses.append(report.loss),
    )  # fmt: skip
    return model.state_dict(), losses


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_seed_gives_the_same_weights(threads, toy, small_tokenizer):
    torch.set_num_threads(threads)
    first, losses = weights_after_training(toy, small_tokenizer, 3)
    again, same_losses = weights_after_training(toy, small_tokenizer, 3)
    assert losses == same_losses and len(set(losses)) == 8
    assert all(torch.equal(first[name], again[name]) for name in first)
    other, _ = weights_after_training(toy, small_tokenizer, 4)
    assert not all(torch.equal(first[name], other[name]) for name in first)
