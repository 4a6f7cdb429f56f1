"""Prepared text: every token once, nothing depends on chance or kills, all damage is found."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird.data.mixture import Mixture, Source
from motherbird.data.packing import DOCUMENT, SPECIAL_TOKENS, Selection, packed_rows
from motherbird.data.prepare import prepare, summary
from motherbird.data.prepared import PreparedDataset
from motherbird.errors import DamagedError, InputError, OutputExistsError
from motherbird.files import MANIFEST


def tree(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


def texts_of(prepared, length, held_out=False):
    """Every row's pieces as text, document by document, put together again."""
    rows = prepared.rows(length, held_out=held_out)
    parts: dict[int, dict[int, list[int]]] = {}
    for number in range(len(rows)):
        ids, lengths, row_tokens = rows.gather([number])
        assert len(ids) == lengths.sum() == row_tokens[0] <= length
        ends = lengths.cumsum()
        for piece, end, size in zip(rows.pieces_of(number), ends, lengths, strict=True):
            inside = ids[end - size : end].tolist()
            assert inside[0] == prepared.cls_id and inside[-1] == prepared.sep_id
            document = parts.setdefault(int(piece["document"]), {})
            assert int(piece["first"]) not in document
            document[int(piece["first"])] = inside[1:-1]
    return [
        prepared.tokenizer.decode(sum((pieces[first] for first in sorted(pieces)), []))
        for pieces in parts.values()
    ]


@pytest.mark.parametrize("length", [128, 1024])
def test_every_text_comes_back_once(prepared, library, length):
    found = texts_of(prepared, length) + texts_of(prepared, length, held_out=True)
    texts = [path.read_text(encoding="utf-8") for path in library.iterdir()]
    assert sorted(found) == sorted(text for text in texts if text.strip())
    assert texts_of(prepared, length, held_out=True)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(8, 40), st.data())
def test_every_token_of_every_copy_is_in_one_row(tokens, length, data):
    documents = np.zeros(len(tokens), DOCUMENT)
    documents["tokens"] = tokens
    copies = data.draw(st.lists(st.integers(0, 3), min_size=len(tokens), max_size=len(tokens)))
    if not any(copies):
        copies[0] = 1
    documents["copies"] = copies
    [(starts, pieces)] = packed_rows(documents, length, Selection(held_out=False))
    assert starts[0] == 0 and starts[-1] == len(pieces) and (np.diff(starts) > 0).all()
    assert (
        np.add.reduceat(pieces["tokens"].astype(int) + SPECIAL_TOKENS, starts[:-1]) <= length
    ).all()
    for number, (size, count) in enumerate(zip(tokens, copies, strict=True)):
        own = pieces[pieces["document"] == number]
        covered = np.zeros(size, int)
        for piece in own:
            covered[piece["first"] : piece["first"] + piece["tokens"]] += 1
        assert (covered == count).all()


def test_what_is_said_is_what_is_there(prepared):
    said = summary(prepared)
    for name, about in said["lengths"].items():
        rows = prepared.rows(int(name))
        ids, lengths, row_tokens = rows.gather(range(len(rows)))
        assert (about["rows"], about["pieces"]) == (len(rows), len(lengths))
        assert about["tokens"] == len(ids)
        assert about["efficiency"] == len(ids) / (len(rows) * int(name))
    assert said["efficiency"] == min(a["efficiency"] for a in said["lengths"].values())
    assert said["rows"] * said["efficiency"] > 0 and said["documents"]["kept"] == len(
        prepared.documents
    )
    assert said["documents"]["cut"] == int(
        (prepared.documents["tokens"][~prepared.documents["held_out"]] > 126).sum()
    )
    assert prepared.about.dtype == "uint16"


def test_the_same_text_gives_the_same_bytes(prepared, library, tokenizer_folder, tmp_path):
    prepare(library, tokenizer_folder, tmp_path / "again", [1024, 128], held_out=0.1)
    assert tree(tmp_path / "again") == tree(prepared.directory)
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_held_out_by_hash(prepared, library, tokenizer_folder, tmp_path):
    """A document stays where it is when others come."""
    folder = tmp_path / "more"
    shutil.copytree(library, folder)
    (folder / "aaa.txt").write_text("Another text.")
    other = prepare(folder, tokenizer_folder, tmp_path / "set", [128], held_out=0.1)
    before = set(prepared.documents["hash"][prepared.documents["held_out"]].tolist())
    after = set(other.documents["hash"][other.documents["held_out"]].tolist())
    assert before <= after and len(after - before) <= 1


