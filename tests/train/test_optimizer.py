"""The optimizers equal their references, and their state is saved and restored by name."""

import pytest
import torch
from torch import nn

from motherbird.errors import DamagedError
from motherbird.train.muon import Muon, orthogonal
from motherbird.train.optimizer import Optimizer


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 6, bias=False) for _ in range(2)])
        self.norm = nn.LayerNorm(6)

    def state(self):
        return {n: p.detach().clone() for n, p in self.named_parameters()}


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.model = Toy()
        self.head = nn.Linear(6, 3)


def gradients(model, number):
    torch.manual_seed(100 + number)
    return [torch.randn_like(p) for p in model.parameters()]


@torch.no_grad()
def by_hand(model, steps, peak, decay, rates):
    """StableAdamW as specified (3.5), in float64."""
    weights = {n: p.detach().double().clone() for n, p in model.named_parameters()}
    m = {n: torch.zeros_like(w) for n, w in weights.items()}
    v = {n: torch.zeros_like(w) for n, w in weights.items()}
    for t in range(1, steps + 1):
        lr = rates[t - 1]
        for (name, w), g in zip(weights.items(), gradients(model, t), strict=True):
            g = g.double()
            one, two = (b * (1 - b ** (t - 1)) / (1 - b**t) for b in (0.9, 0.98))
            m[name] = torch.lerp(m[name], g, 1 - one)
            v[name] = two * v[name] + (1 - two) * g**2
            rms = (g**2 / v[name].clamp(min=1e-12)).mean().sqrt()
            effective = lr / max(1.0, rms.item())
            if w.ndim > 1:
                w *= 1 - effective / peak * decay
            w -= effective * m[name] / (v[name].sqrt() + 1e-6)
    return weights


def test_it_is_the_papers_stable_adamw():
    model = Outer()
    rates = [0.0, 1e-3, 5e-3, 1e-2, 1e-2, 4e-3]
    wanted = by_hand(model, 6, 1e-2, 0.1, rates)
    optimizer = Optimizer(model, "stableadamw")
    optimizer.begin_phase(1e-2, 0.1)
    for t, lr in enumerate(rates, 1):
        optimizer.step(lr, gradients(model, t))
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.detach().double(), wanted[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["stableadamw", "muon"])
def test_out_and_in_is_as_if_nothing_had_been(kind):
    whole, parts = Outer(), Outer()
    straight = Optimizer(whole, kind)
    straight.begin_phase(1e-2, 1e-3)
    broken = Optimizer(parts, kind)
    for t in range(1, 9):
        straight.step(1e-2 / t, gradients(whole, t))
        state = {n: x.clone() for n, x in broken.state().items()}
        fresh = Outer()
        fresh.load_state_dict(parts.state_dict())
        parts, steps = fresh, broken.steps
        broken = Optimizer(parts, kind)
        broken.restore(state, steps)
        broken.begin_phase(1e-2, 1e-3)
        broken.step(1e-2 / t, gradients(parts, t))
        for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
            assert torch.equal(a, b)
        assert all(torch.equal(x, broken.state()[n]) for n, x in straight.state().items())


def test_a_step_that_the_count_forgets_gives_other_weights():
    """The step count is in the groups; a state restored without it would be wrong."""
    right, wrong = Outer(), Outer()
    first, second = Optimizer(right, "stableadamw"), Optimizer(wrong, "stableadamw")
    for optimizer, steps in ((first, 5), (second, 3)):
        optimizer.begin_phase(1e-2, 0.0)
        moments = {
            f"{m}.{n}": torch.full_like(p, 0.1)
            for n, p in right.named_parameters() for m in ("exp_avg", "exp_avg_sq")
        }  # fmt: skip
        optimizer.restore(moments, steps)
        optimizer.step(1e-2, gradients(right, 1))
    assert not torch.equal(right.head.weight, wrong.head.weight)


def test_norms_and_biases_do_not_decay():
    model = Outer()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = Optimizer(model, "stableadamw")
    optimizer.begin_phase(1e-2, 0.5)
    optimizer.step(1e-2, [torch.zeros_like(p) for p in model.parameters()])
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name] * (0.5 if p.ndim > 1 else 1.0)), name


def test_muon_has_the_layers_matrices_alone():
    model = Outer()
    optimizer = Optimizer(model, "muon")
    optimizer.step(1e-2, gradients(model, 1))
    momenta = {n for n in optimizer.state() if n.startswith("momentum_buffer.")}
    assert momenta == {f"momentum_buffer.model.layers.{i}.weight" for i in range(2)}


def test_muon_is_that_of_torch_for_all_shapes_at_once():
    torch.manual_seed(3)
    shapes = [(48, 16), (16, 16), (16, 40), (48, 16), (16, 40), (48, 16)]
    ours = [torch.randn(shape) for shape in shapes]
    theirs = [x.clone() for x in ours]
    mine = Muon(ours, lr=1e-2, weight_decay=0.1)
    truth = torch.optim.Muon(theirs, lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for a, b, shape in zip(ours, theirs, shapes, strict=True):
            a.grad = torch.randn(shape)
            b.grad = a.grad.clone()
        mine.step()
        truth.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=0)  # updates are bfloat16 times 0.014
        wanted = truth.state[b]["momentum_buffer"]
        torch.testing.assert_close(mine.state[a]["momentum_buffer"], wanted)


def test_what_muon_makes_of_a_matrix_has_singular_values_near_1():
    torch.manual_seed(4)
    made = orthogonal(torch.randn(3, 24, 64) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None])
    values = torch.linalg.svdvals(made.float())
    assert 0.5 < values.min() and values.max() < 1.3


@pytest.mark.parametrize("damage", ["missing", "extra", "shape", "dtype"])
def test_a_state_of_another_model_is_refused(damage):
    optimizer = Optimizer(Outer(), "stableadamw")
    optimizer.step(1e-2, gradients(Outer(), 1))
    state = dict(optimizer.state())
    name = "exp_avg.head.weight"
    if damage == "missing":
        del state[name]
    elif damage == "extra":
        state["exp_avg.more"] = torch.zeros(1)
    else:
        state[name] = torch.zeros(2) if damage == "shape" else state[name].double()
    with pytest.raises(DamagedError):
        Optimizer(Outer(), "stableadamw").restore(state, 1)
