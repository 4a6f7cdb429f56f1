"""Best fit decreasing: nothing is lost, no row overflows, hardly any room is left."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird import InputError
from motherbird.data import packing
from motherbird.data.packing import DOCUMENT, PIECE, Selection, packed_rows, write_rows

SIZE = 64
lengths_lists = st.lists(st.integers(1, SIZE), max_size=60)


def best_fit(lengths, size):
    """The rows as lists."""
    order, starts = packing.best_fit(np.array(lengths, int), size)
    assert starts[0] == 0 and starts[-1] == len(order) == len(lengths)
    return [row.tolist() for row in np.split(order, starts[1:-1])] if len(starts) > 1 else []


def one_by_one(lengths, size):
    """The rows that datasets have had since the first version, piece by piece."""
    rows, rows_by_space, spaces = [], [[] for _ in range(size + 1)], 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        length = lengths[index]
        fitting = spaces >> length
        if fitting:
            left = length + (fitting & -fitting).bit_length() - 1
            row = rows_by_space[left].pop()
            if not rows_by_space[left]:
                spaces ^= 1 << left
        else:
            left, row = size, len(rows)
            rows.append([])
        rows[row].append(index)
        left -= length
        if left:
            rows_by_space[left].append(row)
            spaces |= 1 << left
    return rows


@given(st.integers(1, 64).flatmap(lambda size: st.tuples(
    st.lists(st.integers(1, size) | st.integers(1, min(4, size)), max_size=200), st.just(size)
)))  # fmt: skip
def test_the_rows_are_those_of_the_loop_over_pieces(drawn):
    """Many pieces of few lengths, so that one step fills many rows, or a part of them."""
    assert best_fit(*drawn) == one_by_one(*drawn)


@pytest.mark.parametrize("size", [128, 1024, 8192, 70_000])
def test_the_rows_of_a_hundred_thousand_documents_are_those_of_the_loop(size):
    drawn = np.random.default_rng(size).lognormal(5.5, 1.5, 100_000).astype(int) + 3
    lengths = np.minimum(drawn, size).tolist()
    assert best_fit(lengths, size) == one_by_one(lengths, size)


def some_documents(count, seed=0):
    random = np.random.default_rng(seed)
    documents = np.zeros(count, DOCUMENT)
    documents["tokens"] = random.lognormal(4, 1, count).astype(int) + 1
    documents["copies"] = random.integers(0, 3, count)
    documents["held_out"] = random.random(count) < 0.1
    documents["copies"][documents["held_out"]] = 0
    documents["source"] = random.integers(0, 3, count)
    return documents


@pytest.mark.parametrize("held_out", [False, True])
def test_groups_have_every_piece_of_the_whole(held_out, monkeypatch):
    """Small groups and blocks: the same pieces, each in one row, and rows nearly as full."""
    documents, selection = some_documents(3000), Selection(held_out, (0, 2), 20)
    [(starts, pieces)] = packed_rows(documents, 128, selection)
    monkeypatch.setattr(packing, "GROUP", 100)
    monkeypatch.setattr(packing, "BLOCK", 70)
    groups = list(packed_rows(documents, 128, selection))
    found = np.concatenate([each for _, each in groups])
    assert len(groups) == -(-len(pieces) // 100) > 1
    assert (np.sort(found) == np.sort(pieces)).all()
    assert max(len(each) for _, each in groups) < 100 + 50
    assert selection.count(documents, 128) == len(pieces)
    assert sum(len(s) - 1 for s, _ in groups) < 1.2 * len(starts)
    for own_starts, each in groups:
        room = np.add.reduceat(each["tokens"].astype(int) + 2, own_starts[:-1])
        assert (room <= 128).all()
    chosen = documents[np.unique(found["document"])]
    assert (chosen["held_out"] == held_out).all() and (chosen["tokens"] >= 20).all()
    assert set(chosen["source"].tolist()) == {0, 2}


def test_written_rows_are_the_arrays_numpy_saves(tmp_path, monkeypatch):
    documents, selection = some_documents(2000), Selection(False)
    monkeypatch.setattr(packing, "GROUP", 300)
    counts = write_rows(tmp_path, ("r", "p"), packed_rows(documents, 64, selection))
    groups = list(packed_rows(documents, 64, selection))
    pieces = np.concatenate([each for _, each in groups])
    sizes = np.concatenate([np.diff(starts) for starts, _ in groups])
    np.save(tmp_path / "rows.npy", np.cumsum([0, *sizes.tolist()]))
    np.save(tmp_path / "pieces.npy", pieces)
    assert (tmp_path / "r").read_bytes() == (tmp_path / "rows.npy").read_bytes()
    assert (tmp_path / "p").read_bytes() == (tmp_path / "pieces.npy").read_bytes()
    assert (counts.rows, counts.pieces) == (len(sizes), len(pieces))
    assert counts.tokens == int(pieces["tokens"].sum()) + 2 * len(pieces)
    write_rows(tmp_path, ("r", "p"), iter(()))
    assert np.load(tmp_path / "r").tolist() == [0] and np.load(tmp_path / "p").dtype == PIECE


MEMORY = """
import sys
import numpy as np
from pathlib import Path
from motherbird.data import packing
packing.GROUP = packing.BLOCK = 1 << 18
documents = np.lib.format.open_memmap(sys.argv[1] + "/d.npy", "w+", packing.DOCUMENT, (3 << 20,))
documents["tokens"], documents["copies"] = 300, 1
del documents
documents = np.load(sys.argv[1] + "/d.npy", mmap_mode="r")
def pack(count):
    rows = packing.packed_rows(documents[:count], 1024, packing.Selection(False))
    packing.write_rows(Path(sys.argv[1]), ("r", "p"), rows)
import tracemalloc
tracemalloc.start()
pack(1 << 19)
first = tracemalloc.get_traced_memory()[1]
tracemalloc.reset_peak()
pack(3 << 20)
print(first, tracemalloc.get_traced_memory()[1])
"""


def test_memory_does_not_grow_with_the_number_of_documents(tmp_path):
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    half_a_million, three_million = map(int, done.stdout.split())
    assert three_million < 1.1 * half_a_million


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
