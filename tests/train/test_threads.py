import os
import signal
import threading
import time

import pytest
import torch

from motherbird import InputError, presets
from motherbird.nn.roofline import rooflines
from motherbird.train.threads import Executor, executor_for

CPU = torch.device("cpu")


def test_batches_run_side_by_side_with_one_thread_each():
    together = threading.Barrier(2, timeout=20)  # two must be there at once, or it breaks

    def work(item):
        together.wait()
        return torch.get_num_threads()

    assert list(executor_for(CPU).in_order(work, [0, 1, 2, 3])) == [1] * 4
    assert torch.get_num_threads() == 2
    seen = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [2]


def test_an_error_comes_through_and_threads_come_back():
    begun = []

    def work(item):
        begun.append(item)
        time.sleep(0.001)  # so that the others are not all done before the first is looked at
        raise ValueError(item)

    with pytest.raises(ValueError):
        list(executor_for(CPU).in_order(work, list(range(1000))))
    assert len(begun) < 1000  # the rest was called off
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("count", [1, 2, 3])
def test_results_in_order_and_few_ahead(count):
    started, taken = [], []

    def work(item):
        started.append(item)
        time.sleep(0.002 * (item % 3))  # so that they are not completed in order
        return item * 10

    for result in Executor(count).in_order(work, range(20)):
        taken.append(result)
        assert len(started) <= len(taken) + count + 1
    assert taken == [item * 10 for item in range(20)]
    assert list(Executor(count).in_order(work, [])) == []


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_in_order_is_raised_in_its_place(count):
    results = Executor(count).in_order(lambda item: 6 // item, [1, 2, 0, *[3] * 1000])
    assert [next(results), next(results)] == [6, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_a_thread_that_first_uses_torch_beside_a_batch_has_all_threads():
    seen = []

    def work(item):
        if item == 0:
            beside = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            beside.start()
            beside.join()
        return item

    assert len(list(executor_for(CPU).in_order(work, [0, 1, 2, 3]))) == 4
    assert seen == [2]


def test_a_forked_child_makes_threads_of_its_own():
    assert len(list(executor_for(CPU).in_order(abs, [1, 2, 3]))) == 3
    child = os.fork()
    if child == 0:
        # Threads of the parent do not exist here: with its pool this would wait for ever.
        signal.alarm(20)
        os._exit(0 if len(list(executor_for(CPU).in_order(abs, [1, 2, 3]))) == 3 else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize("count", [0, -1, 1025, 2048, 10**9, "2", 2.0, True])
def test_numbers_of_threads(count):
    """With some thousand threads, OpenMP has no stacks for them, and the process crashes."""
    before = torch.get_num_threads()
    says = "number of threads .*use 1 to 1024"
    for function in (Executor, lambda n: rooflines(presets.nano(), n, 0.01)):
        with pytest.raises(InputError, match=says):
            function(count)
    assert torch.get_num_threads() == before


def test_a_number_of_threads_that_torch_was_given(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2048)
    with pytest.raises(InputError, match="invalid number of threads 2048: use 1 to 1024"):
        executor_for(CPU)