def test_weights_become_copies(tokenizer_folder, tmp_path):
    for name, count in (("a", 30), ("b", 60)):
        (tmp_path / name).mkdir()
        for i in range(count):
            (tmp_path / name / f"{i}.txt").write_text(f"{name} number {i:03}")
    (tmp_path / "m.toml").write_text(
        "weights = {a = 1, b = 1}\n"
        '[[source]]\nname = "a"\npath = "a"\nlicence = "CC0"\n'
        '[[source]]\nname = "b"\npath = "b"\n'
    )
    made = prepare(tmp_path / "m.toml", tokenizer_folder, tmp_path / "out", [64])
    assert [made.about.sources[name].licence for name in "ab"] == ["CC0", ""]
    assert made.about.sources["a"].copies == pytest.approx(1.5, abs=0.05)
    assert made.about.sources["b"].copies == pytest.approx(0.75, abs=0.05)
    a, b = (made.documents["copies"][made.documents["source"] == n] for n in (0, 1))
    assert set(a.tolist()) == {1, 2} and set(b.tolist()) == {0, 1}
    only = made.rows(64, sources=["b"])
    assert set(only.pieces["document"].tolist()) <= set(
        np.flatnonzero(made.documents["source"] == 1).tolist()
    )


def test_only_long_documents(prepared):
    rows = prepared.rows(1024, min_tokens=2000)
    tokens = prepared.documents["tokens"][rows.pieces["document"]]
    assert tokens.min() >= 2000 and len(rows) < len(prepared.rows(1024))


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        (
            {"seq_len": 512},
            "no rows of 512 tokens.*it has rows of 128 and 1024; .* --seq-len 128,512,1024$",
        ),
        ({"seq_len": 128, "sources": ["x"]}, "no source 'x'"),
        (
            {"seq_len": 128, "min_tokens": 10**9},
            "no documents match.*: min_tokens = 10+, sources = all",
        ),
    ],
)
def test_rows_that_are_not_there(prepared, choice, says):
    with pytest.raises(InputError, match=says):
        prepared.rows(choice.pop("seq_len"), **choice)


def test_lengths_that_are_not_there(prepared):
    says = "no rows of 256 or 512 tokens.*it has rows of 128 and 1024.* 128,256,512,1024$"
    with pytest.raises(InputError, match=says):
        prepared.check_lengths([512, 1024, 256, 512])
    prepared.check_lengths([1024, 128])


@pytest.mark.parametrize("trials", [55, pytest.param(220, marks=pytest.mark.slow)])
def test_damage_is_found_by_name(prepared, tmp_path, trials):
    """Bits flipped and ends cut off in every file, the manifest too: each is found, and named."""
    random.seed(5)
    names = sorted(p.name for p in prepared.directory.iterdir())
    folder = tmp_path / "set"
    shutil.copytree(prepared.directory, folder)
    PreparedDataset(folder)
    for trial in range(trials):
        name = names[trial % len(names)]
        good = (folder / name).read_bytes()
        if trial % 11 == 0:
            bad = good[: random.choice([len(good) - 1, random.randrange(len(good))])]
        else:
            bits = bytearray(good)
            bits[random.randrange(len(bits))] ^= 1 << random.randrange(8)
            bad = bytes(bits)
        (folder / name).write_bytes(bad)
        with pytest.raises((DamagedError, InputError)) as error:
            PreparedDataset(folder)
        assert name in str(error.value)
        (folder / name).write_bytes(good)
    PreparedDataset(folder)


