"""The loader: one stream, whatever world_size size, workers, stops and batch sizes."""

import itertools
import os
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motherbird.data.loader import Cursor, Loader, RowFilter, masking_of
from motherbird.data.prepared import PreparedDataset, Rows
from motherbird.errors import InputError, WorkerError

WARM_UP = (4, 4, 8, 8, 12)  # rows of the first steps, and of the last for ever


def ramp(consumed: int) -> int:
    """Rows of the step that begins after so many: batch-size warm-up."""
    start = 0
    for size in WARM_UP:
        if consumed <= start:
            return size
        start += size
    return WARM_UP[-1]


def loader(prepared, cursor=None, **options):
    choice = options.pop("choice", RowFilter(128))
    masking = masking_of(prepared, options.pop("rate", 0.3))
    step_rows = options.pop("step_rows", ramp)
    return Loader(prepared, choice, cursor or Cursor(3), masking, step_rows, **options)


def stream(batches):
    """What is trained on: every row with its fed ids and targets, in order."""
    found = []
    for batch in batches:
        ends = batch.row_tokens.cumsum()
        for row, end, size in zip(batch.rows, ends, batch.row_tokens, strict=True):
            inside = (batch.positions >= end - size) & (batch.positions < end)
            found.append((
                int(row), batch.ids[end - size : end].tobytes(),
                (batch.positions[inside] - (end - size)).tobytes(), batch.targets[inside].tobytes(),
            ))  # fmt: skip
    return found


def steps(prepared, count, **options):
    """Global steps: the slices of all ranks side by side."""
    world_size = options.pop("world_size", 1)
    ranks = [
        iter(loader(prepared, rank=r, world_size=world_size, **options)) for r in range(world_size)
    ]
    for _ in range(count):
        yield [next(rank) for rank in ranks]


@pytest.fixture(scope="module")
def reference(prepared):
    return [stream(batches) for batches in steps(prepared, 60)]


def test_what_is_fed_and_what_is_asked(prepared):
    batch = next(iter(loader(prepared)))
    ids, lengths, row_tokens = prepared.rows(128).gather(batch.rows.tolist())
    assert (lengths == batch.lengths).all() and (row_tokens == batch.row_tokens).all()
    restored = batch.ids.copy()
    restored[batch.positions] = batch.targets
    assert (restored == ids).all()
    assert 0.2 < len(batch.positions) / len(ids) < 0.4
    assert batch.cursor.consumed == 4


@pytest.mark.parametrize("world_size", [2, 4])
def test_world_size_changes_nothing(prepared, reference, world_size):
    for expected, batches in zip(
        reference, steps(prepared, 60, world_size=world_size), strict=True
    ):
        assert stream(batches) == expected


@pytest.mark.parametrize(("world_size", "workers"), [(1, 1), (1, 2), (2, 2)])
def test_workers_change_nothing(prepared, reference, world_size, workers):
    found = steps(prepared, 20, world_size=world_size, workers=workers)
    for expected, batches in zip(reference[:20], found, strict=True):
        assert stream(batches) == expected


@settings(max_examples=30)
@given(
    stops=st.lists(st.integers(1, 9), min_size=1, max_size=5), world_size=st.sampled_from([1, 2, 4])
)
def test_stops_change_nothing(prepared, reference, stops, world_size):
    """A cursor after any step, also inside the warm-up, goes on as if nothing had been."""
    cursor, found = None, []
    for count in stops:
        ranks = [
            loader(prepared, cursor, rank=rank, world_size=world_size) for rank in range(world_size)
        ]
        for batches in itertools.islice(zip(*ranks, strict=False), count):
            found.append(stream(batches))
        cursor = ranks[0].cursor
        assert all(rank.cursor == cursor for rank in ranks)
    assert found == reference[: len(found)]


