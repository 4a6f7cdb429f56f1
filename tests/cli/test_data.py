"""data build, prepare, data show and tokenizer train, as a user calls them."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest


@pytest.fixture(scope="module")
def tokenizer(small_tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer") / "t"
    small_tokenizer.save(folder)
    return folder


@pytest.fixture
def ready(motherbird, sources, tokenizer, tmp_path):
    out = tmp_path / "set"
    said = motherbird("prepare", sources, "--tokenizer", tokenizer, "--seq-len", "128,1024",
                      "--out", out, "--json").done().json  # fmt: skip
    return out, said


def test_prepare_and_show(motherbird, ready, documented, has_shape):
    out, said = ready
    assert said["documents"]["kept"] == 5 and set(said["lengths"]) == {"128", "1024"}
    assert said["efficiency"] == min(a["efficiency"] for a in said["lengths"].values()) > 0.95
    text = motherbird("data", "show", out).done().out
    assert "verified" in text and "rows of   128" in text and "[MASK]" in text
    assert "\x1b[" not in text  # no colors without a terminal
    shown = (
        motherbird("data", "show", out, "--seq-len", "1024", "--rows", "1", "--json").done().json
    )
    assert {**shown, "seconds": said["seconds"]} == {**said, "examples": shown["examples"]}
    (row,) = shown["examples"]
    assert sum(piece["tokens"] for piece in row["pieces"]) <= 1024
    assert {hidden for piece in row["pieces"] for hidden, _ in piece["text"]} == {True, False}


def test_prepare_says_it_in_lines(motherbird, sources, tokenizer, tmp_path):
    text = motherbird("prepare", sources, "--tokenizer", tokenizer, "--out", tmp_path / "set",
                      "--eval", "0.3").done().out  # fmt: skip
    assert re.search(r"set: 5 documents, .* tokens, .* s\n", text)
    assert re.search(r"rows of  1024: \d+, \d+\.\d+% full, \d documents split", text)


def test_a_picture(motherbird, ready, tmp_path):
    pytest.importorskip("matplotlib")
    motherbird("data", "show", ready[0], "--png", tmp_path / "lengths.png").done()
    assert (tmp_path / "lengths.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("png", "says"),
    [
        ("notes.txt", r"--png is not a \.png file.*notes\.txt"),
        ("folder.png", r"--png is a directory.*folder\.png"),
    ],
)
def test_a_place_for_the_picture_that_cannot_be_used(png, says, motherbird, ready, tmp_path, tree):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder.png").mkdir()
    before = tree(tmp_path)
    motherbird("data", "show", ready[0], "--png", tmp_path / png).refused(says)
    assert tree(tmp_path) == before


def test_show_trusts_no_record_of_verified_files(motherbird, ready, tmp_path, monkeypatch):
    from motherbird.data import verified
    from motherbird.data.prepared import PreparedDataset

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(verified, "LARGE", 1)
    monkeypatch.setattr(verified, "SETTLED", 0)
    PreparedDataset(ready[0])
    file = ready[0] / "tokens-00000.bin"
    file.write_bytes(b"x" + file.read_bytes()[1:])
    [record] = (tmp_path / "cache" / "motherbird" / "verified").iterdir()
    about = json.loads(record.read_text())
    about["files"][file.name] = verified._state(file)
    record.write_text(json.dumps(about))
    PreparedDataset(ready[0])  # as if it had not been changed
    motherbird("data", "show", ready[0]).refused(r"tokens-00000\.bin", code=1)


def test_damage_is_named_before_anything_is_shown(motherbird, ready):
    file = ready[0] / "tokens-00000.bin"
    content = bytearray(file.read_bytes())
    content[1000] ^= 4
    file.write_bytes(content)
    result = motherbird("data", "show", ready[0]).refused(r"tokens-00000\.bin", code=1)
    assert result.out == ""


def test_build_and_prepare_from_it(motherbird, sources, tokenizer, tmp_path):
    corpus = tmp_path / "corpus"
    said = motherbird("data", "build", sources, "--out", corpus, "--json").done().json
    assert said["documents"] == 5 and list(said["sources"]) == [sources.name]
    assert "5 documents" in motherbird("data", "build", sources, "--out", corpus).done().out
    with_corpus = motherbird("prepare", corpus, "--tokenizer", tokenizer, "--out",
                             tmp_path / "a", "--json").done().json  # fmt: skip
    direct = motherbird("prepare", sources, "--tokenizer", tokenizer, "--out",
                        tmp_path / "b", "--json").done().json  # fmt: skip
    assert with_corpus["fingerprint"] == direct["fingerprint"]


def test_tokenizer(motherbird, sources, tokenizer, tmp_path):
    out = tmp_path / "own"
    said = motherbird("tokenizer", "train", sources, "--size", "1024", "--out", out, "--compare",
                      tokenizer, "--held-out", "0.4", "--json").done().json  # fmt: skip
    assert said["entries"] == 1024 and said["round_trip"]["changed"] == 0
    (counted,) = said["sources"].values()
    assert set(counted["tokens"]) == {"motherbird", "t"} and counted["documents"] > 0
    assert 0 <= said["unused"] < 1
    assert json.loads((out / "report.json").read_text())["entries"] == 1024
    motherbird("prepare", sources, "--tokenizer", out, "--out", tmp_path / "set").done()
    text = motherbird("tokenizer", "train", sources, "--size", "1024", "--out", out, "--compare",
                      tokenizer).done().out  # fmt: skip
    assert "1,024 entries" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["prepare", "gone", "--tokenizer", "{t}", "--out", "o"],
            "file or directory does not exist.*gone",
        ),
        (["prepare", "{s}", "--tokenizer", "gone", "--out", "o"], "gone"),
        (
            ["prepare", "{s}", "--tokenizer", "{t}", "--out", "o", "--seq-len", "x"],
            "such as 1024,8192",
        ),
        (
            ["prepare", "{s}", "--tokenizer", "{t}", "--out", "o", "--seq-len", "2"],
            "8 to 1,048,576",
        ),
        (["prepare", "{s}", "--tokenizer", "{t}", "--out", "{s}/o"], "inside the input"),
        (["prepare", "{s}", "--tokenizer", "{t}", "--out", "o", "--eval", "1"], "eval"),
        (["prepare", "{s}", "--tokenizr", "{t}", "--out", "o"], "--tokenizer"),
        (["data", "show", "gone"], "directory does not exist.*gone"),
        (["data", "show", "{t}"], "this is a tokenizer, not a prepared dataset"),
        (["data", "build", "gone", "--out", "o"], "file or directory does not exist"),
        (["data", "bild"], "No such command"),
        (["tokenizer", "train", "{s}", "--size", "1000", "--out", "o"], "multiple of 64"),
        (["data", "show", "{t}/tokenizer.json"], "this is a file, not a directory.*tokenizer.json"),
    ],
)
def test_mistakes(motherbird, sources, tokenizer, tmp_path, monkeypatch, tree, arguments, says):
    monkeypatch.chdir(tmp_path)
    filled = [argument.format(s=sources, t=tokenizer) for argument in arguments]
    motherbird(*filled).refused(says)
    assert not (tmp_path / "o").exists()


def test_a_vocabulary_that_the_text_is_too_small_for(motherbird, sources, tmp_path):
    call = ("tokenizer", "train", sources, "--out", tmp_path / "own")
    motherbird(*call).refused("too small.*at most")
    assert list(tmp_path.iterdir()) == []
    motherbird(*call, "--size", "1024").done()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own"]


def test_the_size_of_a_small_text(motherbird, tmp_path):
    words = ("file", "socket", "archive", "line", "page", "table")
    text = "\n".join(f"Paragraph {n}: the {word} was read." for n, word in enumerate(words))
    size = (tmp_path / "a.txt").write_text(text)
    call = ("tokenizer", "train", tmp_path / "a.txt", "--size", "384", "--held-out", "0", "--out")
    assert f"384 entries from {size}B" in motherbird(*call, tmp_path / "own").done().out
    result = motherbird(*call, tmp_path / "own", "--json").done().json
    assert result["megabytes"] == size / 1e6


def test_nothing_is_held_out(motherbird, sources, tmp_path):
    call = ("tokenizer", "train", sources, "--size", "1024", "--held-out", "0", "--out")
    text = motherbird(*call, tmp_path / "own").done().out
    assert "no document was held out" in text and "unused" not in text and "0 documents" not in text
    assert motherbird(*call, tmp_path / "own", "--json").done().json["unused"] is None


any_names = pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
NOT_UTF_8 = os.fsdecode(b"caf\xe9")


@any_names
@pytest.mark.parametrize(
    "arguments",
    [
        ["embed", "in/a.txt", "--out", "{new}.npy"],
        ["data", "build", "in", "--out", "{new}"],
        ["data", "build", "{bad}", "--out", "o"],
        ["data", "build", "in", "--out", "o", "--decontaminate", "{bad}"],
        ["data", "build", "{bad}/m.toml", "--out", "o"],
        ["data", "show", "in", "--png", "{new}.png"],
        ["prepare", "in", "--tokenizer", "{t}", "--out", "{new}"],
        ["prepare", "{bad}", "--tokenizer", "{t}", "--out", "o"],
        ["tokenizer", "train", "in", "--out", "{new}"],
        ["tokenizer", "train", "{bad}", "--out", "o"],
        ["export", "motherbird-nano", "--format", "hf", "--out", "{new}"],
    ],
)
def test_names_that_are_not_utf_8(motherbird, tokenizer, tmp_path, monkeypatch, tree, arguments):
    monkeypatch.chdir(tmp_path)
    for name in ("in", NOT_UTF_8):
        os.mkdir(name)
        with open(f"{name}/a.txt", "w") as file:
            file.write("text " * 20)
    with open(f"{NOT_UTF_8}/m.toml", "w") as file:
        file.write('[[source]]\nname = "a"\npath = "a.txt"\n')
    before = tree(tmp_path)
    names = {"bad": NOT_UTF_8, "new": f"new-{NOT_UTF_8}", "t": tokenizer}
    filled = [argument.format(**names) for argument in arguments]
    motherbird(*filled).refused(r"the path is not valid UTF-8: '.*caf\\udce9.*: rename it")
    assert tree(tmp_path) == before


@any_names
def test_a_dataset_whose_name_is_not_utf_8(motherbird, ready, tmp_path):
    ready[0].rename(tmp_path / NOT_UTF_8)
    motherbird("data", "show", tmp_path / NOT_UTF_8).refused("the path is not valid UTF-8")


def test_showing_another_length(motherbird, ready):
    motherbird("data", "show", ready[0], "--seq-len", "77").refused("it has rows of 128 and 1024")


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_stopped_by_a_signal_it_goes_on(sources, tokenizer, tmp_path):
    """SIGTERM: 143 and one line; the same command finishes."""
    out = tmp_path / "set"
    many = tmp_path / "many"
    for number in range(60):
        shutil.copytree(sources, many / str(number))
        for path in (many / str(number)).iterdir():
            path.write_text(f"# {number}\n{path.read_text(encoding='utf-8')}", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "motherbird",
        "prepare",
        many,
        "--tokenizer",
        tokenizer,
        "--out",
        out,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while (
        not list(tmp_path.glob(".set.unfinished/*.unfinished/part-*.json"))
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143
    assert err == (
        f"WARNING: unfinished work is kept in {tmp_path}/.set.unfinished: repeat the call, or "
        "delete it\nerror: stopped by a signal\n"
    )
    assert not out.exists() and (tmp_path / ".set.unfinished").is_dir()
    subprocess.run(command, check=True, capture_output=True)
    assert out.is_dir() and not (tmp_path / ".set.unfinished").exists()


def test_what_was_skipped_is_said(motherbird, sources, tokenizer, tmp_path):
    folder = tmp_path / "code"
    shutil.copytree(sources, folder)
    (folder / "node_modules").mkdir()
    (folder / "node_modules" / "x.js").write_text("let x = 1\n")
    (folder / "z_pb2.py").write_text("z = 1\n")
    (folder / "y.log").write_text("y = 1\n")
    for command in (["data", "build"], ["prepare", "--tokenizer", tokenizer]):
        text = motherbird(*command, folder, "--out", tmp_path / "out").done().out
        assert "skipped 1 file, 10B: vendored (node_modules/x.js)" in text
        assert "skipped 1 file, 6B: generated (z_pb2.py)" in text
        assert "1 file, 6B: other suffixes (.log 1, such as y.log); set files in the mix" in text
        said = motherbird(*command, folder, "--out", tmp_path / "out", "--json").done().json
        assert said["sources"]["code"]["skipped"] == {
            "vendored": {"documents": 1, "bytes": 10, "examples": [{"where": "node_modules/x.js"}]},
            "generated": {"documents": 1, "bytes": 6, "examples": [{"where": "z_pb2.py"}]},
            "other suffixes": {
                "documents": 1,
                "bytes": 6,
                "examples": [{"where": "y.log", "suffix": ".log 1"}],
            },
        }
        shutil.rmtree(tmp_path / "out")
    (folder / "bad.jsonl").write_text('{"text": "a"}\n' + "{\n" * 3)
    result = motherbird("data", "build", folder, "--out", tmp_path / "out", "--max-bad", "0.5")
    assert result.code == 0 and "skipped 3 lines of 1 file: " in result.out
    assert "skipped 3 lines of 1 file without usable text" in result.err


def test_training_a_tokenizer_can_be_resumed_after_its_process_died(sources, tmp_path, monkeypatch):
    from motherbird import workers
    from motherbird.data import vocabulary

    class Killed(workers.Worker):
        def ask(self, request, limit=None):
            os.kill(self.pid, signal.SIGKILL)
            return super().ask(request, limit)

    monkeypatch.setattr(workers, "Worker", Killed)
    with pytest.raises(workers.WorkerDied, match="killed by SIGKILL, probably because memory"):
        vocabulary.train(sources, 1024, tmp_path / "own")
    assert not (tmp_path / "own").exists()
    monkeypatch.undo()
    monkeypatch.setattr("motherbird.data.corpus.build", None)  # that part is done
    assert vocabulary.train(sources, 1024, tmp_path / "own", held_out=0.4).entries == 1024
    assert sorted(path.name for path in tmp_path.iterdir() if "own" in path.name) == ["own"]


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_a_signal_ends_the_training_of_a_tokenizer(tmp_path):
    rng = random.Random(0)
    words = "\n".join(f"{rng.getrandbits(64):x}" for _ in range(600_000))
    (tmp_path / "words.txt").write_text(words)
    arguments = ["tokenizer", "train", tmp_path / "words.txt", "--out", tmp_path / "own"]
    command = [sys.executable, "-m", "motherbird", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / ".own.unfinished" / "corpus").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(3)  # now it is training, which takes much longer
    children = subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(process.pid)], text=True)
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - sent < 5
    assert process.returncode == 143 and err.endswith("\nerror: stopped by a signal\n")
    assert "WARNING: unfinished work is kept in" in err and not (tmp_path / "own").exists()
    for pid in children.split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)
