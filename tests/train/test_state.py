"""Checkpoints are complete or absent, damage is detected, and no fault loses the older one."""

import errno
import itertools
import json
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file

from motherbird import disk
from motherbird.data.loader import Cursor
from motherbird.errors import DamagedError, MotherbirdError, OutdatedError
from motherbird.files import MANIFEST
from motherbird.train import run_log, state
from motherbird.train.state import PROGRESS, TENSORS, Progress

pytestmark = pytest.mark.usefixtures("unchecked")

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX links and signals")

COUNTS = {  # by row of reliability.md: in the default suite, and in the slow one
    "R4 crash states": (320, 5000),
    "R7 damages": (300, 10_000),
    "R8 random forms": (40, 500),
    "R6 tmpfs": (5, 20),
}
FILES = (TENSORS, PROGRESS, MANIFEST)
MEMORY = Path("/dev/shm")  # a sync is fast there, and thousands are made here


@pytest.fixture
def tmp_path(tmp_path):
    with quick_folder() as home:
        yield home


@contextmanager
def quick_folder() -> Iterator[Path]:
    there = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="motherbird-", dir=there) as home:
        yield Path(home)


def both(name: str) -> Any:
    """Parametrize a test with both counts of a row."""
    few, many = COUNTS[name]
    return pytest.mark.parametrize(
        "count", [few, pytest.param(many, marks=pytest.mark.slow)], ids=str
    )


def progress(step: int) -> Progress:
    return Progress(Cursor(5, consumed=step), step=step, loss=1.5)


def some(seed: int, count: int = 3, size: int = 700) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {f"model.t{i}": torch.randn(size + i, generator=source) for i in range(count)}


def saved(run: Path, *steps: int, count: int = 3, size: int = 700) -> Path:
    """A run with checkpoints of small tensors."""
    run.mkdir(exist_ok=True)
    for step in steps:
        state.save(run, progress(step), some(step, count, size))
    return run


def tree(home: Path) -> dict[str, bytes | None]:
    return {
        p.relative_to(home).as_posix(): None if p.is_dir() else p.read_bytes()
        for p in home.rglob("*")
        if not p.is_symlink()
    }


def check(run: Path, *allowed: int) -> int:
    """Check all checkpoints and the removal of temporary files; return the newest step."""
    found = state.newest(run)
    step = -1 if found is None else found.progress.step
    for other in state.steps(run):
        if other != step:
            state.read(state.folder(run, other))
    assert step in allowed
    state.clean(run)
    assert not [p for p in run.rglob("*") if p.name.startswith(".")]
    return step


# --- what is written


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
# NUL and a quote, other scripts, emoji; half of a surrogate pair is not text.
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(
    lambda name: name != "__metadata__"
)


@st.composite
def mappings(draw):
    found = {}
    for name in draw(st.lists(names, min_size=1, max_size=5, unique=True)):
        dtype, shape = draw(st.sampled_from(DTYPES)), draw(shapes)
        tensor = torch.randn(shape, generator=torch.Generator().manual_seed(len(found))).to(dtype)
        found[name] = tensor.t() if draw(st.booleans()) and tensor.ndim == 2 else tensor
    return found


def checkpoint(tensors: dict[str, torch.Tensor], run: Path) -> state.Checkpoint:
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    state.save(run, progress(7), tensors)
    return state.read(state.folder(run, 7))


def digest_of(tensors: dict[str, torch.Tensor]) -> str:
    with quick_folder() as home:
        return checkpoint(tensors, home / "run").sha256


@given(mappings())
@settings(max_examples=40)
def test_what_is_saved_is_what_safetensors_reads(tensors):
    with quick_folder() as home:
        found = checkpoint(tensors, home / "run")
        assert found.progress == progress(7)
        for read in (load_file(found.directory / TENSORS), found.tensors()):
            assert read.keys() == tensors.keys()
            for name, tensor in tensors.items():
                assert read[name].dtype == tensor.dtype and read[name].shape == tensor.shape
                assert torch.equal(read[name], tensor)


@given(mappings(), st.randoms(use_true_random=False))
@settings(max_examples=12)
def test_the_digest_is_of_names_shapes_types_and_bytes(tensors, chance):
    items = list(tensors.items())
    chance.shuffle(items)
    digest = digest_of(tensors)
    assert digest_of({n: t.clone() for n, t in items}) == digest
    name, tensor = chance.choice(items)
    others = [t for t in DTYPES if t != tensor.dtype]
    changed = [
        {**tensors, name: tensor.to(chance.choice(others))},
        {**tensors, name: tensor.reshape(1, *tensor.shape)},
        {**{n: t for n, t in items if n != name}, name + "x": tensor},
        {n: t for n, t in items if n != name},
    ]
    if tensor.numel():
        other = tensor.clone(memory_format=torch.contiguous_format)
        other.view(-1).view(torch.uint8)[chance.randrange(other.nbytes)] ^= 1
        changed.append({**tensors, name: other})
    assert digest not in [digest_of(c) for c in changed]


