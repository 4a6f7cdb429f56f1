"""A dataset is verified once: unchanged large files are not hashed again, others are."""

import json
import os
import shutil

import numpy as np
import pytest

from motherbird import files
from motherbird.data import prepared as datasets
from motherbird.data import verified
from motherbird.data.prepared import PreparedDataset
from motherbird.errors import DamagedError

ARRAYS = ["documents.npy", "tokens-00000.bin"]


@pytest.fixture
def folder(prepared, tmp_path, monkeypatch):
    """A copy of the dataset whose .npy and .bin files count as large, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(verified, "LARGE", 1)
    monkeypatch.setattr(verified, "SETTLED", 0)
    shutil.copytree(prepared.directory, tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture
def hashed(monkeypatch):
    """hashed() returns the names of files hashed since the last call."""
    names = []
    real = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: names.append(path.name) or real(path))

    def take():
        taken = set(names)
        names.clear()
        return taken

    return take


def test_the_second_start_hashes_no_large_file(folder, hashed):
    names = set(files.read_manifest(folder)["sha256"])
    PreparedDataset(folder)
    assert hashed() >= names
    PreparedDataset(folder)
    assert hashed() <= {files.MANIFEST, "tokenizer.json"}
    PreparedDataset(folder, verify="all")
    assert hashed() >= names
    PreparedDataset(folder, verify=False)
    assert hashed() <= {"tokenizer.json"}


def test_small_files_are_always_hashed(folder, hashed, monkeypatch):
    monkeypatch.setattr(verified, "LARGE", (folder / ARRAYS[1]).stat().st_size)
    for _ in range(2):
        PreparedDataset(folder)
        found = hashed()
    assert set(files.read_manifest(folder)["sha256"]) - found == {ARRAYS[1]}


@pytest.mark.parametrize("name", ARRAYS)
def test_a_change_of_one_byte_is_found_though_size_and_time_are_the_same(folder, name):
    PreparedDataset(folder)
    before = (folder / name).stat()
    with (folder / name).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    os.utime(folder / name, ns=(before.st_atime_ns, before.st_mtime_ns))
    for verify in (True, "all", True):
        with pytest.raises(DamagedError, match=rf"was changed.*{name}"):
            PreparedDataset(folder, verify=verify)


@pytest.mark.parametrize("change", ["replaced", "missing", "added"])
def test_files_that_come_and_go_are_found(folder, change):
    PreparedDataset(folder)
    path = folder / ARRAYS[1]
    if change == "replaced":
        data = bytearray(path.read_bytes())
        data[0] ^= 1
        path.unlink()
        path.write_bytes(data)
    elif change == "missing":
        path.unlink()
    else:
        (folder / "more.bin").write_bytes(b"more")
    with pytest.raises(DamagedError, match=r"tokens-00000|more\.bin"):
        PreparedDataset(folder)


def test_a_file_that_was_just_written_is_hashed_again(folder, hashed, monkeypatch):
    """Its times would not show a change in the same tick of the file system's clock."""
    monkeypatch.setattr(verified, "SETTLED", 3600 * 10**9)
    for _ in range(2):
        PreparedDataset(folder)
        assert hashed() >= set(ARRAYS)


def test_another_dataset_in_the_same_place(folder, hashed):
    PreparedDataset(folder)
    text = files.read_manifest(folder)
    text["motherbird"] = "another version"
    (folder / files.MANIFEST).write_text(files._manifest_text(text))
    hashed()
    PreparedDataset(folder)
    assert hashed() >= set(ARRAYS)


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', "\0"])
def test_a_record_that_cannot_be_read_is_written_again(folder, hashed, content):
    PreparedDataset(folder)
    [record] = (files.cache_directory() / "verified").iterdir()
    good = record.read_text()
    record.write_text(content)
    hashed()
    PreparedDataset(folder)
    assert hashed() >= set(ARRAYS)
    assert json.loads(record.read_text()) == json.loads(good)


def test_a_cache_that_cannot_be_written_is_a_warning(folder, caplog, tmp_path):
    (tmp_path / "cache").write_text("a file")
    PreparedDataset(folder)
    assert "the next start hashes again" in caplog.text


def test_damage_ends_the_hashing(tmp_path, monkeypatch):
    """The first damaged file is reported without hashing the hundreds after it."""
    monkeypatch.setattr(files, "THREADS", 2)
    with files.new_directory(tmp_path / "out", "test") as fresh:
        for number in range(400):
            (fresh / f"{number:03}").write_bytes(bytes([number % 256]) * 10_000)
    (tmp_path / "out" / "001").write_bytes(b"x")
    real, count = files.sha256, []
    monkeypatch.setattr(files, "sha256", lambda path: count.append(path) or real(path))
    with pytest.raises(DamagedError, match="001"):
        files.check_directory(tmp_path / "out", "test")
    assert len(count) < 400


# --- rows of selected documents in the cache


def test_many_selected_rows_are_packed_once(folder, monkeypatch):
    opened = PreparedDataset(folder)
    choices = [{"min_tokens": 500}, {"sources": list(opened.about.sources)}, {"min_tokens": 10}]
    in_memory = [opened.rows(128, **choice) for choice in choices]
    monkeypatch.setattr(datasets, "IN_MEMORY", 1)
    packed, real = [], datasets.packed_rows
    monkeypatch.setattr(datasets, "packed_rows", lambda *a: packed.append(a) or real(*a))
    for _ in range(2):
        for choice, expected in zip(choices, in_memory, strict=True):
            found = PreparedDataset(folder).rows(128, **choice)
            assert (found.starts == expected.starts).all()
            assert (found.pieces == expected.pieces).all()
    assert len(packed) == len(choices)
    held_out = opened.rows(128, held_out=True, min_tokens=10)
    assert opened.documents["held_out"][held_out.pieces["document"]].all()
    assert len(packed) == len(choices) + 1


def test_a_dataset_of_more_files_than_a_process_may_open(prepared, tmp_path):
    """There is a file of tokens for 64 MB of text: 2 trillion tokens are 100,000 files."""
    resource = pytest.importorskip("resource")
    shutil.copytree(prepared.directory, tmp_path / "set")
    documents = np.load(tmp_path / "set" / "documents.npy")
    count = 700
    documents["shard"] = np.arange(len(documents)) * count // len(documents)
    np.save(tmp_path / "set" / "documents.npy", documents)
    for number in range(1, count):
        os.link(tmp_path / "set" / ARRAYS[1], tmp_path / "set" / f"tokens-{number:05}.bin")
    about = json.loads((tmp_path / "set" / "set.json").read_text()) | {"shards": count}
    (tmp_path / "set" / "set.json").write_text(json.dumps(about))
    opened = PreparedDataset(tmp_path / "set", verify=False)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, limits[1]))
    try:
        for number in range(count):
            opened.shard_tokens(number)
        numbers = np.arange(len(opened.rows(128)))
        found, _, _ = opened.rows(128).gather(numbers)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (found == prepared.rows(128).gather(numbers)[0]).all()