def test_files_too_many_and_too_few(prepared, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(prepared.directory, folder)
    (folder / "more.txt").write_text("more")
    with pytest.raises(
        DamagedError, match=r"not in the directory's manifest.*more\.txt: delete it"
    ):
        PreparedDataset(folder)
    (folder / "more.txt").unlink()
    (folder / "documents.npy").unlink()
    with pytest.raises(DamagedError, match=r"is missing.*documents\.npy: copy it from"):
        PreparedDataset(folder)
    with pytest.raises(InputError, match="not a prepared dataset .motherbird.json is missing"):
        PreparedDataset(tmp_path)
    with pytest.raises(InputError, match="this is a file, not a directory.*set.json: use the dir"):
        PreparedDataset(prepared.directory / "set.json")
    with pytest.raises(InputError, match="directory does not exist"):
        PreparedDataset(tmp_path / "nowhere")


def test_a_manifest_that_is_missing_or_damaged(prepared, tmp_path):
    folder = tmp_path / "set"
    shutil.copytree(prepared.directory, folder)
    (folder / ".DS_Store").write_bytes(b"Bud1")
    with pytest.raises(
        DamagedError, match=r"not in the directory's manifest.*\.DS_Store: delete it"
    ):
        PreparedDataset(folder)
    (folder / ".DS_Store").unlink()
    content = (folder / MANIFEST).read_bytes()
    for changed in (content.replace(b"prepared-text", b"prepared_text"), content[:-9]):
        (folder / MANIFEST).write_bytes(changed)
        with pytest.raises(DamagedError, match=f"{MANIFEST}: copy it from its source again"):
            PreparedDataset(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(InputError, match=f"is missing.*motherbird prepare.*copy {MANIFEST} too"):
        PreparedDataset(folder)


def test_foreign_folders_are_left_alone(library, tokenizer_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputExistsError):
        prepare(library, tokenizer_folder, tmp_path / "out", [128])
    assert tree(tmp_path / "out") == {"mine.txt": b"mine"}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


COMMAND = """
import sys
from motherbird.data import corpus, parts, prepare
corpus.SHARD, parts.PART_BYTES, prepare.CHUNK = 1 << 16, 1 << 16, 1 << 14
prepare.prepare(sys.argv[1], sys.argv[2], sys.argv[3], [128, 1024], held_out=0.1)
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_again_and_again_it_gives_the_same_bytes(library, tokenizer_folder, tmp_path):
    """SIGKILL at moments of chance; what is found at last is what an unbroken run makes."""

    def start(out):
        return subprocess.Popen([sys.executable, "-c", COMMAND, library, tokenizer_folder, out])

    assert start(tmp_path / "whole").wait(120) == 0

    def files():
        return sum(len(names) for *_, names in os.walk(tmp_path / ".broken.unfinished"))

    random.seed(7)
    kills = 0
    while not (tmp_path / "broken").exists():
        process = start(tmp_path / "broken")
        enough = files() + random.randint(1, 12)
        while process.poll() is None and files() < enough:
            time.sleep(random.uniform(0, 0.004))
        if process.poll() is None and kills < 6:
            process.send_signal(signal.SIGKILL)
            kills += 1
        assert process.wait(120) in (0, -signal.SIGKILL)
    assert kills >= 3
    assert tree(tmp_path / "broken") == tree(tmp_path / "whole")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken", "whole"]


def test_two_at_once(library, tokenizer_folder, tmp_path):
    from motherbird.files import resumable_directory

    with (
        resumable_directory(tmp_path / "out", "prepared-text", {}),
        pytest.raises(
            InputError, match=f"another process .pid {os.getpid()} on .*is working on it"
        ),
    ):
        prepare(library, tokenizer_folder, tmp_path / "out", [128])


def test_bad_files_are_skipped_and_counted(tokenizer_folder, tmp_path, caplog):
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "good.txt").write_text("Good text.")
    (folder / "empty.txt").write_text("")
    (folder / "binary.txt").write_bytes(b"a\0b")
    (folder / "latin.txt").write_bytes(b"caf\xe9")
    made = prepare(folder, tokenizer_folder, tmp_path / "out", [16])
    assert summary(made)["documents"] == {
        "kept": 1, "held_out": 0, "cut": 0, "dropped": {}, "bad": 3,
    }  # fmt: skip
    for name in ("empty.txt", "binary.txt", "latin.txt, byte 3"):
        assert name in caplog.text
    with pytest.raises(DamagedError, match=r"binary\.txt"):
        prepare(folder, tokenizer_folder, tmp_path / "out2", [16], max_bad=0.0)
    with pytest.raises(DamagedError, match="3 of 4 documents cannot be read"):
        prepare(folder, tokenizer_folder, tmp_path / "out2", [16], max_bad=0.5)
    assert not (tmp_path / "out2").exists()


def test_a_broken_line_is_an_error_unless_allowed(tokenizer_folder, tmp_path):
    lines = [json.dumps({"text": f"text {i}"}) for i in range(200)]
    lines[122] = '{"text": '
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(DamagedError, match=r"a\.jsonl:123"):
        prepare(tmp_path / "a.jsonl", tokenizer_folder, tmp_path / "out", [16])
    made = prepare(tmp_path / "a.jsonl", tokenizer_folder, tmp_path / "out", [16], max_bad=0.01)
    assert summary(made)["documents"]["kept"] == 199


def test_equal_documents_are_kept_once(tokenizer_folder, tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in "abcabca"))
    made = prepare(tmp_path / "a.jsonl", tokenizer_folder, tmp_path / "out", [16])
    assert summary(made)["documents"]["kept"] == 3
    assert summary(made)["documents"]["dropped"] == {"equal to an earlier one": 4}


def test_nothing_is_left(tokenizer_folder, tmp_path):
    (tmp_path / "m.toml").write_text('[[source]]\nname = "a"\npath = "t.txt"\nmin_chars = 100\n')
    (tmp_path / "t.txt").write_text("short")
    with pytest.raises(
        DamagedError, match="no document is left: source 'a': too short .min_chars = 100.: 1"
    ):
        prepare(tmp_path / "m.toml", tokenizer_folder, tmp_path / "out", [16])


def test_a_full_disk_leaves_what_can_go_on(library, tokenizer_folder, tmp_path, monkeypatch):
    import errno

    from motherbird.data import prepare as module

    real, calls = module.write_file, []

    def full(path, write):
        calls.append(path)
        if path.name.startswith("tokens"):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(path, write)

    monkeypatch.setattr(module, "write_file", full)
    with pytest.raises(OSError, match="No space left"):
        prepare(library, tokenizer_folder, tmp_path / "out", [128], held_out=0.1)
    assert calls and not (tmp_path / "out").exists()
    monkeypatch.setattr(module, "write_file", real)
    monkeypatch.setattr("motherbird.data.corpus.build", None)  # that part is done
    assert len(prepare(library, tokenizer_folder, tmp_path / "out", [128]).rows(128)) > 100


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seq_lens": [2]}, "invalid row length 2"),
        ({"seq_lens": []}, "invalid row length 0"),
        ({"held_out": 1.0}, "invalid held-out fraction 1: use"),
        ({"seed": -1}, "invalid seed -1"),
        ({"tokenizer": "nowhere"}, "nowhere"),
        ({"text": "nowhere"}, "file or directory does not exist"),
    ],
)
def test_arguments_that_cannot_be_used(library, tokenizer_folder, tmp_path, change, says):
    given = {"text": library, "tokenizer": tokenizer_folder, "seq_lens": [128], **change}
    with pytest.raises(InputError, match=says):
        prepare(out=tmp_path / "out", **given)
    assert list(tmp_path.iterdir()) == []


def test_mixtures_refuse_what_makes_no_sense():
    for change, says in (
        ({"path": None}, "exactly one of"),
        ({"packages": ("pypi:x",)}, "exactly one of"),
        ({"code": ("cobol",)}, "'cobol' is not one of c, "),
        ({"max_tokens": -1}, "max_tokens = -1"),
        ({"encoding": "utf8mb4"}, "'utf8mb4' is unknown: .* such as utf-8, latin-1 or cp1252$"),
        ({"min_chars": 500, "max_chars": 100}, "^min_chars = 500 is more than max_chars = 100$"),
        ({"min_letters": 2.0}, "min_letters = 2.0"),
        ({"path": None, "packages": ("gem:x",)}, "'gem:x' is not pypi"),
        ({"path": None, "packages": ("npm:file:/x",)}, "is not pypi"),
        ({"path": None, "packages": ("npm:types/node",)}, "is not pypi"),
        ({"path": None, "packages": ("pypi:/x",)}, "is not pypi"),
        ({"path": None, "packages": ("deb:-oX=y",)}, "is not pypi"),
        ({"encoding": "hex"}, "'hex' is unknown"),
    ):
        with pytest.raises(InputError, match=says):
            Source(**{"name": "a", "path": "x", **change})
    a, b = Source("a", path="x", max_tokens=5), Source("b", path="x")
    for sources, weights, says in (
        ((), {}, "no .*source.* table"),
        ((a, a), {}, "two sources"),
        ((a, b), {"a": 1.0}, "'b' has none"),
        ((a, b), {"c": 1.0}, "weights.c: there is no such source"),
        ((b,), {"a": 1.0, "b": 1.0}, "weights.a: there is no such source"),
        ((b,), {"b": 0.0}, "weights.b = 0.0"),
        ((a,), {"a": 1.0}, "'a': weights and max_tokens exclude"),
    ):
        with pytest.raises(InputError, match=says):
            Mixture(source=sources, weights=weights)


def test_time_is_not_written_down(prepared):
    """Nothing in the manifest tells when or where: the same bytes tomorrow."""
    text = (prepared.directory / MANIFEST).read_text() + (
        prepared.directory / "set.json"
    ).read_text()
    assert str(time.localtime().tm_year) not in text and str(Path.home()) not in text


def test_a_set_behind_a_url(prepared, tmp_path):
    fetched = PreparedDataset.fetch(f"file://{prepared.directory}", tmp_path)
    assert fetched.directory == tmp_path / prepared.fingerprint
    assert tree(fetched.directory) == tree(prepared.directory)
    work = tmp_path / f".{prepared.fingerprint}.unfinished"  # as if killed before the end
    fetched.directory.rename(tmp_path / "set")
    work.mkdir()
    (work / "plan.json").write_text(json.dumps({"set": prepared.fingerprint}))
    (tmp_path / "set").rename(work / "set")
    (work / "set" / "documents.npy").rename(work / "set" / ".documents.npy.0.tmp")
    assert tree(PreparedDataset.fetch(f"file://{prepared.directory}", tmp_path).directory) == tree(
        prepared.directory
    )
    assert [p.name for p in tmp_path.iterdir()] == [prepared.fingerprint]
    with pytest.raises(InputError, match="there is no prepared dataset"):
        PreparedDataset.fetch(f"file://{tmp_path}/nowhere", tmp_path)


def test_ranks_fetch_a_set_together(prepared, tmp_path):
    code = (
        "import sys\nfrom motherbird.data.prepared import PreparedDataset\n"
        "print(len(PreparedDataset.fetch(sys.argv[1], sys.argv[2]).rows(128)))"
    )
    command = [sys.executable, "-c", code, f"file://{prepared.directory}", tmp_path]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {rank.communicate(timeout=60)[0] for rank in ranks}
    assert said == {f"{len(prepared.rows(128))}\n"}


def test_weights_far_from_what_there_is(tokenizer_folder, tmp_path):
    """A tiny source comes a hundred thousand times, and is counted as that."""
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("word " * 100_000)
    (tmp_path / "m.toml").write_text(
        'weights = {a = 3, b = 1}\n[[source]]\nname = "a"\npath = "a.txt"\n'
        '[[source]]\nname = "b"\npath = "b.txt"\n'
    )
    made = prepare(tmp_path / "m.toml", tokenizer_folder, tmp_path / "out", [64])
    copies = made.about.sources["a"].copies
    assert copies > 1 << 16 and abs(int(made.documents["copies"][0]) - copies) < 1


def test_a_damaged_set_behind_a_url(prepared, tmp_path):
    remote = tmp_path / "remote"
    shutil.copytree(prepared.directory, remote)
    (remote / "documents.npy").write_bytes(b"x")
    for _ in range(2):  # nothing damaged stays in the cache
        with pytest.raises(DamagedError, match=r"documents\.npy"):
            PreparedDataset.fetch(f"file://{remote}", tmp_path / "cache")
    manifest = json.loads((remote / MANIFEST).read_text())
    manifest["sha256"]["../evil"] = "0"
    (remote / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(DamagedError, match="outside the directory"):
        PreparedDataset.fetch(f"file://{remote}", tmp_path / "cache")
    assert not (tmp_path / "cache" / "evil").exists()
