"""Whole runs with faults (kills, refused writes, a lost disk) give the same result."""

import ctypes
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from motherbird import disk
from motherbird.errors import DamagedError, InputError, OutputExistsError
from motherbird.train import run_info, run_log, state
from motherbird.train.state import TENSORS

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="needs POSIX processes"),
    pytest.mark.usefixtures("unchecked"),
]

COUNTS = {  # by row of reliability.md: in the default suite, and in the slow one
    "R4 kills": (10, 1000),
    "R12 pairs": (5, 200),
    "R13": (1, 5),  # for each of six faults
}
# After these the output of row 13 is lost: between checkpoints, with three still to come.
STEPS = (4, 5, 8, 11, 14)


def both(name: str) -> Any:
    """Parametrize a test with both counts of a row."""
    few, many = COUNTS[name]
    return pytest.mark.parametrize(
        "count", [few, pytest.param(many, marks=pytest.mark.slow)], ids=str
    )


@dataclass(frozen=True)
class Result:
    """The result of a run: the digest of its last checkpoint, and its log without times."""

    sha256: str
    log: list[dict[str, Any]]


def result(run: Path) -> Result:
    found = state.newest(run)
    assert found is not None and found.progress.finished
    return Result(found.sha256, log_of(run))


def log_of(run: Path) -> list[dict[str, Any]]:
    lines = run_log.read(run)
    return [{k: v for k, v in line.items() if k not in run_log.TIMES} for line in lines]


def events(run: Path) -> list[str]:
    return [line["event"] for line in run_log.read(run, run_log.EVENTS)]


def tree(home: Path) -> set[str]:
    return {p.relative_to(home).as_posix() for p in home.rglob("*")}


@pytest.fixture(scope="session")
def whole(tiny, tiny_bfloat16, smoke_set, train, tmp_path_factory) -> dict[str, Result]:
    """Results of runs that were never stopped, by dtype."""
    found = {}
    for recipe in (tiny, tiny_bfloat16):
        out = tmp_path_factory.mktemp("whole") / "run"
        outcome = train(recipe, smoke_set, out)
        assert outcome.progress.finished and outcome.progress.step == recipe.steps() == 26
        found[recipe.train.dtype] = result(out)
    assert len({one.sha256 for one in found.values()}) == 2
    return found


def at_step(number: int, act: Any, saved: Path | None = None) -> dict[str, Any]:
    """Arguments of a run that calls `act` after a step, and after a checkpoint of `tiny`."""

    def on_step(report):
        if report.number == number:
            while saved and not state.folder(saved, last_save(number)).exists():
                time.sleep(0.001)  # written in the background
            act()

    return {"on_step": on_step}


# --- R4 (a): killed


@dataclass
class Killed:
    """Processes of one run, each killed at some point."""

    kills: int = 0
    in_a_save: int = 0


def chain(recipe, data, out, train, forked, chance, kills) -> Killed:
    """Start a run, kill and resume it several times, and let it finish."""
    done, tries = Killed(), 0
    while done.kills < kills and tries < 3 * kills:
        tries += 1
        inside = tries % 2 == 0
        point = chance.randrange(2, 600)

        def process(talk, inside=inside, point=point):
            seen = []

            def kill(when, name, path, detail):
                if "checkpoints" in path.parts and ".step-" in str(path):
                    seen.append(name)
                    if len(seen) == point:
                        os.kill(os.getpid(), signal.SIGKILL)

            if inside:
                disk.watch = kill
            talk.sendall(b"go")
            train(recipe, data, out)

        child = forked(process)
        if not inside:
            child.ours.recv(2)
            time.sleep(chance.uniform(0, 0.6))
            child.kill()
        if child.wait() == -signal.SIGKILL:
            done.kills += 1
            done.in_a_save += inside
        check_after_a_kill(out, recipe.save.every)
        if (
            (out / run_info.FILE).is_file()
            and (found := state.newest(out))
            and found.progress.finished
        ):
            break
    forked(lambda talk: train(recipe, data, out) and None).result()
    return done


