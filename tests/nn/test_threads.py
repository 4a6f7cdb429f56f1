import threading
import time

import pytest
import torch

from motherbird.nn.threads import batch_budget, map_batches


@pytest.mark.parametrize("items", [[], [5], [5, 7], list(range(20))], ids=len)
def test_every_item_once_with_its_number(items):
    assert sorted(map_batches(lambda x: x * 10, items)) == [
        (i, x * 10) for i, x in enumerate(items)
    ]


def test_batches_run_side_by_side_with_one_thread_each():
    together = threading.Barrier(2, timeout=20)  # two must be there at once, or it breaks

    def work(item):
        together.wait()
        return torch.get_num_threads()

    assert [threads for _, threads in map_batches(work, [0, 1, 2, 3])] == [1] * 4
    assert torch.get_num_threads() == 2
    seen = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [2]


def test_too_few_items_have_all_threads():
    assert list(map_batches(lambda _: torch.get_num_threads(), [0])) == [(0, 2)]


def test_an_error_comes_through_and_threads_come_back():
    begun = []

    def work(item):
        begun.append(item)
        time.sleep(0.001)  # so that the others are not all done before the first is looked at
        raise ValueError(item)

    with pytest.raises(ValueError):
        list(map_batches(work, list(range(1000))))
    assert len(begun) < 1000  # the rest was called off
    assert torch.get_num_threads() == 2


def test_budgets():
    cpu = torch.device("cpu")
    budgets = [batch_budget(total, cpu) for total in (1, 2_000, 1_000_000)]
    assert budgets == [256, 500, 2048]
    assert batch_budget(1_000_000, torch.device("cuda")) == 8192
