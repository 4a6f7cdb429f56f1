"""motherbird embed into a directory: the same bytes, however often it is killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
TEXTS = [f"text {i} of {'many words and ' * (i % 9)}more" for i in range(23)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a text file and a table."""
    (tmp_path / "a.txt").write_text("\n".join(TEXTS) + "\n")
    rows = [{"key": i * 3, "name": f"n{i}", "text": text} for i, text in enumerate(TEXTS)]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def embed(motherbird, model, place):
    def call(*arguments, out="out", rows=5):
        shards = () if rows is None else ("--shard-rows", rows)
        return motherbird("embed", *arguments, "--model", model, "--out", out, *shards)

    return call


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def vectors(folder):
    return np.stack(parquet.read_table(folder)["vector"].to_numpy(zero_copy_only=False))


def test_json(embed, place, documented, has_shape):
    result = embed("a.txt", "b.jsonl", "--json").done().json
    assert has_shape(result, documented("embed")[1])
    assert {"out": "out", "texts": 46, "dimensions": 32, "shards": 10, "computed": 10,
            "truncated": 0}.items() <= result.items()  # fmt: skip
    assert embed("a.txt", "b.jsonl", "--json").done().json["computed"] == 0
    assert (
        embed("a.txt", "b.jsonl")
        .done()
        .out.startswith("out: 46 texts, vectors of 32 dimensions, 10 shards (0 computed), ")
    )


def test_vectors_are_those_of_the_array(embed, place):
    options = ("a.txt", "--prompt", "a prompt: ", "--max-length", 9, "--truncate", "--truncate-dim",
               7)  # fmt: skip
    said = embed(*options, out="out.npy", rows=None).err
    assert embed(*options).err == said != ""
    assert (np.load("out.npy") == vectors(place / "out")).all()
    table = parquet.read_table("out")
    assert table["file"].to_pylist() == ["a.txt"] * 23
    assert table["row"].to_pylist() == list(range(23))
    manifest = json.loads((place / "out" / "_manifest.json").read_text())
    assert [part["rows"] for part in manifest["shards"]] == [5, 5, 5, 5, 3]
    assert manifest["settings"]["prompt"] == "a prompt: "


@pytest.mark.parametrize(("column", "first"), [("key", [0, 3, 6]), ("name", ["n0", "n1", "n2"])])
def test_ids(column, first, embed, place):
    embed("b.jsonl", "--id-column", column, rows=None).done()
    table = parquet.read_table("out")
    assert table.column_names == ["id", "vector"] and table["id"].to_pylist()[:3] == first


def test_worker_processes_give_the_same_bytes(embed, place):
    embed("a.txt", "b.jsonl", out="one").done()
    embed("a.txt", "b.jsonl", "--workers", 2, out="two").done()
    embed("a.txt", "b.jsonl", "--batch-tokens", 64, "--threads", 2, out="three").done()
    assert contents(place / "one") == contents(place / "two")
    assert (vectors(place / "three") == vectors(place / "one")).all()


def test_ray_gives_the_same_bytes(embed, place, monkeypatch):
    pytest.importorskip("ray")
    embed("a.txt", "b.jsonl", out="one").done()
    assert embed("a.txt", "b.jsonl", "--engine", "ray", "--workers", 2, out="two").code == 0
    assert contents(place / "one") == contents(place / "two")
    (place / "c.txt").write_text("word " * 5000)
    call = ("c.txt", "--engine", "ray", "--workers", 1)
    embed(*call, out="three").refused(r"the limit is 512: c.txt:1", code=1, after="(?s:.*)")


def test_a_ray_that_cannot_be_reached(embed, place, monkeypatch):
    """No text is damaged."""

    def init(*arguments, **options):
        raise ConnectionError("no cluster")

    ray = ModuleType("ray")
    ray.init = init
    monkeypatch.setitem(sys.modules, "ray", ray)
    says = r"Ray cannot be used \(.*no cluster.*\): ray://no:1: check the address"
    embed("a.txt", "--engine", "ray", "--ray-address", "ray://no:1").refused(says, code=2)