def check_after_a_kill(out: Path, every: int) -> None:
    """No incomplete checkpoint is listed, and no reported checkpoint is lost."""
    for step in state.steps(out):
        state.read(state.folder(out, step))
    lines, found = run_log.read(out), state.newest(out)
    if lines:  # the run waited for the checkpoint before the last one
        last = lines[-1]["step"]
        assert found is not None or last < 2 * every
        assert found is None or found.progress.step >= last - 2 * every


@both("R4 kills")
def test_killed_and_gone_on_with_it_is_the_same(
    count, tiny, tiny_bfloat16, smoke_set, train, forked, tmp_path, whole, reached
):
    chance = random.Random(4)
    kills = in_a_save = chains = 0
    while kills < count:
        recipe = (tiny, tiny_bfloat16)[chains % 2]
        out = tmp_path / f"run-{chains}"
        done = chain(recipe, smoke_set, out, train, forked, chance, min(5, count - kills))
        assert result(out) == whole[recipe.train.dtype], f"chain {chains}, behind {kills} kills"
        assert not [name for name in tree(out) if Path(name).name.startswith(".")]
        shutil.rmtree(out)
        kills, in_a_save, chains = kills + done.kills, in_a_save + done.in_a_save, chains + 1
    assert in_a_save >= count // 5
    if count == COUNTS["R4 kills"][1]:
        reached("R4 kills", kills=kills, in_a_save=in_a_save, runs=chains, unequal=0)


def test_killed_right_behind_a_save_the_log_has_its_line(
    tiny, smoke_set, train, forked, tmp_path, whole
):
    """The steps of a checkpoint are in the log, however slow it is."""
    out, step = tmp_path / "run", 12

    def process(talk):
        def kill(when, name, path, detail):
            if when == "after" and name == "rename" and f"step-{step:08}" in str(path):
                os.kill(os.getpid(), signal.SIGKILL)

        real = run_log.RunLog.step

        def slow(self, line):
            if line["step"] == step:
                time.sleep(0.1)
            real(self, line)

        disk.watch = kill
        run_log.RunLog.step = slow
        train(tiny, smoke_set, out)

    assert forked(process).wait() == -signal.SIGKILL
    assert state.newest(out).progress.step == step
    train(tiny, smoke_set, out)
    assert result(out) == whole["float32"]


def test_a_log_that_was_torn_is_written_again(tiny, smoke_set, train, tmp_path, whole):
    out = tmp_path / "run"
    train(tiny, smoke_set, out, steps=8)
    path = out / run_log.LOG
    with path.open("ab") as file:
        file.write(b'{"step": 9, "phase": "a", "los')
    train(tiny, smoke_set, out)
    assert result(out) == whole["float32"]


# --- R12: two writers


def test_a_second_writer_is_refused(tiny, smoke_set, train, forked, tmp_path, whole):
    out = tmp_path / "run"

    def first(talk):
        def pause():
            talk.sendall(b"!")
            assert talk.recv(1) == b"?"

        train(tiny, smoke_set, out, **at_step(4, pause))

    child = forked(first)
    assert child.ours.recv(1) == b"!"
    while not (out / "checkpoints/step-00000003").exists():  # written by a thread
        time.sleep(0.01)
    before, began = tree(out), time.monotonic()
    who = rf"pid {child.pid} on {re.escape(os.uname().nodename)} since \d{{4}}-\d\d-\d\d \d\d:\d\d"
    with pytest.raises(InputError, match=who):
        train(tiny, smoke_set, out)
    assert time.monotonic() - began < 2
    assert tree(out) == before
    child.ours.sendall(b"?")
    child.result()
    assert result(out) == whole["float32"]  # the first one has not noticed


def test_behind_a_killed_writer_the_next_one_works(tiny, smoke_set, train, forked, tmp_path, whole):
    out = tmp_path / "run"

    def first(talk):
        def pause():
            talk.sendall(b"!")
            talk.recv(1)

        train(tiny, smoke_set, out, **at_step(7, pause))

    child = forked(first)
    child.ours.recv(1)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    train(tiny, smoke_set, out)
    assert result(out) == whole["float32"]


