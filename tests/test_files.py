"""Atomic writes: what has its final name is complete, and other files are not touched."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from motherbird.errors import DamagedError, InputError, OutputExistsError
from motherbird.files import (
    MANIFEST,
    check_files,
    check_replaceable,
    new_directory,
    read_json,
    read_manifest,
    sha256,
    write_file,
)

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals and links")


def tree(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


def make(directory: Path, **texts: str) -> None:
    with new_directory(directory, "test") as fresh:
        for name, text in texts.items():
            (fresh / name).write_text(text)


# --- reading


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5", 5),
        ('"é"', "é"),
        ('{"a": [1, null]}', {"a": [1, None]}),
        ('[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
    ],
)
def test_json(text, value, tmp_path):
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    assert read_json(tmp_path / "x.json") == value


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"a": 1,}',
        b'{"a": 1} x',
        b'{"a": 1, "b": {"c": 2, "c": 2}}',
        b"[NaN]",
        b"[Infinity]",
        b"-Infinity",
        b'"\xff"',
        b"\xff\xfe1\x00",
        b"[" * 100_000,
        b"9" * 5000,
    ],
    ids=lambda content: repr(content[:20]),
)
def test_json_is_strict(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=r"not valid JSON.*x\.json"):
        read_json(tmp_path / "x.json")


def test_json_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"No such file.*x\.json"):
        read_json(tmp_path / "x.json")
    with pytest.raises(InputError, match="directory"):
        read_json(tmp_path)


def test_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 1000)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 1000).hexdigest()


# --- one file


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "folder" / "x.txt"
    for data in (b"first", b"second"):
        write_file(path, lambda temporary, data=data: temporary.write_bytes(data))
        assert tree(tmp_path) == {"new/folder/x.txt": data}


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "no space"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file(old, error, tmp_path):
    path = tmp_path / "x.txt"
    if old is not None:
        path.write_text(old)
    before = tree(tmp_path)

    def half(temporary):
        temporary.write_text("ha")
        raise error

    with pytest.raises(type(error)):
        write_file(path, half)
    assert tree(tmp_path) == before


def test_the_name_appears_only_when_the_file_is_whole(tmp_path):
    path = tmp_path / "x.txt"

    def look(temporary):
        temporary.write_text("half")
        assert not path.exists()
        assert temporary.parent == tmp_path  # the same file system, so that a rename will do
        temporary.write_text("whole")

    write_file(path, look)
    assert tree(tmp_path) == {"x.txt": b"whole"}


def test_a_writer_that_writes_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_file(tmp_path / "x.txt", lambda temporary: None)
    assert tree(tmp_path) == {}


def test_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace", "rename"):
        real = getattr(os, name)

        def record(*arguments, name=name, real=real):
            calls.append(name)
            return real(*arguments)

        monkeypatch.setattr(os, name, record)
    write_file(tmp_path / "x.txt", lambda temporary: temporary.write_text("text"))
    assert calls == ["fsync", "replace", "fsync"]
    calls.clear()
    make(tmp_path / "folder", a="1", b="2")
    rename = calls.index("rename")
    assert calls[:rename].count("fsync") == 4  # a, b, the manifest, the folder
    assert calls[rename:] == ["rename", "fsync"]


# --- a directory


def test_a_directory_and_its_manifest(tmp_path):
    with new_directory(tmp_path / "deep" / "out", "model") as fresh:
        (fresh / "a.txt").write_text("a")
        (fresh / "sub").mkdir()
        (fresh / "sub" / "b.txt").write_text("b")
        assert not (tmp_path / "deep" / "out").exists()
    out = tmp_path / "deep" / "out"
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    assert tree(out).keys() == {"a.txt", "sub/b.txt", MANIFEST}
    manifest = read_manifest(out)
    assert manifest["kind"] == "model"
    assert manifest["sha256"] == {
        "a.txt": hashlib.sha256(b"a").hexdigest(),
        "sub/b.txt": hashlib.sha256(b"b").hexdigest(),
    }


def test_an_earlier_output_is_replaced(tmp_path):
    make(tmp_path / "out", a="old", b="old")
    make(tmp_path / "out", a="new")
    assert tree(tmp_path).keys() == {"out/a", f"out/{MANIFEST}"}
    assert (tmp_path / "out" / "a").read_text() == "new"


@pytest.mark.parametrize("error", [RuntimeError("burns"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_directory(error, tmp_path):
    make(tmp_path / "out", a="old")
    before = tree(tmp_path)
    with pytest.raises(type(error)):
        with new_directory(tmp_path / "out", "test") as fresh:
            (fresh / "a").write_text("new")
            raise error
    assert tree(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_rename_that_fails_puts_the_old_directory_back(tmp_path, monkeypatch):
    make(tmp_path / "out", a="old")
    before = tree(tmp_path)
    real = os.rename

    def rename(source, target):
        if str(source).endswith(".tmp"):
            raise OSError(errno.EIO, "input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr("motherbird.disk.exchange", lambda first, second: False)
    with pytest.raises(OSError, match="input/output"):
        make(tmp_path / "out", a="new")
    assert tree(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_directory_that_appears_during_the_work_is_not_overwritten(tmp_path):
    with pytest.raises(OutputExistsError):
        with new_directory(tmp_path / "out", "test") as fresh:
            (fresh / "a").write_text("new")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "mine").write_text("mine")
    assert tree(tmp_path) == {"out/mine": b"mine"}


# --- what may be replaced


def test_missing_and_empty_directories_may_be_replaced(tmp_path):
    check_replaceable(tmp_path / "nowhere", "test")
    check_replaceable(tmp_path, "test")
    make(tmp_path / "out", a="1")
    check_replaceable(tmp_path / "out", "test")
    (tmp_path / "out" / "a").unlink()  # a missing file does not matter
    check_replaceable(tmp_path / "out", "test")


def test_other_files_may_not(tmp_path):
    def refused(path, says):
        before = tree(tmp_path)
        with pytest.raises(OutputExistsError, match=says):
            check_replaceable(path, "test")
        with pytest.raises(OutputExistsError, match=says):
            make(path, a="1")
        assert tree(tmp_path) == before

    (tmp_path / "file").write_text("mine")
    refused(tmp_path / "file", "is not a directory")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("mine")
    refused(tmp_path / "folder", "not created by motherbird")
    make(tmp_path / "out", a="1")
    (tmp_path / "out" / "mine").write_text("mine")
    refused(tmp_path / "out", "also contains 'mine'")


@posix
def test_links_may_not(tmp_path):
    make(tmp_path / "out", a="1")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine").write_text("mine")
    (tmp_path / "out" / "inside").symlink_to(tmp_path / "outside")
    for name, target in {"link": "out", "dangling": "nowhere"}.items():
        says = f"the output is a link: .*{name}: use the directory that it leads to: .*{target}$"
        with pytest.raises(OutputExistsError, match=says):
            make(tmp_path / name, a="2")
    with pytest.raises(OutputExistsError, match="also contains 'inside'"):
        make(tmp_path / "out", a="2")
    assert (tmp_path / "outside" / "mine").read_text() == "mine"
    assert (tmp_path / "out" / "a").read_text() == "1"
    assert (tmp_path / "link").is_symlink() and (tmp_path / "dangling").is_symlink()


@pytest.mark.parametrize("where", [".", "", "..", "../here", "absolute"])
def test_the_current_directory_may_not(where, tmp_path, monkeypatch):
    """Also if it is in the output, or reached by a link."""
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to("here")
    monkeypatch.chdir(tmp_path / "link")
    path = tmp_path / "here" if where == "absolute" else Path(where)
    with pytest.raises(OutputExistsError, match=r"is the current directory: .*, such as \./NAME"):
        make(path, a="1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["here", "link"]
    make(Path("new"), a="1")
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    make(tmp_path / "here" / "new", a="2")
    assert (tmp_path / "here" / "new" / "a").read_text() == "2"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"sha256": ["a"]}'])
def test_a_directory_with_a_broken_manifest_is_not_replaced(text, tmp_path):
    make(tmp_path / "out", a="1")
    (tmp_path / "out" / MANIFEST).write_text(text)
    before = tree(tmp_path)
    with pytest.raises((InputError, DamagedError), match=MANIFEST):
        make(tmp_path / "out", a="2")
    assert tree(tmp_path) == before


# --- checking


def test_changed_files_are_found(tmp_path):
    make(tmp_path / "out", a="1", b="2")
    check_files(tmp_path / "out", ["a", "b"])
    (tmp_path / "out" / "b").write_text("3")
    check_files(tmp_path / "out", ["a"])
    with pytest.raises(DamagedError, match=r"SHA-256 differs.*out.b"):
        check_files(tmp_path / "out", ["a", "b"])
    (tmp_path / "out" / MANIFEST).unlink()
    check_files(tmp_path / "out", ["a", "b"])  # without a manifest


# --- being killed

# Arguments: the output, and where to die: in the block, or instead of a call of os ("fsync 1" is
# the second one of os.fsync; "rename" as where directories cannot be exchanged).
WRITER = """
import os, signal, sys
from pathlib import Path
from motherbird import disk, files