def test_without_ray(embed, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    says = r"the package 'ray' is not installed: pip install -c constraints.txt '\.\[ray\]'"
    embed("a.txt", "--engine", "ray").refused(says)


def test_a_url(embed, place):
    pytest.importorskip("fsspec")
    embed("a.txt", out="one").done()
    embed("a.txt", out=f"file://{place}/two").done()
    assert contents(place / "one") == contents(place / "two")
    embed("a.txt", out=f"memory://{place.name}/x").done()
    embed("a.txt", out=f"memory://{place.name}/x", rows=4).refused(r"\(shard_rows\)")
    embed("a.txt", "--workers", 2, out="memory://y").refused("memory of one process")


def test_other_settings_are_refused(embed, place):
    embed("a.txt").done()
    before = contents(place / "out")
    embed("a.txt", "--no-normalize").refused(r"other settings \(normalize\): out: use another")
    embed("a.txt", rows=6).refused(r"other settings \(shard_rows\)")
    (place / "a.txt").write_text("changed\n")
    embed("a.txt").refused(r"other settings \(inputs\)")
    assert contents(place / "out") == before


@pytest.mark.parametrize(
    ("arguments", "out", "says", "code"),
    [
        (["-"], "out", "read twice, and from a file: -: write them to a file", 2),
        (["a.txt", "a.txt"], "out", "given twice: a.txt", 2),
        (["none.txt"], "out", "does not exist: none.txt", 2),
        (["a.txt", "--ray-address", "auto"], "out", "--ray-address is for --engine ray", 2),
        (["a.txt", "--engine", "gpu"], "out", "'gpu' is not one of", 2),
        (["a.txt"], "kept", "contains 'mine.txt', which motherbird embed did not write: kept", 2),
        (["a.txt", "--format", "parquet"], "b.jsonl", "--out is a file: b.jsonl", 2),
        (["a.txt"], "nowhere/out", "directory of the output does not exist", 2),
        (["a.txt"], "nothing://a", "the URL cannot be opened", 2),
        (["a.txt", "--workers", "2"], "x.npy", "--workers is for shards: use a directory", 2),
        (["a.txt", "--kind", "query"], "x.npy", "--kind is for shards", 2),
        (["a.txt", "b.jsonl"], "x.npy", r"unexpected extra argument \(b.jsonl\)", 2),
        (["a.txt", "--id-column", "key"], "out", "--id-column is for tables", 2),
        (["b.jsonl", "--id-column", "kye"], "out", 'no field is called "kye".*--id-column', 2),
        (["b.jsonl", "--max-length", "2"], "out", "2 tokens: use 3 or more|limit is 2", 2),
        (["a.txt", "--prompt-name", "x"], "out", "no prompt called 'x'", 2),
        (["bad.txt"], "out", "no visible character|empty.*bad.txt:2", 2),
        (["null.jsonl", "--id-column", "key"], "out", '"key" is null.*null.jsonl:1', 1),
    ],
    ids=str,
)
def test_a_mistake(arguments, out, says, code, embed, place, tree):
    (place / "kept").mkdir()
    (place / "kept" / "mine.txt").write_text("mine")
    (place / "bad.txt").write_text("one\n \nthree\n")
    (place / "null.jsonl").write_text('{"key": null, "text": "a"}\n')
    before = tree(place)
    embed(*arguments, out=out, rows=None).refused(says, code)
    assert tree(place) == before


@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["process", "workers"])
def test_a_text_that_is_too_long(options, embed, place):
    """What was computed before it is kept."""
    (place / "c.txt").write_text("short\n" * 7 + "word " * 5000 + "\n")
    embed("c.txt", *options).refused(r"the limit is 512: c.txt:8", code=1)
    assert "_manifest.json" not in contents(place / "out")
    assert options or "part-00000.parquet" in contents(place / "out")