@both("R12 pairs")
@pytest.mark.usefixtures("whole")  # has imported everything that a run needs
def test_of_two_that_start_together_one_is_refused(
    count, tiny, smoke_set, train, forked, tmp_path, reached
):
    short = replace(tiny, save=replace(tiny.save, every=0))
    for number in range(count):
        out = tmp_path / f"run-{number}"

        def writer(talk, out=out):
            def pause():
                talk.sendall(b"!")
                assert talk.recv(1) == b"?"

            talk.sendall(b"+")
            talk.recv(1)  # the barrier
            try:
                train(short, smoke_set, out, steps=1, **at_step(1, pause))
            except InputError as error:
                talk.sendall(b"-")
                return str(error)
            return ""

        pair = [forked(writer) for _ in range(2)]
        for child in pair:
            assert child.ours.recv(1) == b"+"
        for child in pair:
            child.ours.sendall(b"?")
        said = [child.ours.recv(1) for child in pair]
        assert sorted(said) == [b"!", b"-"]
        winner, loser = pair if said[0] == b"!" else pair[::-1]
        refusal = loser.result(2)
        winner.ours.sendall(b"?")
        assert winner.result() == ""
        assert f"pid {winner.pid} on" in refusal and "since" in refusal
    if count == COUNTS["R12 pairs"][1]:
        reached("R12 pairs", pairs=count, both_ran=0, none_ran=0)


def test_a_lock_that_was_removed_is_missed_at_the_next_save(
    tiny, smoke_set, train, tmp_path, whole
):
    out = tmp_path / "run"
    with pytest.raises(InputError, match=r"lock was removed.*LOCK"):
        train(tiny, smoke_set, out, **at_step(4, (out / "LOCK").unlink))
    assert state.newest(out).progress.step == 3
    assert len(log_of(out)) == 6  # up to the save
    train(tiny, smoke_set, out)
    assert result(out) == whole["float32"]


def test_behind_a_removed_lock_the_second_writer_wins(
    tiny, smoke_set, train, forked, tmp_path, whole
):
    out = tmp_path / "run"

    def other():
        (out / "LOCK").unlink()
        forked(lambda talk: train(tiny, smoke_set, out) and None).result()

    with pytest.raises(InputError, match=r"lock was removed or replaced"):
        train(tiny, smoke_set, out, **at_step(4, other))
    assert state.newest(out).sha256 == whole["float32"].sha256


# --- R13: the output


@pytest.mark.parametrize("what", ["file", "full", "link", "dangling", "fifo"])
def test_an_output_that_is_not_ours(what, tiny, smoke_set, train, tmp_path):
    out = tmp_path / "run"
    (tmp_path / "mine").mkdir()
    if what == "file":
        out.write_text("mine")
    elif what == "full":
        out.mkdir()
        (out / "mine").write_text("mine")
    elif what == "link":
        out.symlink_to(tmp_path / "mine", target_is_directory=True)
    elif what == "dangling":
        out.symlink_to(tmp_path / "nothing")
    else:
        os.mkfifo(out)
    before = tree(tmp_path)
    with pytest.raises(OutputExistsError, match="run"):
        train(tiny, smoke_set, out)
    assert tree(tmp_path) == before


