"""Several processes on one index, and processes that are killed."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from code_files import source

from motherbird.search.cache import home_of
from motherbird.search.index import Index

FILES = 20
# A reader: what it finds of a file is not older than what the file had when the search began.
READER = """
import sys, time
import numpy as np
from motherbird.search.index import Index

root, versions, seconds = sys.argv[1], np.memmap(sys.argv[2], np.int64, "r"), float(sys.argv[3])
index, chance, count = Index.open(root, None), np.random.default_rng(int(sys.argv[4])), 0
end = time.monotonic() + seconds
while time.monotonic() < end:
    number = int(chance.integers(len(versions)))
    before = int(versions[number])
    hits = index.search(f"zebra{number}", 3).hits
    assert hits, "nothing found"
    own = [hit for hit in hits if hit.path == f"zebra_{number}.py"]
    found = [int(hit.text.rpartition("version ")[2]) for hit in own]
    assert found and found[0] >= before, (number, before, hits)
    count += 1
print(count)
"""
WRITER = """
import sys, time
from motherbird.search.index import Index

root, seconds = sys.argv[1], float(sys.argv[2])
index, end = Index.open(root, None), time.monotonic() + seconds
while time.monotonic() < end:
    index.refresh()
print(index.store.problems())
"""


def write(folder, number, version):
    path = folder / f"zebra_{number}.py"
    new = path.with_suffix(".new")
    new.write_text(f"def zebra{number}():\n    return 1  # version {version}\n")
    new.replace(path)


def together(folder, tmp_path, seconds):
    versions = np.memmap(tmp_path / "versions", np.int64, "w+", shape=(FILES,))
    for number in range(FILES):
        write(folder, number, 0)
    Index.open(folder, None).refresh()

    def start(code, *more):
        command = [sys.executable, "-c", code, str(folder), *map(str, more)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    readers = [start(READER, tmp_path / "versions", seconds, seed) for seed in range(4)]
    writers = [start(WRITER, seconds) for _ in range(2)]
    chance, end = np.random.default_rng(9), time.monotonic() + seconds
    while time.monotonic() < end:
        number = int(chance.integers(FILES))
        write(folder, number, int(versions[number]) + 1)
        versions[number] += 1
        time.sleep(0.03)
    ended = [(process, *process.communicate(timeout=60)) for process in (*readers, *writers)]
    for process, out, err in ended:
        assert process.returncode == 0, err
        assert int(out) > 0 if process in readers else out == "[]\n"


def test_two_writers_and_four_readers(folder, tmp_path):
    together(folder, tmp_path, 4)


@pytest.mark.slow
def test_two_writers_and_four_readers_for_two_minutes(folder, tmp_path):
    together(folder, tmp_path, 120)


def killed(folder, count):
    """Index a directory that changes, and kill the process so many times."""
    chance, kills, path = np.random.default_rng(0), 0, home_of(folder).database
    command = [sys.executable, "-m", "motherbird", "index", str(folder)]
    while kills < count:
        for number in chance.integers(0, 150, 40):
            (folder / f"more_{number}.py").write_text(source(int(chance.integers(99))) * 20)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.15, 0.9))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
        if path.is_file():
            index = Index(folder, path)
            assert index.store.problems() == []
            index.close()
    index = Index.open(folder, None)
    index.refresh()
    files = {p.relative_to(folder).as_posix(): p.read_text() for p in Path(folder).rglob("*.py")}
    found = {path.decode(): index.store.text(file) for file, path, _ in index.store.languages()}
    assert {name: found.get(name) for name in files} == files
    assert index.store.problems() == []


def test_killed_while_it_is_made(folder):
    killed(folder, 2)


@pytest.mark.slow
def test_killed_200_times(folder):
    killed(folder, 200)


def test_changes_are_added_when_they_happen(folder):
    command = [sys.executable, "-m", "motherbird", "index", str(folder), "--watch"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert "13 of 13 files" in process.stdout.readline()
        index = Index.open(folder, None)
        end = time.monotonic() + 30
        while b"new.py" not in index.store.states():
            assert time.monotonic() < end
            (folder / "new.py").write_text(source(int(1000 * end)))  # until it is watched
            time.sleep(0.3)
        index.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 130
