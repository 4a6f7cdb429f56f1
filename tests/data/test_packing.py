"""Best fit decreasing: nothing is lost, no row overflows, hardly any room is left."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird import InputError
from motherbird.data.packing import best_fit

SIZE = 64
lengths_lists = st.lists(st.integers(1, SIZE), max_size=60)


@given(lengths_lists)
def test_every_document_once_and_no_row_too_long(lengths):
    rows = best_fit(lengths, SIZE)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= SIZE for row in rows)


@given(lengths_lists)
def test_it_is_the_definition_written_plainly(lengths):
    """Of rows with equal room, the one that came to have it last."""
    rows, room, since = [], [], []
    for turn, index in enumerate(sorted(range(len(lengths)), key=lambda i: -lengths[i])):
        fitting = [row for row in range(len(rows)) if room[row] >= lengths[index]]
        if fitting:
            row = min(fitting, key=lambda row: (room[row], -since[row]))
        else:
            row = len(rows)
            rows.append([])
            room.append(SIZE)
            since.append(turn)
        rows[row].append(index)
        room[row] -= lengths[index]
        since[row] = turn
    assert best_fit(lengths, SIZE) == rows


@given(lengths_lists)
def test_no_row_was_opened_without_need(lengths):
    """What is free in a row is less than the first document of every later one.

    So at most one row is less than half full.
    """
    rows = best_fit(lengths, SIZE)
    free = [SIZE - sum(lengths[i] for i in row) for row in rows]
    for number, row in enumerate(rows):
        assert all(room < lengths[row[0]] for room in free[:number])


@pytest.mark.parametrize("size", [1024, 8192])
def test_efficiency_on_documents_of_usual_lengths(size):
    """Web text: a long tail, documents beyond a row are cut to it. The paper says over 99%."""
    drawn = np.random.default_rng(0).lognormal(6.0, 1.0, 20_000).astype(int) + 2
    lengths = np.minimum(drawn, size).tolist()
    rows = best_fit(lengths, size)
    assert sum(lengths) / (len(rows) * size) > 0.99


def test_exact_fits():
    assert best_fit([], 8) == []
    assert best_fit([8, 8], 8) == [[0], [1]]
    assert best_fit([3, 5, 4, 4], 8) == [[1, 0], [2, 3]]


def test_a_document_longer_than_a_row_is_refused():
    with pytest.raises(InputError, match="9 tokens is longer than a row of 8"):
        best_fit([1, 9, 2], 8)