def test_an_empty_output_will_do(tiny, smoke_set, train, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    assert train(tiny, smoke_set, out, steps=1).progress.step == 1


def without_rights() -> None:
    """In a child: drop the privileges that let root write everywhere."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError("capset failed")


@pytest.mark.skipif(sys.platform != "linux", reason="needs capset")
def test_an_output_that_cannot_be_written(tiny, smoke_set, train, forked, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)

    def process(talk):
        without_rights()
        try:
            train(tiny, smoke_set, home / "run", **at_step(1, lambda: talk.sendall(b"step")))
        except (InputError, OSError) as error:
            return str(error), getattr(error, "exit_code", None)

    text, code = forked(process).result()
    home.chmod(0o755)
    assert str(home / "run") in text and code == 2
    assert tree(home) == set()


@both("R13")
@pytest.mark.skipif(sys.platform != "linux", reason="needs capset")
def test_an_output_that_may_not_be_written_any_more(
    count, tiny, smoke_set, train, forked, tmp_path, whole, reached
):
    for step in STEPS[:count]:
        out = tmp_path / f"run-{step}"
        checkpoints = out / "checkpoints"

        def process(talk, out=out, checkpoints=checkpoints, step=step):
            without_rights()
            try:
                train(tiny, smoke_set, out, **at_step(step, lambda: checkpoints.chmod(0o555), out))
            except OSError as error:
                return error.errno, str(error)

        number, text = forked(process).result()
        checkpoints.chmod(0o755)
        assert number == errno.EACCES and str(checkpoints) in text
        assert state.newest(out).progress.step == last_save(step)
        assert len(log_of(out)) < 26  # three saves failed
        train(tiny, smoke_set, out)
        assert result(out) == whole["float32"]
    reached_13("rights", count, reached)


def last_save(step: int) -> int:
    """Steps of `tiny` until a step between two checkpoints."""
    return step // 3 * 3


def reached_13(what: str, count: int, reached: Any) -> None:
    if count == COUNTS["R13"][1]:
        reached(f"R13 {what}", runs=count, written_elsewhere=0)


def mount_over(home: Path, inside: Path) -> None:
    """Mount a directory over another one."""
    inside.mkdir()
    if os.name == "nt" or os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs to be root, to mount a folder")
    if subprocess.run(["mount", "--bind", inside, home], capture_output=True).returncode:
        pytest.skip("may not mount a folder here")


@both("R13")
@pytest.mark.parametrize(
    "how", ["gone", "a file", "moved", pytest.param("unmounted", marks=pytest.mark.slow)]
)
def test_an_output_that_vanishes(
    how, count, tiny, smoke_set, train, tmp_path, monkeypatch, whole, reached
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for step in STEPS[:count]:
        home, elsewhere = tmp_path / f"home-{step}", tmp_path / f"elsewhere-{step}"
        home.mkdir()
        out = home / "run"
        if how == "unmounted":
            mount_over(home, elsewhere)

        def vanish(home=home, out=out, elsewhere=elsewhere):
            if how == "moved":
                elsewhere.mkdir()
                out.rename(elsewhere / "run")
            elif how == "unmounted":
                subprocess.run(["umount", "--lazy", home], check=True)
            else:
                shutil.rmtree(out)
                if how == "a file":
                    out.write_text("mine")

        with pytest.raises((InputError, OSError), match="run"):
            train(tiny, smoke_set, out, **at_step(step, vanish, out))
        assert tree(home) == ({"run"} if how == "a file" else set())
        assert tree(tmp_path / "here") == set()
        if elsewhere.exists():
            assert state.newest(elsewhere / "run").progress.step == last_save(step)
            if count > 1:
                train(tiny, smoke_set, elsewhere / "run")
                assert result(elsewhere / "run") == whole["float32"]
    reached_13(how, count, reached)


@both("R13")
def test_another_folder_to_work_in(
    count, tiny, smoke_set, train, tmp_path, monkeypatch, whole, reached
):
    """A relative path is resolved where the run began."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    for step in STEPS[:count]:
        monkeypatch.chdir(tmp_path / "here")
        run = Path(f"run-{step}")
        train(tiny, smoke_set, run, **at_step(step, lambda: os.chdir(tmp_path / "there")))
        assert result(tmp_path / "here" / run) == whole["float32"]
        assert tree(tmp_path / "there") == set()
    reached_13("another folder", count, reached)


def test_nothing_is_written_beside_the_output(tiny, smoke_set, train, forked, tmp_path):
    out = tmp_path / "run"

    def process(talk):
        opened: set[str] = set()
        active = [True]

        def hook(event, arguments):
            if active[0] and event == "open":
                path, _, flags = arguments
                if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not isinstance(path, int):
                    opened.add(os.path.abspath(os.fsdecode(path)))
            elif active[0] and event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
                if os.path.isabs(path := os.fsdecode(arguments[0])):
                    opened.add(path)

        sys.addaudithook(hook)
        train(tiny, smoke_set, out, steps=8)
        train(tiny, smoke_set, out)
        active[0] = False
        return sorted(opened)

    opened = forked(process).result()
    assert [p for p in opened if p.endswith(TENSORS)]
    assert [p for p in opened if not Path(p).is_relative_to(out)] == []


# --- checkpoints that cannot be written


def failing(*steps: int, name: str = "", code: int = errno.ENOSPC) -> Any:
    """A disk that fails while the checkpoints of some steps are written."""

    def watch(when, primitive, path, detail):
        about = str(path) + (str(detail) if primitive == "rename" else "")
        if when == "before" and (not name or primitive == name):
            if any(f".step-{step:08}." in about for step in steps):
                raise OSError(code, os.strerror(code))

    return watch


@pytest.mark.parametrize("name", ["write", "sync", "rename"])
def test_a_save_that_fails_changes_nothing(
    name, tiny, smoke_set, train, watch, tmp_path, whole, caplog
):
    out = tmp_path / "run"
    recipe = replace(tiny, save=replace(tiny.save, keep=20))
    watch(failing(6, 15, name=name))
    train(recipe, smoke_set, out)
    assert state.steps(out) == [26, 24, 21, 18, 12, 9, 3, 0]
    assert result(out) == whole["float32"]
    assert events(out).count("save failed") == 2
    assert "step-00000006" in caplog.text and "was not written" in caplog.text


def test_without_its_first_save_a_run_does_not_begin(
    tiny, smoke_set, train, watch, tmp_path, whole
):
    """Without its first checkpoint a run could not resume."""
    out = tmp_path / "run"
    watch(failing(0))
    with pytest.raises(OSError, match="step-00000000"):
        train(tiny, smoke_set, out)
    assert log_of(out) == []
    watch(None)
    train(tiny, smoke_set, out)
    assert result(out) == whole["float32"]


def test_the_third_save_that_fails_in_a_row_is_an_error(
    tiny, smoke_set, train, watch, tmp_path, whole
):
    out = tmp_path / "run"
    watch(failing(6, 9, 12, 15))
    with pytest.raises(OSError, match=r"No space left.*step-00000012") as info:
        train(tiny, smoke_set, out)
    assert info.value.errno == errno.ENOSPC
    assert state.steps(out) == [3, 0] and state.newest(out).progress.step == 3
    for step in (0, 3):
        state.read(state.folder(out, step))
    watch(None)
    train(tiny, smoke_set, out)
    assert result(out) == whole["float32"]


@pytest.mark.parametrize("name", ["reserve", "rename"])
def test_a_last_save_that_fails_is_an_error(name, tiny, smoke_set, train, watch, tmp_path, whole):
    out = tmp_path / "run"
    watch(failing(26, name=name))
    with pytest.raises(OSError, match=r"step-00000026"):
        train(tiny, smoke_set, out)
    assert "finish" not in events(out)
    assert state.newest(out).progress.step == 24
    watch(None)
    train(tiny, smoke_set, out)
    assert result(out) == whole["float32"]


def test_the_last_save_of_a_part_that_fails_is_an_error(tiny, smoke_set, train, watch, tmp_path):
    """Also if the last step has started to write it."""
    out = tmp_path / "run"
    for steps, step, left in ((3, 3, 0), (4, 4, 3)):
        watch(failing(step))
        with pytest.raises(OSError, match=rf"step-0000000{step}"):
            train(tiny, smoke_set, out, steps=steps)
        watch(None)
        assert state.newest(out).progress.step == left


def test_too_little_space_in_a_run(tiny, smoke_set, train, tmp_path, monkeypatch, whole):
    out = tmp_path / "run"
    usage = shutil.disk_usage(tmp_path)
    free = [usage.free]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free[0]))
    with pytest.raises(disk.NoRoomError, match=r"[kM]B are needed and 1kB are free.*run"):
        train(tiny, smoke_set, out, **at_step(4, lambda: free.__setitem__(0, 1000)))
    assert state.newest(out).progress.step == 3
    free[0] = usage.free
    train(tiny, smoke_set, out)
    assert result(out) == whole["float32"]


