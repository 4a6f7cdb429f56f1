"""Power failures during a whole run, on a real file system.

A loop device holds ext4, and the shutdown request that file system tests use (xfstests' `godown`)
disconnects it from its disk: everything that was not fsynced is lost, and mounting it again replays
the journal. This needs root, a loop device and mkfs.ext4; elsewhere only the enumerated states of
test_state.py are tested.
"""

import os
import random
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from motherbird import disk
from motherbird.errors import DamagedError, InputError
from motherbird.train import run_info, run_log, state

fcntl = pytest.importorskip("fcntl", reason="needs Linux")
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("unchecked")]

LOSSES = 50  # power failures, as the row requires
SIZE = 256 << 20  # bytes of the file system
SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32): EXT4_IOC_SHUTDOWN
NO_FLUSH = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH: not even the journal is written


class Disk:
    """A file system whose power can fail."""

    def __init__(self, home: Path):
        self.image, self.mounted = home / "image", home / "mounted"
        self.mounted.mkdir()
        with self.image.open("wb") as file:
            file.truncate(SIZE)
        command("mkfs.ext4", "-q", self.image)
        self.on()

    def on(self) -> None:
        command("mount", "-o", "loop", self.image, self.mounted)

    def off(self) -> None:
        command("umount", self.mounted)

    def lose_power(self) -> None:
        handle = os.open(self.mounted, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(handle, SHUTDOWN, struct.pack("I", NO_FLUSH))
        finally:
            os.close(handle)


def command(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


def result(run: Path) -> tuple[str, list[dict[str, Any]]]:
    """The result of a finished run: the digest of its last checkpoint, and its log."""
    found = state.newest(run)
    assert found is not None and found.progress.finished
    return found.sha256, [
        {key: value for key, value in line.items() if key not in run_log.TIMES}
        for line in run_log.read(run)
    ]


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Disk]:
    if not shutil.which("mkfs.ext4") or os.geteuid() != 0:
        pytest.skip("needs root and mkfs.ext4")
    try:
        found = Disk(tmp_path)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop device: {error.stderr.decode().strip()}")
    yield found
    found.off()


def lose_power(
    ext4: Disk, run: Callable[[], object], forked: Callable, chance: random.Random, inside: bool
) -> tuple[int, bool]:
    """Start the run, and let the power fail at some time, or at some step of a checkpoint.

    Returns:
        The last checkpoint that was reported before, and whether the run was still running.
    """
    point = chance.randrange(2, 600)

    def process(talk):
        seen = newest = 0

        def look(when, name, path, detail):
            nonlocal seen, newest
            if name == "rename" and when == "after" and detail.name.startswith("step-"):
                newest = int(detail.name.removeprefix("step-"))
            if name == "sync" and when == "after" and path.name == "checkpoints":
                talk.sendall(bytes([newest]))  # the checkpoint has its name, also on the disk
            if "checkpoints" in path.parts:
                seen += 1
                if inside and seen == point:
                    ext4.lose_power()
                    os.kill(os.getpid(), signal.SIGKILL)

        disk.watch = look
        talk.sendall(b"\0")
        run()

    child = forked(process)
    said = child.ours.recv(1)
    if not inside:
        time.sleep(chance.uniform(0, 0.6))
        ext4.lose_power()
        child.kill()
    child.wait()
    while more := child.ours.recv(1 << 16):
        said += more
    saves, _, answer = said.partition(b"R")  # a child sends its result after it
    done = b"returned" in answer
    if inside and done:  # the point was never reached
        ext4.lose_power()
    ext4.off()
    ext4.on()
    return max(saves), not done


@dataclass
class Lost:
    """Number of power failures so far."""

    times: int = 0
    in_a_save: int = 0
    runs: int = 0


@pytest.fixture
def again_and_again(ext4, tiny, smoke_set, train, forked, tmp_path) -> Callable[[], Lost]:
    """Let the power fail up to six times during each run, and check the result each time."""

    def lose() -> Lost:
        train(tiny, smoke_set, tmp_path / "whole")
        whole = result(tmp_path / "whole")
        chance, out, lost = random.Random(4), ext4.mounted / "run", Lost()
        tries = saved = 0
        while lost.times < LOSSES:
            inside = tries % 2 == 0
            reported, at_work = lose_power(
                ext4, lambda: train(tiny, smoke_set, out), forked, chance, inside
            )
            tries, saved = tries + 1, max(saved, reported)
            lost.times, lost.in_a_save = lost.times + at_work, lost.in_a_save + (at_work and inside)
            for step in state.steps(out):
                state.read(state.folder(out, step))
            newest = state.newest(out) if (out / run_info.FILE).is_file() else None
            assert (newest.progress.step if newest else 0) >= saved, lost
            if tries % 6 == 0 or not at_work or lost.times == LOSSES:
                forked(lambda talk: train(tiny, smoke_set, out) and None).result()
                assert result(out) == whole, lost
                shutil.rmtree(out)
                lost.runs, saved = lost.runs + 1, 0
        return lost

    return lose


def test_power_is_lost_again_and_again(again_and_again, reached):
    lost = again_and_again()
    assert lost.in_a_save >= LOSSES // 5
    reached("R4 power", losses=lost.times, in_a_save=lost.in_a_save, runs=lost.runs, unequal=0)


def test_without_syncs_it_would_be_noticed(again_and_again, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    with pytest.raises((AssertionError, DamagedError, InputError)):
        again_and_again()
