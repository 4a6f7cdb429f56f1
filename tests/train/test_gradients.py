"""Gradients of micro-batches have the same sum for any number of threads and ranks."""

import pytest
import torch

from motherbird.train.distributed import Distributed
from motherbird.train.gradients import in_fixed_order, micro_batch_gradients, step_gradients
from motherbird.train.threads import Executor, executor_for

CPU = torch.device("cpu")
ALONE = Distributed(0, 1, CPU)


def problem(count):
    torch.manual_seed(0)
    w = torch.randn(64, 64, requires_grad=True)
    unused = torch.randn(3, requires_grad=True)
    inputs = [torch.randn(50, 64) for _ in range(count)]
    losses = [
        lambda x=x: torch.nn.functional.layer_norm(x @ w, (64,)).pow(4).mean() for x in inputs
    ]
    return [w, unused], losses


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_losses_in_order_and_the_sum_of_gradients(count, tree, threads):
    parameters, losses = problem(count)
    torch.set_num_threads(threads)
    found, (of_w, of_unused) = step_gradients(
        parameters, losses, executor_for(CPU), ALONE, tree=tree
    )
    assert found == pytest.approx([loss().item() for loss in losses], rel=1e-6)
    truth = sum(micro_batch_gradients(parameters, loss)[1][0].double() for loss in losses)
    torch.testing.assert_close(of_w.double(), truth, rtol=1e-5, atol=1e-7)
    assert not of_unused.any() and torch.get_num_threads() == threads


@pytest.mark.parametrize("tree", [False, True])
def test_the_same_bits_each_time(tree):
    parameters, losses = problem(9)
    torch.set_num_threads(3)
    found = set()
    for _ in range(5):
        _, (of_w, _) = step_gradients(parameters, losses, executor_for(CPU), ALONE, tree=tree)
        found.add(of_w.numpy().tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("ranks", [2, 4])
def test_branches_of_the_tree_are_the_ranks(ranks):
    """A rank's micro-batches give a branch, and pairs of branches added up give the tree."""
    parameters, losses = problem(12)
    torch.set_num_threads(1)
    threads, share = Executor(1), len(losses) // ranks
    _, whole = step_gradients(parameters, losses, threads, ALONE, tree=True)
    branches = [
        step_gradients(parameters, losses[r * share : (r + 1) * share], threads, ALONE, tree=True)[
            1
        ][0]
        for r in range(ranks)
    ]
    _, in_order = step_gradients(parameters, losses, threads, ALONE)
    while len(branches) > 1:
        branches = [a + b for a, b in zip(branches[::2], branches[1::2], strict=True)]
    assert torch.equal(branches[0], whole[0])
    assert not torch.equal(whole[0], in_order[0])  # so the test can fail


def test_an_error_in_a_micro_batch_is_raised():
    parameters, losses = problem(4)

    def broken():
        raise ZeroDivisionError("in a micro-batch")

    with pytest.raises(ZeroDivisionError):
        step_gradients(parameters, [*losses, broken, *losses], Executor(2), ALONE)
    assert torch.get_num_threads() == 2


def test_beside_a_gpu_one_thread_and_sums_in_a_fixed_order():
    """Only the device's name is used here; kernels are tested on machines with a GPU."""
    there = torch.device("cuda")
    torch.set_num_threads(3)
    torch.use_deterministic_algorithms(True, warn_only=True)
    filled = torch.utils.deterministic.fill_uninitialized_memory
    try:
        with pytest.raises(ZeroDivisionError), in_fixed_order(there):
            assert executor_for(there).count == torch.get_num_threads() == 1
            assert torch.get_deterministic_debug_mode() == 2
            assert not torch.utils.deterministic.fill_uninitialized_memory
            raise ZeroDivisionError
        assert torch.get_num_threads() == 3
        assert torch.get_deterministic_debug_mode() == 1
        assert torch.utils.deterministic.fill_uninitialized_memory == filled
    finally:
        torch.use_deterministic_algorithms(False)