out, point, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

if point not in ("never", "inside", "wait"):
    home, name = (disk, "exchange") if point == "exchange" else (os, point)
    if point == "rename":
        disk.exchange = lambda first, second: False
    real, calls = getattr(home, name), []
    def counted(*arguments, **options):
        if len(calls) == number:
            kill()
        calls.append(arguments)
        return real(*arguments, **options)
    setattr(home, name, counted)
with files.new_directory(out, "test") as fresh:
    (fresh / "a").write_text("new" * 1000)
    if point == "inside":
        kill()
    if point == "wait":
        print("ready", flush=True)
        sys.stdin.read()
    (fresh / "b").write_text("new")
print("done", flush=True)
"""


def writer(out: Path, point: str, number: int = 0) -> list[str]:
    return [sys.executable, "-c", WRITER, str(out), point, str(number)]


def whole(directory: Path) -> str | None:
    """Which of the two versions a directory is, complete and unchanged; None if neither."""
    if not (directory / MANIFEST).is_file():
        return None
    digests = read_manifest(directory)["sha256"]
    if any(sha256(directory / name) != digest for name, digest in digests.items()):
        return None
    return {("a",): "old", ("a", "b"): "new"}.get(tuple(digests))


@posix
def test_kill_while_it_writes(tmp_path):
    make(tmp_path / "out", a="old")
    process = subprocess.Popen(
        writer(tmp_path / "out", "wait"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert whole(tmp_path / "out") == "old"
    make(tmp_path / "out", a="new", b="new")  # leftovers do not matter
    assert whole(tmp_path / "out") == "new"


@posix
def test_the_writer_finishes_unless_it_is_killed(tmp_path):
    make(tmp_path / "out", a="old")
    done = subprocess.run(writer(tmp_path / "out", "never"), capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr
    assert whole(tmp_path / "out") == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@posix
@pytest.mark.parametrize(
    ("point", "number", "left"),
    [
        ("inside", 0, "old"),
        *(("fsync", n, "old") for n in range(4)),  # a, b, the manifest, the folder
        ("exchange", 0, "old"),
        ("fsync", 4, "new"),  # the folder above
        ("rmdir", 0, "new"),  # clearing away what was there before
    ],
)
def test_kill_at_every_step(point, number, left, tmp_path):
    """At no moment is there neither the old directory nor the new one."""
    make(tmp_path / "out", a="old")
    done = subprocess.run(writer(tmp_path / "out", point, number), capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert whole(tmp_path / "out") == left


@posix
@pytest.mark.parametrize(("number", "left"), [(0, "old"), (1, "nothing")])
def test_kill_where_directories_cannot_be_exchanged(number, left, tmp_path):
    """Between the two renames there is only the old directory, complete, under another name."""
    make(tmp_path / "out", a="old")
    done = subprocess.run(writer(tmp_path / "out", "rename", number), capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    if left == "nothing":
        (kept,) = tmp_path.glob(".out.*.old")
        assert not (tmp_path / "out").exists() and whole(kept) == "old"
    else:
        assert whole(tmp_path / "out") == left


@posix
def test_kill_while_a_file_is_written(tmp_path):
    (tmp_path / "x.txt").write_text("old")
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom motherbird import files\n"
        "def write(temporary):\n"
        "    temporary.write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_file(Path(sys.argv[1]), write)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "x.txt")]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert (tmp_path / "x.txt").read_text() == "old"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty.*x.json: download or copy it again"),
        (b"<!DOCTYPE html>", "it is HTML.*x.json: download or copy it again"),
        ("{}".encode("utf-16"), "it is not UTF-8.*x.json: download or copy it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer.*git lfs pull"),
        (b'{"a": "\\ud83d"}', "half a character.*fix it"),
    ],
)
def test_what_is_in_place_of_json(content, says, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=says):
        read_json(tmp_path / "x.json")