def test_an_epoch_has_every_row_once_and_the_next_another_order(prepared):
    count = len(prepared.rows(128))
    batches = itertools.islice(loader(prepared, step_rows=lambda _: 256), 2 * count // 256 + 2)
    rows = [row for row, *_ in stream(batches)]
    first, second = rows[:count], rows[count : 2 * count]
    assert sorted(first) == list(range(count)) and len(rows) > 2 * count
    assert sorted(second) == list(range(count)) and second != first


def test_an_epoch_boundary_in_a_step(prepared):
    """Rows of two epochs in one batch, each with the masks of its own."""
    cursor = Cursor(3, consumed=len(prepared.rows(128)) - 15)
    tens = itertools.islice(loader(prepared, cursor, step_rows=lambda _: 10), 3)
    ones = itertools.islice(loader(prepared, cursor, step_rows=lambda _: 1), 30)
    assert stream(tens) == stream(ones)


@pytest.mark.parametrize("change", [{"seed": 4}, {"phase": 1}])
def test_another_seed_or_phase_is_another_order(prepared, reference, change):
    cursor = Cursor(**{"seed": 3, "phase": 0, **change})
    assert stream(itertools.islice(loader(prepared, cursor), 1)) != reference[0]


def test_masks_of_a_row_differ_by_epoch(prepared):
    choice = RowFilter(1024, min_tokens=5000)
    count = loader(prepared, choice=choice).rows
    found = stream(
        itertools.islice(loader(prepared, choice=choice, step_rows=lambda _: 1), 2 * count)
    )
    for row in range(count):
        first, second = [masks for number, *masks in found if number == row]
        assert first != second


def test_what_is_held_out_is_its_own_stream(prepared):
    held_out = loader(prepared, choice=RowFilter(128, held_out=True))
    assert 0 < held_out.rows < len(prepared.rows(128))
    batch = next(iter(held_out))
    pieces = np.concatenate(
        [prepared.rows(128, held_out=True).pieces_of(row) for row in batch.rows.tolist()]
    )
    assert prepared.documents["held_out"][pieces["document"]].all()


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("number", ["SIGKILL", "SIGSTOP"])
def test_a_lost_worker_changes_nothing(prepared, reference, number, monkeypatch):
    from motherbird import workers

    started = []
    real = workers.Worker
    monkeypatch.setattr(workers, "Worker", lambda *a: started.append(real(*a)) or started[-1])
    found = []
    for batch in itertools.islice(loader(prepared, workers=2, limit=1.0), 20):
        if len(found) == 5:
            os.kill(started[0].pid, getattr(signal, number))
        found.append(stream([batch]))
    assert found == reference[:20] and len(started) == 3


def test_the_set_has_to_be_the_same(prepared):
    with pytest.raises(InputError, match="prepared dataset is not the run's"):
        loader(prepared, Cursor(3, fingerprint="other"))
    cursor = next(iter(loader(prepared))).cursor
    assert cursor.fingerprint == prepared.fingerprint
    loader(prepared, cursor)


def test_a_step_that_cannot_be_shared(prepared):
    with pytest.raises(InputError, match="4 rows cannot be divided among 3 ranks"):
        next(iter(loader(prepared, world_size=3)))
    with pytest.raises(InputError, match="use a multiple of 3, 1 or more"):
        next(iter(loader(prepared, world_size=3)))


WRONG = {
    "the dataset is of type NoneType, not str or Path: pass": lambda p: PreparedDataset(None),
    "invalid seed -1: use 0 to": lambda p: Cursor(seed=-1),
    "seed is of type str, not int": lambda p: Cursor(seed="1"),
    "invalid consumed -1": lambda p: Cursor(1, consumed=-1),
    "seq_len is of type str, not int: '128'": lambda p: RowFilter("128"),
    "held_out is of type int, not bool": lambda p: RowFilter(128, 1),
    "sources is a string: pass a tuple of names": lambda p: RowFilter(128, sources="corp"),
    "sources is a generator: pass a tuple": lambda p: p.rows(128, sources=(x for x in "ab")),
    "invalid min_tokens -1": lambda p: p.rows(128, min_tokens=-1),
    "seq_len is of type float, not int": lambda p: p.rows(128.0),
    "prepared is of type str, not PreparedDataset": lambda p: loader_of("dataset", p),
    "choice is of type int, not RowFilter": lambda p: loader(p, choice=128),
    "cursor is of type int, not Cursor": lambda p: loader(p, 17),
    "masking is of type float, not Masking: use masking_of": lambda p: loader_of(p, p, 0.3),
    "step_rows is of type int, not a function: pass lambda": lambda p: loader(p, step_rows=8),
    "invalid number of workers -1": lambda p: loader(p, workers=-1),
    "invalid rank 2: use 0 to 1": lambda p: loader(p, rank=2, world_size=2),
    "invalid world_size 0": lambda p: loader(p, world_size=0),
}


def loader_of(prepared, other, masking=None):
    return Loader(prepared, RowFilter(128), Cursor(3), masking or masking_of(other, 0.3), ramp)


@pytest.mark.usefixtures("no_type_checker")
@pytest.mark.parametrize("says", WRONG)
def test_wrong_arguments(says, prepared):
    with pytest.raises(InputError, match=says):
        WRONG[says](prepared)


# --- stretches that are left out, and micro-batches


def test_a_stretch_is_left_out_and_the_size_goes_by_what_was_trained_on(prepared):
    whole = list(itertools.islice(loader(prepared), 30))
    skipped = list(itertools.islice(loader(prepared, skips=[(16, 40)]), 30))
    assert stream(skipped[:3]) == stream(whole[:3])  # up to 16 rows
    assert [b.cursor.rows for b in skipped] == [b.cursor.rows for b in whole]
    assert skipped[3].cursor.skipped == 24
    rows = [row for batch in whole for row in batch.rows.tolist()]
    left = [row for batch in skipped for row in batch.rows.tolist()]
    assert left[:200] == (rows[:16] + rows[40:])[:200]


def test_a_stop_within_or_behind_a_stretch_changes_nothing(prepared):
    skips = [(8, 20), (20, 31)]
    whole = list(itertools.islice(loader(prepared, skips=skips), 12))
    for cut in range(12):
        cursor = whole[cut].cursor
        rest = list(itertools.islice(loader(prepared, cursor, skips=skips), 11 - cut))
        assert stream(rest) == stream(whole[cut + 1 :])


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 12))
def test_micro_batches_are_the_batch(prepared, rows):
    batch = next(iter(loader(prepared, step_rows=lambda consumed: 12)))
    parts = list(batch.micro_batches(rows))
    assert len(parts) == -(-12 // rows)
    assert np.concatenate([p.packed.ids.numpy() for p in parts]).tolist() == batch.ids.tolist()
    assert [n for p in parts for n in p.packed.lengths] == batch.lengths.tolist()
    assert np.concatenate([p.targets.numpy() for p in parts]).tolist() == batch.targets.tolist()
    start, places = 0, []
    for part in parts:
        places += (part.positions.numpy() + start).tolist()
        start += len(part.packed.ids)
        assert part.packed.positions.tolist() == [
            i for length in part.packed.lengths for i in range(length)
        ]
        assert part.packed.max_seqlen == max(part.packed.lengths)
    assert places == batch.positions.tolist()


def test_what_cannot_be_read_is_named(prepared, monkeypatch):
    def gather(self, numbers):
        raise OSError("bad disk")

    monkeypatch.setattr(Rows, "gather", gather)
    with pytest.raises(WorkerError, match=r"rows 4 to 7 of the order.*bad disk") as error:
        next(iter(loader(prepared, Cursor(3, 0, 4))))
    assert str(prepared.directory) in str(error.value)