def test_a_checkpoint_that_is_there_is_left_alone(tmp_path):
    run = saved(tmp_path / "run", 1)
    before = tree(run)
    state.save(run, progress(1), some(99))
    assert tree(run) == before


def test_writes_that_take_only_a_part(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, data[:1000]))
    run = saved(tmp_path / "run", 1)
    assert torch.equal(state.newest(run).tensors()["model.t2"], some(1)["model.t2"])


def test_what_is_not_finite_is_not_used(tmp_path):
    run = saved(tmp_path / "run", 1)
    state.save(run, progress(2), {"model.t0": torch.tensor([1.0, torch.nan])})
    assert state.newest(run).progress.step == 1


# --- R7: damage is detected before anything is used


def damage(data: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Flip one bit, write 512 zero bytes, or swap two pages of 4 KiB."""
    kinds = ["flip", "zeros"] + (["pages"] if len(data) >= 3 * 4096 else [])
    kind = chance.choice(kinds)
    new = bytearray(data)
    while new == data:
        if kind == "flip":
            new[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif kind == "zeros":
            at = chance.randrange(len(data))
            new[at : at + 512] = bytes(len(data[at : at + 512]))
        else:
            a, b = (4096 * i for i in chance.sample(range(len(data) // 4096), 2))
            new[a : a + 4096], new[b : b + 4096] = data[b : b + 4096], data[a : a + 4096]
    return kind, bytes(new)


@both("R7 damages")
def test_damage_is_found_named_and_put_aside(count, tmp_path, caplog, reached):
    run = saved(tmp_path / "run", 1, 2, size=1500)
    folder, aside = state.folder(run, 2), run / "quarantine" / "step-00000002.damaged.0"
    whole = {name: (folder / name).read_bytes() for name in FILES}
    chance = random.Random(7)
    tally: dict[str, int] = {}
    for number in range(count):
        name = FILES[number % 3]
        kind, data = damage(whole[name], chance)
        tally[kind] = tally.get(kind, 0) + 1
        (folder / name).write_bytes(data)
        caplog.clear()
        found = state.newest(run, quarantine=True)
        assert found.progress.step == 1, (number, kind, name)
        assert name in caplog.text, (number, kind, name)
        assert state.steps(run) == [1] and (aside / name).read_bytes() == data
        os.rename(aside, folder)
        (folder / name).write_bytes(whole[name])
    assert state.newest(run).progress.step == 2  # the undamaged one is used
    if count == COUNTS["R7 damages"][1]:
        reached("R7", damages=count, found=count, **tally)


def test_without_the_digests_most_flips_would_pass(tmp_path):
    """The test above can fail: safetensors itself does not check the data."""
    path = state.folder(saved(tmp_path / "run", 1, size=1500), 1) / TENSORS
    whole = path.read_bytes()
    begin = 8 + int.from_bytes(whole[:8], "little")
    chance, passed = random.Random(7), 0
    for _ in range(200):
        data = bytearray(whole)
        data[chance.randrange(begin, len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            load_file(path)
            passed += 1
        except SafetensorError:
            continue
    assert passed >= 190


def test_where_nothing_verifies_all_reasons_are_told(tmp_path):
    run = saved(tmp_path / "run", 1, 2, 3)
    (state.folder(run, 3) / TENSORS).unlink()
    (state.folder(run, 2) / PROGRESS).write_bytes(b"{}")
    (state.folder(run, 1) / MANIFEST).write_bytes(b"{")
    with pytest.raises(DamagedError) as info:
        state.newest(run, quarantine=True)
    for step, name in ((3, TENSORS), (2, PROGRESS), (1, MANIFEST)):
        assert re.search(rf"step-0000000{step}: [^;]*{re.escape(name)}", str(info.value))
    assert len(list((run / "quarantine").iterdir())) == 3


def test_a_file_that_cannot_be_read_is_like_a_damaged_one(tmp_path, monkeypatch):
    run = saved(tmp_path / "run", 1, 2)
    from motherbird import files

    real = files.sha256

    def sha256(path):
        if path.parent == state.folder(run, 2) and path.name == TENSORS:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return real(path)

    monkeypatch.setattr(files, "sha256", sha256)
    assert state.newest(run).progress.step == 1


def test_what_cannot_be_put_aside_is_passed_over(tmp_path, watch):
    run = saved(tmp_path / "run", 1, 2)
    (state.folder(run, 2) / TENSORS).unlink()

    def fail(when, name, path, detail):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    watch(fail)
    assert state.newest(run, quarantine=True).progress.step == 1


# --- R8: changed files

FORMS = ("empty", "half", "one byte less", "one byte more", "missing", "of another step", "linked",
         "linked to nothing", "an empty folder", "a full folder", "swapped")  # fmt: skip


def deform(form: str, run: Path, name: str, outside: Path) -> None:
    """Change a file of step 2; `outside` is a copy of it."""
    path = state.folder(run, 2) / name
    data = path.read_bytes()
    other = FILES[(FILES.index(name) + 1) % 3]
    if form == "swapped":
        path.write_bytes((path.parent / other).read_bytes())
        (path.parent / other).write_bytes(data)
        return
    path.unlink()
    if form == "empty":
        path.write_bytes(b"")
    elif form == "half":
        path.write_bytes(data[: len(data) // 2])
    elif form == "one byte less":
        path.write_bytes(data[:-1])
    elif form == "one byte more":
        path.write_bytes(data + b"\n")
    elif form == "of another step":
        path.write_bytes((state.folder(run, 1) / name).read_bytes())
    elif form == "linked":
        path.symlink_to(outside / name)
    elif form == "linked to nothing":
        path.symlink_to(outside / "nothing")
    elif form.endswith("folder"):
        path.mkdir()
        if form == "a full folder":
            (path / name).write_bytes(data)


def fall_back(run: Path) -> None:
    """Step 2 is not used, and is moved to quarantine unchanged."""
    assert state.newest(run).progress.step == 1
    assert state.newest(run, quarantine=True).progress.step == 1
    assert state.steps(run) == [1]
    assert [p.name for p in (run / "quarantine").iterdir()] == ["step-00000002.damaged.0"]


@posix
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_not_as_it_was_written(name, form, tmp_path):
    run = saved(tmp_path / "run", 1, 2)
    shutil.copytree(state.folder(run, 2), tmp_path / "outside")
    deform(form, run, name, tmp_path / "outside")
    fall_back(run)


def is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


@posix
@both("R8 random forms")
def test_files_that_are_not_as_they_were_written(count, tmp_path, reached):
    home = saved(tmp_path / "home", 1, 2)
    shutil.copytree(state.folder(home, 2), tmp_path / "outside")
    chance = random.Random(8)
    for _ in range(count):
        run = tmp_path / "run"
        shutil.copytree(home, run, symlinks=True)
        for name in chance.sample(FILES, chance.randint(1, 2)):
            path, form = state.folder(run, 2) / name, chance.choice(FORMS)
            files = [f for f in FILES if is_plain(path.parent / f)]
            if name in files and path.stat().st_size:
                if form == "half":
                    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])
                else:
                    deform(form if len(files) == 3 else "missing", run, name, tmp_path / "outside")
        if tree(run) != tree(home):
            fall_back(run)
        shutil.rmtree(run)
    if count == COUNTS["R8 random forms"][1]:
        reached("R8", random_forms=count, table=len(FORMS) * len(FILES) + len(FOLDERS))


def extra_file(folder: Path) -> None:
    (folder / "more").write_bytes(b"")


def hidden_file(folder: Path) -> None:
    (folder / ".more").write_bytes(b"x")


def extra_folder(folder: Path) -> None:
    (folder / "more").mkdir()


def extra_link(folder: Path) -> None:
    (folder / "more").symlink_to(folder / TENSORS)


def all_of_another_step(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.with_name("step-00000001"), folder)


def linked(folder: Path) -> None:
    os.rename(folder, folder.parents[2] / "elsewhere")
    folder.symlink_to(folder.parents[2] / "elsewhere", target_is_directory=True)


def linked_to_nothing(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder.parents[2] / "elsewhere")


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"x")


def of_another_kind(folder: Path) -> None:
    from motherbird.files import new_directory

    shutil.rmtree(folder)
    with new_directory(folder, "model") as fresh:
        (fresh / TENSORS).write_bytes(b"x")


def of_another_format(folder: Path) -> None:
    from motherbird.files import new_directory

    progress = json.loads((folder / PROGRESS).read_text())
    shutil.rmtree(folder)
    with new_directory(folder, state.KIND) as fresh:
        (fresh / PROGRESS).write_text(json.dumps({**progress, "format": 99}))
        (fresh / TENSORS).write_bytes((folder.with_name("step-00000001") / TENSORS).read_bytes())


def without_tensors(folder: Path) -> None:
    from motherbird.files import new_directory

    text = (folder / PROGRESS).read_text()
    shutil.rmtree(folder)
    with new_directory(folder, state.KIND) as fresh:
        (fresh / PROGRESS).write_text(text)


FOLDERS = [extra_file, hidden_file, extra_folder, extra_link, all_of_another_step, linked,
           linked_to_nothing, emptied, a_file, of_another_kind, without_tensors]  # fmt: skip


@posix
@pytest.mark.parametrize("change", FOLDERS, ids=lambda change: change.__name__)
def test_a_folder_that_is_not_as_it_was_written(change, tmp_path):
    run = saved(tmp_path / "run", 1, 2)
    change(state.folder(run, 2))
    fall_back(run)


def test_a_newer_format_is_left_for_the_version_that_wrote_it(tmp_path):
    run = saved(tmp_path / "run", 1, 2)
    of_another_format(state.folder(run, 2))
    with pytest.raises(OutdatedError, match="has format 99; this version reads format 2"):
        state.newest(run, quarantine=True)
    assert state.steps(run) == [2, 1] and not (run / "quarantine").exists()


@pytest.mark.parametrize("name", ["step-2", "step-000000002", "step-٠٠٠٠٠٠٠٢", "step-", "step-2x"])
def test_names_that_are_no_checkpoints(name, tmp_path):
    run = saved(tmp_path / "run", 1, 2)
    os.rename(state.folder(run, 2), run / "checkpoints" / name)
    assert state.newest(run, quarantine=True).progress.step == 1
    assert state.steps(run) == [1]
    saved(run, 3)
    state.retain(run, 1, 0, set())  # other names are ignored
    assert state.steps(run) == [3]


# --- R6: the N-th primitive of a save fails


CODES = ("ENOSPC", "EDQUOT", "EIO", "EFBIG")


class Primitives:
    """Counts the disk primitives; the N-th fails, or all from the N-th on."""

    def __init__(self, number: int = -1, code: int = errno.EIO, sticky: bool = False) -> None:
        self.number, self.code, self.sticky = number, code, sticky
        self.seen: list[tuple[str, Path]] = []
        self.failed: list[tuple[str, Path]] = []

    def __call__(self, when: str, name: str, path: Path, detail: Any) -> None:
        if when == "before":
            self.seen.append((name, path))
            at = len(self.seen) - 1
            if at == self.number or (self.sticky and 0 <= self.number < at):
                self.failed.append((name, path))
                raise OSError(self.code, os.strerror(self.code))


def primitives_of_a_save(home: Path, watch: Any) -> int:
    """Their number in the first save of a run, which also creates the directory."""
    count = Primitives()
    watch(count)
    saved(home, 2, count=1)
    watch(None)
    assert {name for name, _ in count.seen} >= {
        "room", "mkdir", "create", "reserve", "write", "sync", "close", "rename"
    }  # fmt: skip
    return len(count.seen)


@pytest.mark.parametrize("sticky", [False, True], ids=["once", "sticky"])
@pytest.mark.parametrize("code", CODES)
def test_whatever_primitive_fails_what_was_there_is_left(code, sticky, tmp_path, watch):
    number, kind = getattr(errno, code), CODES.index(code) + sticky
    for n in range(primitives_of_a_save(tmp_path / "count", watch)):
        before = (1,) if (n + kind) % 2 else ()  # the first save of a run also creates a directory
        run = saved(tmp_path / f"run-{n}", *before, count=1)
        fails = Primitives(n, number, sticky)
        watch(fails)
        try:
            saved(run, 2, count=1)
        except OSError as error:
            assert error.errno == number
            assert str(error.filename).startswith(str(run)) and str(run) in str(error)
        else:
            assert not fails.failed
        tried = [path for name, path in fails.seen if name == "sync"]
        assert len(tried) == len(set(tried))  # what could not be synced is not tried again
        watch(None)
        check(run, *(before or (-1,)), 2)
        if before:
            state.read(state.folder(run, 1))
        saved(run, 2, count=1)
        assert check(run, 2) == 2


@pytest.mark.slow
def test_whatever_primitive_of_a_run_fails_it_finishes_alike(
    tiny, smoke_set, train, tmp_path, watch, reached
):
    """The run continues or ends with an error, and resumes with the same result."""
    recipe = replace(tiny.with_steps(6), save=replace(tiny.save, every=2, keep=1))
    every = Primitives()
    watch(every)
    train(recipe, smoke_set, tmp_path / "whole")
    whole, run, ended = state.newest(tmp_path / "whole").sha256, tmp_path / "run", 0
    faults = list(itertools.product(CODES, (False, True), range(len(every.seen))))
    for fault in faults:
        code, sticky, n = fault
        fails = Primitives(n, getattr(errno, code), sticky)
        watch(fails)
        try:
            train(recipe, smoke_set, run)
        except OSError as error:
            assert error.errno == fails.code and str(run) in str(error), fault
            ended += 1
        watch(None)
        assert fails.failed, fault
        for step in state.steps(run):
            state.read(state.folder(run, step))
        train(recipe, smoke_set, run)
        assert state.newest(run).sha256 == whole, fault
        assert not list(run.rglob(".*")), fault
        shutil.rmtree(run)
    reached("R6", faults=len(faults), primitives=len(every.seen), ended=ended, unequal=0)


def test_a_save_that_failed_has_no_name(tmp_path, watch):
    """Also if its last sync failed, because the checkpoint may be lost later."""
    for n in range(primitives_of_a_save(tmp_path / "count", watch)):
        run = saved(tmp_path / f"run-{n}", 1)
        fails = Primitives(n)
        watch(fails)
        try:
            saved(run, 2, count=1)
        except OSError:
            assert state.steps(run) == [1], fails.failed
        watch(None)


def test_too_little_space_is_told_before_anything_is_written(tmp_path, monkeypatch):
    run = saved(tmp_path / "run", 1)
    before = tree(run)
    size = sum(t.nbytes for t in some(2).values())
    usage = shutil.disk_usage(run)._replace(free=size)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(disk.NoRoomError, match=r"[kM]B are needed and .*[kM]B are free.*run"):
        state.save(run, progress(2), some(2))
    assert tree(run) == before


@pytest.fixture
def small_disk(tmp_path):
    """A real file system of 4 MB."""
    home = tmp_path / "disk"
    home.mkdir()
    if os.name == "nt" or os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs to be root, to mount a tmpfs of 4 MB")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(home)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a tmpfs of 4 MB here")
    yield home
    subprocess.run(["umount", str(home)], check=True)


@both("R6 tmpfs")
def test_a_disk_that_is_really_full(count, small_disk, monkeypatch, reached):
    """With the check of free space, and if others fill the disk after it."""
    chance, full = random.Random(6), 0
    for number in range(count):
        run = saved(small_disk / "run", 1, size=50_000)  # 0.6 MB
        free = shutil.disk_usage(run).free
        filler = small_disk / "filler"
        filler.write_bytes(bytes(max(0, free - chance.randrange(500_000))))
        with monkeypatch.context() as patch:
            if number % 2:
                patch.setattr(disk, "check_room", lambda directory, size: None)
            with pytest.raises((OSError, disk.NoRoomError)) as info:
                state.save(run, progress(2), some(2, size=50_000 + 5_000 * (number % 3)))
        if isinstance(info.value, OSError):
            assert info.value.errno == errno.ENOSPC
            full += 1
        assert str(run) in str(info.value)
        assert check(run, 1) == 1
        filler.unlink()
        saved(run, 2, size=50_000)
        assert check(run, 2) == 2
        shutil.rmtree(run)
    assert full == count // 2
    if count == COUNTS["R6 tmpfs"][1]:
        reached("R6 tmpfs", saves=count, enospc=full)


@posix
def test_a_limit_on_the_size_of_files(tmp_path, forked):
    import resource

    run = saved(tmp_path / "run", 1)

    def save(talk):
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            saved(run, 2, size=50_000)
        except OSError as error:
            return error.errno, str(error.filename)

    code, where = forked(save).result()
    assert code == errno.EFBIG and where.startswith(str(run)) and where.endswith(TENSORS)
    assert check(run, 1) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_that_cannot_be_written_only_warns(tmp_path, caplog):
    log = run_log.RunLog(tmp_path, 0)
    log.close()
    log._files = {
        name: open("/dev/full", "a", encoding="utf-8", buffering=1)
        for name in (run_log.LOG, run_log.EVENTS)
    }
    for step in range(1000):  # more than any buffer
        log.step({"step": step, "text": "x" * 100})
        log.event("skip", step)
    log.close()
    warnings = [r for r in caplog.records if "cannot be written" in r.message]
    assert len(warnings) == 1 and warnings[0].levelno == logging.WARNING


# --- R4 (b): killed before and after every primitive


@posix
def test_a_kill_at_every_primitive_of_a_save(tmp_path, watch, forked):
    points = 2 * primitives_of_a_save(tmp_path / "count", watch)
    killed, newer = 0, 0
    for point in range(points):
        first = (point // 2) % 2 == 0  # save of a run, which also creates a directory
        run = saved(tmp_path / f"run-{point}", *(() if first else (1,)))

        def save(talk, run=run, point=point):
            seen = []

            def kill(when, name, path, detail):
                if len(seen) == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen.append(name)

            disk.watch = kill
            saved(run, 2, count=1)

        code = forked(save).wait()
        killed += code == -signal.SIGKILL
        newer += check(run, -1 if first else 1, 2) == 2
        saved(run, 2, count=1)
        assert check(run, 2) == 2
    assert killed >= points - 4 and 2 <= newer < 10  # two primitives fewer if the directory exists


# --- R4 (c): power loss, in every state that a file system may leave


@dataclass(eq=False)
class File:
    data: bytes = b""


@dataclass(eq=False)
class Folder:
    names: dict[str, "File | Folder"] = field(default_factory=dict)


@dataclass(eq=False)
class Effect:
    """A change that is durable after `node` was synced; before, it may be lost.

    Attributes:
        node: the file whose bytes, or the folder whose names are changed.
        kind: "write" bytes, "reserve" a size; "link" or "unlink" a name; "move" one to another.
        what: arguments of it.
    """

    node: File | Folder
    kind: str
    what: tuple[Any, ...]
    lasts: bool = False

    @property
    def variants(self) -> tuple[str, ...]:
        if self.lasts:
            return ("all",)
        return ("all", "half", "none") if self.kind == "write" else ("all", "none")


class Power:
    """A model of files, directories and syncs: what is on disk, and what is only in memory.

    Each name, size and write reaches the disk independently and in any order, unless the file or
    directory was synced; a rename is atomic.
    """

    def __init__(self, base: dict[str, bytes | None]) -> None:
        self.root = Folder()
        self.effects: list[Effect] = []
        for name in sorted(base):
            data = base[name]
            self._home(name).names[Path(name).name] = Folder() if data is None else File(data)
        self.base = _frozen(self.root)

    def _at(self, path: str) -> File | Folder:
        node: Any = self.root
        for part in Path(path).parts:
            node = node.names[part]
        return node

    def _home(self, path: str) -> Folder:
        home = self._at(Path(path).parent.as_posix())
        assert isinstance(home, Folder)
        return home

    def do(self, name: str, path: str, detail: Any) -> None:
        """Apply one primitive."""
        last = Path(path).name
        if name in ("mkdir", "create"):
            node: File | Folder = Folder() if name == "mkdir" else File()
            self._effect(self._home(path), "link", last, node)
        elif name == "reserve":
            self._effect(self._at(path), "reserve", detail)
        elif name == "write":
            file = self._at(path)
            at = sum(len(e.what[1]) for e in self.effects if e.node is file and e.kind == "write")
            self._effect(file, "write", at, detail)
        elif name == "rename":
            assert Path(path).parent == Path(detail).parent
            self._effect(self._home(path), "move", last, Path(detail).name, self._at(path))
        elif name in ("unlink", "rmdir"):
            self._effect(self._home(path), "unlink", last)
        elif name == "sync":
            node = self._at(path)
            for effect in self.effects:
                effect.lasts |= effect.node is node
        else:
            assert name in ("room", "close"), name

    def _effect(self, node: File | Folder, kind: str, *what: Any) -> None:
        effect = Effect(node, kind, what)
        _apply(effect, node, "all")
        self.effects.append(effect)

    def losses(self) -> Iterator[dict[str, bytes | None]]:
        """Yield every tree that may exist after a power failure now."""
        for chosen in itertools.product(*(effect.variants for effect in self.effects)):
            nodes: dict[int, File | Folder] = {}
            root = _thawed(self.base, nodes)
            for effect, how in zip(self.effects, chosen, strict=True):
                if how == "none":
                    continue
                node = nodes.setdefault(id(effect.node), type(effect.node)())
                if effect.kind in ("link", "move"):
                    new = effect.what[-1]
                    fresh = nodes.setdefault(id(new), type(new)())
                    effect = replace(effect, what=(*effect.what[:-1], fresh))
                _apply(effect, node, how)
            yield dict(_flat(root, ""))


def _apply(effect: Effect, node: Any, how: str) -> None:
    kind, what = effect.kind, effect.what
    if kind == "link":
        node.names[what[0]] = what[1]
    elif kind == "move":
        node.names.pop(what[0], None)
        node.names[what[1]] = what[2]
    elif kind == "unlink":
        node.names.pop(what[0], None)
    elif kind == "reserve":
        node.data = node.data.ljust(what[0], b"\0")
    else:
        at, data = what
        data = data[: len(data) // 2] if how == "half" else data
        node.data = node.data[:at].ljust(at, b"\0") + data + node.data[at + len(data) :]


def _frozen(node: File | Folder) -> Any:
    """Return a copy with a mapping to the original nodes."""
    if isinstance(node, File):
        return id(node), node.data
    return id(node), {name: _frozen(inner) for name, inner in node.names.items()}


def _thawed(frozen: Any, nodes: dict[int, File | Folder]) -> Any:
    number, inside = frozen
    node: File | Folder
    if isinstance(inside, bytes):
        node = File(inside)
    else:
        node = Folder({name: _thawed(inner, nodes) for name, inner in inside.items()})
    nodes[number] = node
    return node


def _flat(folder: Folder, at: str) -> Iterator[tuple[str, bytes | None]]:
    for name, node in folder.names.items():
        if isinstance(node, File):
            yield at + name, node.data
        else:
            yield at + name, None
            yield from _flat(node, f"{at}{name}/")


Operation = tuple[str, str, Any]


class Trace:
    """Records the operations below a directory."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.operations: list[Operation] = []
        self.doomed: list[Operation] = []

    def __call__(self, when: str, name: str, path: Path, detail: Any) -> None:
        at = path.relative_to(self.run).as_posix()
        if name == "remove":
            if when == "before":
                inside = sorted(path.rglob("*"), reverse=True) + ([path] if path.exists() else [])
                self.doomed = [
                    ("rmdir" if p.is_dir() else "unlink", p.relative_to(self.run).as_posix(), None)
                    for p in inside
                ]
            else:
                self.operations += self.doomed
        elif when == "after":
            if name == "write":
                detail = bytes(detail)
            elif name == "rename":
                detail = detail.relative_to(self.run).as_posix()
            self.operations.append((name, at, detail))


@dataclass
class Story:
    """The operations on a run, and the reported checkpoint after each number of operations."""

    base: dict[str, bytes | None]
    operations: list[Operation]
    reported: list[tuple[int, int]]
    older: int

    def allowed(self, done: int) -> tuple[int, ...]:
        """Return the steps that may be the newest after some operations."""
        steps = [self.older, *(step for at, step in self.reported if at <= done)]
        later = [step for at, step in self.reported if at > done]
        return (max(steps), *later)


def first_save(run: Path, trace: Trace, watch: Any, count: int) -> list[tuple[int, int]]:
    state.save(run, progress(2), some(2, count, 50))
    return [(len(trace.operations), 2)]


def a_save_and_retention(run: Path, trace: Trace, watch: Any, count: int) -> list[tuple[int, int]]:
    reported = first_save(run, trace, watch, count)
    state.retain(run, 1, 0, set())
    return reported


def a_save_that_failed_at(point: int) -> Any:
    def story(run: Path, trace: Trace, watch: Any, count: int) -> list[tuple[int, int]]:
        fails = Primitives(point)

        def both_of_them(*arguments):
            fails(*arguments)
            trace(*arguments)

        watch(both_of_them)
        try:
            state.save(run, progress(2), some(2, count, 50))
        except OSError:
            watch(trace)
            return first_save(run, trace, watch, count)
        return [(len(trace.operations), 2)]

    return story


def told(story: Any, home: Path, watch: Any, older: int = 1, count: int = 2) -> Story:
    home.mkdir()
    if older > 0:
        saved(home, older, count=count, size=50)
    base = tree(home)
    trace = Trace(home)
    watch(trace)
    reported = story(home, trace, watch, count)
    watch(None)
    return Story(base, trace.operations, reported, older)


def put(lost: dict[str, bytes | None], run: Path) -> Path:
    """Create a tree as a power failure left it."""
    run.mkdir(parents=True)
    for name, data in sorted(lost.items()):
        if data is None:
            (run / name).mkdir()
        else:
            (run / name).write_bytes(data)
    return run


def losses(story: Story) -> Iterator[tuple[int, dict[str, bytes | None]]]:
    """Yield every state that a power failure may leave, latest first, with its operations."""
    seen = set()
    for done in range(len(story.operations), -1, -1):
        power = Power(story.base)
        for operation in story.operations[:done]:
            power.do(*operation)
        for lost in power.losses():
            one = (story.allowed(done), frozenset(lost.items()))
            if one not in seen:
                seen.add(one)
                yield done, lost


def wrongs(
    story: Story, states: Iterable[tuple[int, dict[str, bytes | None]]], folder: Path
) -> Iterator[str]:
    """Return the problems in some states."""
    for done, lost in states:
        run = put(lost, folder)
        try:
            check(run, *story.allowed(done))
        except (AssertionError, MotherbirdError) as error:
            last = story.operations[done - 1][:2] if done else ""
            yield f"after {done} {last}: {type(error).__name__} {str(error)[:200]}"
        shutil.rmtree(run)


STORIES = {
    "the first save": (first_save, -1),
    "a later save": (first_save, 1),
    "a save and retention": (a_save_and_retention, 1),
}


@both("R4 crash states")
def test_power_may_be_lost_at_any_time(count, tmp_path, watch, reached):
    tried, slow = 0, count == COUNTS["R4 crash states"][1]
    for number, (story, older) in enumerate(STORIES.values()):
        one = told(story, tmp_path / f"run-{number}", watch, older, 6 if slow else 3)
        states = list(losses(one))
        if not slow:  # evenly chosen ones
            states = states[:: max(1, len(states) * len(STORIES) // count)]
        assert not list(wrongs(one, states, tmp_path / "lost"))
        tried += len(states)
    assert tried >= count
    if slow:
        reached("R4 crash states", states=tried, torn=0, lost=0)


@pytest.mark.parametrize("older", [-1, 1], ids=["first", "later"])
def test_power_may_be_lost_behind_a_second_try(older, tmp_path, watch):
    """A reported checkpoint is durable, also after one that could not be written."""
    wrong = []
    for point in range(primitives_of_a_save(tmp_path / "count", watch)):
        story = a_save_that_failed_at(point)
        one = told(story, tmp_path / f"run-{point}", watch, older, 1)
        end = len(one.operations)
        visible = {}  # files of the first try are hidden, and never the same
        for done, lost in itertools.takewhile(lambda one, end=end: one[0] == end, losses(one)):
            seen = frozenset((k, v) for k, v in lost.items() if "/." not in k)
            visible[seen] = (done, dict(seen))
        wrong += [f"{point}: {text}" for text in wrongs(one, visible.values(), tmp_path / "lost")]
    assert not wrong


@pytest.mark.parametrize(
    ("story", "what", "wrong"),
    [
        (
            "a later save",
            r"checkpoints/\.step.*/(state\.safetensors|progress\.json)",
            "DamagedError",
        ),
        (
            "a later save",
            r"checkpoints/\.step[^/]*/motherbird\.json",
            "(Damaged|Input|Assertion)Error",
        ),
        ("a later save", r"checkpoints/\.step[^/]*", "(Damaged|Input)Error"),
        ("a later save", "checkpoints", "AssertionError"),
        ("the first save", r"\.", "AssertionError"),
        ("a save and retention", "checkpoints", "(Damaged|Input)Error"),
    ],
    ids=["files", "manifest", "folder", "parent", "run", "retention"],
)
def test_without_a_sync_the_loss_of_power_would_hurt(story, what, wrong, tmp_path, watch):
    """The tests above can fail: each sync is needed, and leaving it out is detected."""
    make, older = STORIES[story]
    one = told(make, tmp_path / "run", watch, older, 1)
    kept = [
        (at, operation)
        for at, operation in enumerate(one.operations)
        if not (operation[0] == "sync" and re.fullmatch(what, operation[1]))
    ]
    assert len(kept) < len(one.operations)
    one = replace(
        one,
        operations=[operation for _, operation in kept],
        reported=[(sum(at < end for at, _ in kept), step) for end, step in one.reported],
    )
    assert any(re.search(wrong, text) for text in wrongs(one, losses(one), tmp_path / "lost"))


# --- retention


def test_retention(tmp_path):
    run = saved(tmp_path / "run", *range(1, 9))
    state.retain(run, 2, 3, {1})
    assert state.steps(run) == [8, 7, 6, 3, 1]
    assert check(run, 8) == 8
    state.retain(run, 1, 0, set())
    assert state.steps(run) == [8]


def test_retention_that_was_killed_is_finished(tmp_path, watch):
    for point in range(12):
        run = saved(tmp_path / f"run-{point}", 1, 2)
        watch(Primitives(point))
        try:
            state.retain(run, 1, 0, set())
        except OSError:
            assert 2 in state.steps(run)
        watch(None)
        check(run, 2)
        state.retain(run, 1, 0, set())
        assert state.steps(run) == [2] and check(run, 2) == 2
