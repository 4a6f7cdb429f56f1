"""Gradients of micro-batches: the same sum whatever threads there are, in any number of ranks."""

import pytest
import torch

from motherbird.train.distributed import World
from motherbird.train.gradients import in_fixed_order, of_leaf, of_step, side_by_side

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)


def problem(count):
    torch.manual_seed(0)
    w = torch.randn(64, 64, requires_grad=True)
    unused = torch.randn(3, requires_grad=True)
    inputs = [torch.randn(50, 64) for _ in range(count)]
    leaves = [
        lambda x=x: torch.nn.functional.layer_norm(x @ w, (64,)).pow(4).mean() for x in inputs
    ]
    return [w, unused], leaves


@pytest.mark.parametrize("tree", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_losses_in_order_and_the_sum_of_gradients(count, tree, threads):
    parameters, leaves = problem(count)
    torch.set_num_threads(threads)
    with side_by_side(CPU) as pool:
        losses, (of_w, of_unused) = of_step(parameters, leaves, pool, ALONE, tree=tree)
    assert losses == pytest.approx([leaf().item() for leaf in leaves], rel=1e-6)
    truth = sum(of_leaf(parameters, leaf)[1][0].double() for leaf in leaves)
    torch.testing.assert_close(of_w.double(), truth, rtol=1e-5, atol=1e-7)
    assert not of_unused.any() and torch.get_num_threads() == threads


@pytest.mark.parametrize("tree", [False, True])
def test_the_same_bits_each_time(tree):
    parameters, leaves = problem(9)
    torch.set_num_threads(3)
    found = set()
    for _ in range(5):
        with side_by_side(CPU) as pool:
            _, (of_w, _) = of_step(parameters, leaves, pool, ALONE, tree=tree)
        found.add(of_w.numpy().tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("world", [2, 4])
def test_branches_of_the_tree_are_the_ranks(world):
    """A rank's leaves give a branch, and neighbours' branches added up give the tree."""
    parameters, leaves = problem(12)
    torch.set_num_threads(1)
    with side_by_side(CPU) as pool:
        _, whole = of_step(parameters, leaves, pool, ALONE, tree=True)
        share = len(leaves) // world
        branches = [
            of_step(parameters, leaves[r * share : (r + 1) * share], pool, ALONE, tree=True)[1][0]
            for r in range(world)
        ]
        _, in_order = of_step(parameters, leaves, pool, ALONE)
    while len(branches) > 1:
        branches = [a + b for a, b in zip(branches[::2], branches[1::2], strict=True)]
    assert torch.equal(branches[0], whole[0])
    assert not torch.equal(whole[0], in_order[0])  # another order, other bits: it can fail


def test_an_error_in_a_leaf_comes_through():
    parameters, leaves = problem(4)

    def broken():
        raise ZeroDivisionError("in a leaf")

    with side_by_side(CPU) as pool, pytest.raises(ZeroDivisionError):
        of_step(parameters, [*leaves, broken, *leaves], pool, ALONE)
    assert torch.get_num_threads() == 2


def test_beside_a_gpu_one_thread_and_sums_in_a_fixed_order():
    """Both only look at the device's name; what a kernel does then is tested where there is one."""
    there = torch.device("cuda")
    torch.set_num_threads(3)
    torch.use_deterministic_algorithms(True, warn_only=True)
    filled = torch.utils.deterministic.fill_uninitialized_memory
    try:
        with pytest.raises(ZeroDivisionError), side_by_side(there) as pool, in_fixed_order(there):
            assert pool.pool is None and torch.get_num_threads() == pool.count == 1
            assert torch.get_deterministic_debug_mode() == 2
            assert not torch.utils.deterministic.fill_uninitialized_memory
            raise ZeroDivisionError
        assert torch.get_num_threads() == 3
        assert torch.get_deterministic_debug_mode() == 1
        assert torch.utils.deterministic.fill_uninitialized_memory == filled
    finally:
        torch.use_deterministic_algorithms(False)
