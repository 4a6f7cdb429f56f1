"""The loss in chunks of rows: equal to that of torch, forward and backward, for any chunk."""

import pytest
import torch
from torch.nn import functional

from motherbird.nn import cross_entropy as module
from motherbird.nn.cross_entropy import cross_entropy


def inputs(rows=37, width=16, vocab=200, dtype=torch.float32, scale=1.0):
    torch.manual_seed(0)
    x, w, b = (
        torch.randn(shape, dtype=dtype) * scale for shape in ((rows, width), (vocab, width), vocab)
    )
    return [t.requires_grad_() for t in (x, w, b)], torch.randint(vocab, (rows,))


def relative(ours, truth):
    return float((ours.double() - truth.double()).norm() / truth.double().norm())


@pytest.mark.parametrize("stretch", [1, 5, 10**6])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-6), (torch.bfloat16, 2e-2)]
)
def test_it_is_torchs_own(stretch, biased, dtype, tolerance, monkeypatch):
    monkeypatch.setattr(module, "LOGITS", stretch * 200)
    (x, w, b), targets = inputs(dtype=dtype)
    wanted = [x, w, b] if biased else [x, w]
    ours = cross_entropy(x, w, b if biased else None, targets)
    logits = x.double() @ w.double().T + (b.double() if biased else 0)
    truth = functional.cross_entropy(logits, targets, reduction="sum")
    assert relative(ours.detach(), truth.detach()) < tolerance
    for mine, theirs in zip(
        torch.autograd.grad(3 * ours, wanted), torch.autograd.grad(3 * truth, wanted), strict=True
    ):
        assert mine.dtype == dtype and relative(mine, theirs) < tolerance


def test_a_second_backward_is_refused_rather_than_wrong():
    (x, w, b), targets = inputs()
    loss = cross_entropy(x, w, b, targets)
    torch.autograd.grad(loss, x, retain_graph=True)
    with pytest.raises(RuntimeError, match="needs another forward"):
        torch.autograd.grad(loss, x)


def test_under_autocast_products_are_bfloat16_and_gradients_float32():
    (x, w, b), targets = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(x, w, b, targets)
    grads = torch.autograd.grad(loss, (x, w, b))
    assert loss.dtype == torch.float32 and {g.dtype for g in grads} == {torch.float32}
    truth = functional.cross_entropy(x @ w.T + b, targets, reduction="sum")
    assert 0 < relative(loss.detach(), truth.detach()) < 1e-2


def test_nothing_masked_gives_zero_and_zeros():
    (x, w, b), _ = inputs()
    loss = cross_entropy(x[:0], w, b, torch.empty(0, dtype=torch.int64))
    assert loss.item() == 0
    assert all(not g.any() for g in torch.autograd.grad(loss, (x, w, b)))


def test_a_token_that_is_certain_has_a_small_gradient_and_no_rounded_one():
    """p = 0.999 in bfloat16 is 1 or 0.996: p - 1 would be 0 or four times too large."""
    x = torch.tensor([[1.0]], dtype=torch.bfloat16, requires_grad=True)
    w = torch.tensor([[7.0], [0.0]], dtype=torch.bfloat16, requires_grad=True)
    loss = cross_entropy(x, w, None, torch.tensor([0]))
    grad = torch.autograd.grad(loss, w)[0].double().flatten()
    p = torch.tensor([7.0, 0.0], dtype=torch.float64).softmax(0)[1]
    assert grad[1].item() == pytest.approx(p.item(), rel=1e-2)
    assert grad[0].item() == -grad[1].item()


def test_hopeless_targets_cost_a_finite_loss():
    x = torch.tensor([[1.0]], requires_grad=True)
    w = torch.tensor([[300.0], [0.0]], requires_grad=True)
    loss = cross_entropy(x, w, None, torch.tensor([1]))
    assert 80 < loss.item() < 90 and torch.isfinite(torch.autograd.grad(loss, w)[0]).all()


def test_no_gradient_is_computed_where_none_is_wanted(monkeypatch):
    x, weight = torch.randn(8, 4, requires_grad=True), torch.randn(10, 4, requires_grad=True)
    targets = torch.arange(8)
    expected = cross_entropy(x, weight, None, targets)
    products = []
    monkeypatch.setattr(torch, "mm", lambda *a, **k: products.append(a))
    with torch.no_grad():
        assert torch.equal(cross_entropy(x, weight, None, targets), expected)
    assert not products


def test_a_double_backward_is_refused():
    x, weight = torch.randn(8, 4, requires_grad=True), torch.randn(10, 4, requires_grad=True)
    loss = cross_entropy(x, weight, None, torch.arange(8))
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(loss, x, create_graph=True)
