"""The first signal is stored, the second one to the same process ends it."""

import signal

import pytest

from motherbird.train import signals


@pytest.fixture
def raised(monkeypatch):
    """Collects the signals that would have ended the process."""
    found = []
    monkeypatch.setattr(signal, "raise_signal", found.append)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    return found


@pytest.fixture
def clock(monkeypatch):
    now = [5.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    return now


def test_the_second_ends_it_and_an_echo_does_not(raised, clock):
    noted = signals.Signals()
    noted(15, None)
    clock[0] += signals.IGNORE_SECONDS / 2
    noted(15, None)
    assert noted.number == 15 and raised == []
    clock[0] += signals.IGNORE_SECONDS
    noted(2, None)
    assert raised == [2]


def test_the_first_of_this_process_is_no_second(raised, clock):
    """Another rank received one before, as with a scheduler that signals one machine at a time."""
    noted = signals.Signals()
    noted.number = 15
    clock[0] += 10 * signals.IGNORE_SECONDS
    noted(15, None)
    assert raised == []