def test_truncated_texts_of_late_interaction(motherbird, late, place):
    call = ("embed", "a.txt", "--kind", "document", "--model", late, "--max-length", 12)
    for options in ((), ("--workers", 2)):
        out = ("--out", f"out{len(options)}", "--shard-rows", 5, *options, "--json")
        said = motherbird(*call, *out)
        truncated = said.json["truncated"]
        assert said.code == 0 and 10 < truncated < 23
        assert said.err == f"WARNING: truncated {truncated} of 23 texts to 12 tokens\n"
    assert contents(place / "out0") == contents(place / "out2")


def test_a_damaged_shard(embed, place):
    embed("a.txt").done()
    (place / "out" / "_manifest.json").unlink()
    (place / "out" / "part-00001.parquet").write_bytes(b"PAR1")
    embed("a.txt").refused("not a shard of motherbird: out/part-00001.parquet: delete it", code=1)


# --- kills: real processes

SHARDS, SIZE = 24, 20


@pytest.fixture
def work(model, place):
    """Start the command for many shards; `options` of `work.start`."""
    (place / "many.txt").write_text(
        "".join(f"{i} {'some words of a text ' * 40}\n" for i in range(SHARDS * SIZE - 3))
    )

    def start(out, *options):
        command = [sys.executable, "-m", "motherbird", "embed", "many.txt", "--model", str(model),
                   "--out", out, "--shard-rows", str(SIZE), "--threads", "1", *options]  # fmt: skip
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def finished(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def shards_of(folder):
    """Return the time and the identity of each shard that is there."""
    if not folder.exists():
        return {}
    found = {}
    for path in folder.glob("part-*.parquet"):
        state = path.stat()
        found[path.name] = (state.st_mtime_ns, state.st_ino)
    return found


def kill_at(process, folder, shards, delay):
    """Kill a process once it has written so many more shards, and a moment later."""
    before, end = len(shards_of(folder)), time.monotonic() + 60
    while len(shards_of(folder)) < before + shards and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.002)
    time.sleep(delay)
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


@posix
def test_a_kill(work, place):
    finished(work("whole"))
    out = place / "out"
    assert kill_at(work("out"), out, 3, 0.01)
    kept = shards_of(out)
    assert 3 <= len(kept) < SHARDS and "_manifest.json" not in contents(out)
    assert f"{SHARDS} shards ({SHARDS - len(kept)} computed)" in finished(work("out"))
    assert kept.items() <= shards_of(out).items()  # none was written again
    assert contents(out) == contents(place / "whole")


@posix
@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["process", "workers"])
def test_twenty_kills(options, work, place):
    """At random times: a shard that has its name is never computed again."""
    finished(work("whole"))
    drawn, kills, runs = random.Random(0), 0, 0
    while kills < 20:
        runs += 1
        out = place / f"out{runs}"
        while True:
            kept = shards_of(out)
            process = work(out.name, *options)
            killed = kill_at(process, out, drawn.randrange(4), drawn.random() * 0.3)
            kills += killed
            assert kept.items() <= shards_of(out).items()
            if not killed:
                assert process.returncode == 0
                break
            if kills >= 20:
                kept = shards_of(out)
                computed = json.loads(finished(work(out.name, *options, "--json")))["computed"]
                assert computed == SHARDS - len(kept)
                break
        assert contents(out) == contents(place / "whole")


@posix
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    "options", [[], pytest.param(["--workers", "2"], marks=pytest.mark.slow)],
    ids=["process", "workers"],
)  # fmt: skip
def test_a_signal(number, code, options, work, place):
    process = work("out", *options, "--json")
    while len(shards_of(place / "out")) < 2:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    kept = shards_of(place / "out")
    assert process.returncode == code
    assert json.loads(out)["error"]["code"] == "stopped"
    assert err.startswith("error: stopped by ") and err.count("\n") == 1
    assert f": {len(kept)} of {SHARDS} shards are written; repeat the command" in err
    assert not [name for name in contents(place / "out") if name.startswith(".")]
    assert json.loads(finished(work("out", "--json")))["computed"] == SHARDS - len(kept)
