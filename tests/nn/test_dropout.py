"""Dropout: what falls out depends on the key alone."""

import threading
from dataclasses import replace

import pytest
import torch

from motherbird.nn import Encoder, pack
from motherbird.nn.dropout import dropout, keyed

CPU = torch.device("cpu")


def drawn(key, shape=(257, 31), rate=0.1):
    with keyed(CPU, key):
        return dropout(torch.ones(shape), rate, True)


def test_equal_keys_draw_alike_and_others_do_not():
    first = drawn((1, 2, 3))
    torch.rand(5)  # whatever else is drawn
    assert torch.equal(first, drawn((1, 2, 3)))
    for key in ((1, 2, 4), (3, 2, 1), (1, 2)):
        assert not torch.equal(first, drawn(key))


@pytest.mark.parametrize("rate", [0.05, 0.1, 0.5, 0.9])
def test_the_share_and_the_scale(rate):
    x = drawn((7,), (1000, 1000), rate)
    assert (x == 0).float().mean().item() == pytest.approx(rate, abs=2e-3)
    assert x.max().item() == pytest.approx(1 / (1 - rate)) and set(x.unique().tolist()) <= {
        0.0,
        x.max().item(),
    }


def test_two_draws_of_one_key_differ():
    with keyed(CPU, (1,)):
        a, b = (dropout(torch.ones(1000), 0.5, True) for _ in range(2))
    assert not torch.equal(a, b)


def test_every_thread_has_its_own():
    results = {}

    def work(number):
        with keyed(CPU, (number,)):
            barrier.wait()
            results[number] = dropout(torch.ones(5000), 0.3, True)

    barrier = threading.Barrier(2, timeout=20)
    threads = [threading.Thread(target=work, args=(n,)) for n in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in (0, 1):
        assert torch.equal(results[number], drawn((number,), (5000,), 0.3))


def test_nothing_is_drawn_from_torchs_own_stream():
    before = torch.get_rng_state()
    drawn((1,))
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_key_or_training_it_is_torchs():
    x = torch.ones(100)
    torch.manual_seed(3)
    ours = dropout(x, 0.5, True)
    torch.manual_seed(3)
    assert torch.equal(ours, torch.nn.functional.dropout(x, 0.5))
    with keyed(CPU, (1,)):
        assert dropout(x, 0.5, False) is x or torch.equal(dropout(x, 0.5, False), x)
        assert torch.equal(dropout(x, 0.0, True), x)


def test_the_gradient_falls_out_with_it():
    x = torch.ones(1000, requires_grad=True)
    with keyed(CPU, (1,)):
        y = dropout(x, 0.5, True)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], y.detach())


@pytest.mark.parametrize("lower", [False, True])
def test_gradient_checkpointing_draws_the_same_dropout(toy, lower):
    config = replace(toy, mlp_dropout=0.2, attention_dropout=0.1, embedding_dropout=0.1)
    model = Encoder(config).train()
    batch = pack([[1, 2, 3], list(range(4, 40))])
    found = []
    for model.gradient_checkpointing in (False, True):
        with (
            keyed(CPU, (1, 2)),
            torch.autocast("cpu", torch.bfloat16, enabled=lower, cache_enabled=False),
        ):
            loss = model(batch).float().square().sum()
        found.append([loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))])
    assert all(torch.equal(kept, again) for kept, again in zip(*found, strict=True))