def test_retention_that_fails_does_not_stop_a_run(tiny, smoke_set, train, watch, tmp_path, whole):
    def fail(when, name, path, detail):
        if name == "rename" and str(detail).endswith(".del"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    out = tmp_path / "run"
    watch(fail)
    train(tiny, smoke_set, out)
    assert result(out) == whole["float32"]
    assert len(state.steps(out)) == 10


def test_retention_keeps_the_last_state_that_lasts(tiny, smoke_set, train, watch, tmp_path):
    """If the newest could not be synced, only the one before it exists."""
    out = tmp_path / "run"
    recipe = replace(tiny, save=replace(tiny.save, keep=1))

    named: list[str] = []  # and not synced
    lasting: set[str] = set()
    lost: list[str] = []

    def fail(when, name, path, detail):
        if name == "rename" and detail.name.endswith(".del"):
            if when == "before" and max(lasting) <= path.name:
                lost.append(path.name)
        elif name == "rename" and when == "after" and detail.name.startswith("step-"):
            named.append(detail.name)
        elif name == "sync" and path.name == "checkpoints" and named:
            if named == ["step-00000006"] and when == "before":
                named.clear()
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            if when == "after":
                lasting.update(named)
                named.clear()

    watch(fail)
    train(recipe, smoke_set, out, steps=9)
    assert lasting == {"step-00000000", "step-00000003", "step-00000009"}
    assert lost == []


def test_a_log_on_a_full_disk_does_not_stop_a_run(
    tiny, smoke_set, train, tmp_path, monkeypatch, whole, caplog
):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")

    class Full(run_log.RunLog):
        def __init__(self, run, step):
            super().__init__(run, step)
            self.close()
            self._files = {
                name: open("/dev/full", "a", encoding="utf-8", buffering=1) for name in self._files
            }

    monkeypatch.setattr("motherbird.train.process.RunLog", Full)
    out = tmp_path / "run"
    train(tiny, smoke_set, out)
    assert state.newest(out).sha256 == whole["float32"].sha256
    assert "cannot be written" in caplog.text


# --- all checkpoints damaged


@pytest.mark.parametrize("log", ["kept", "lost"])
def test_where_every_checkpoint_is_damaged_nothing_begins_again(
    log, tiny, smoke_set, train, tmp_path, whole
):
    out = tmp_path / "run"
    train(tiny, smoke_set, out, steps=10)
    steps = state.steps(out)
    kept = state.folder(out, steps[0]) / TENSORS
    data = kept.read_bytes()
    for step in steps:
        path = state.folder(out, step) / TENSORS
        path.write_bytes(path.read_bytes()[:-1])
    if log == "lost":
        for name in (run_log.LOG, run_log.EVENTS):
            (out / name).unlink()
    lines = log_of(out)
    with pytest.raises(DamagedError) as info:
        train(tiny, smoke_set, out)
    assert all(f"step-{step:08}: " in str(info.value) for step in steps)
    for _ in range(2):
        with pytest.raises(DamagedError, match="no checkpoint"):
            train(tiny, smoke_set, out)
    assert log_of(out) == lines and state.steps(out) == []
    aside = out / "quarantine" / f"{kept.parent.name}.damaged.0"
    aside.rename(kept.parent)
    kept.write_bytes(data)  # copied back from elsewhere
    train(tiny, smoke_set, out)
    assert state.newest(out).sha256 == whole["float32"].sha256
    if log == "kept":
        assert result(out) == whole["float32"]


def test_a_damaged_newest_checkpoint_costs_only_its_steps(
    tiny, smoke_set, train, tmp_path, whole, caplog
):
    out = tmp_path / "run"
    train(tiny, smoke_set, out, steps=10)
    path = state.folder(out, 10) / TENSORS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    train(tiny, smoke_set, out)
    assert "step-00000010 cannot be used" in caplog.text
    assert [p.name for p in (out / "quarantine").iterdir()] == ["step-00000010.damaged.0"]
    assert result(out) == whole["float32"]
