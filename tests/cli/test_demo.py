"""motherbird demo: everything, on a little text and in seconds; and what it refuses."""

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from motherbird.files import MANIFEST, check_files, read_manifest

QUESTION = "parse command line options"


@pytest.fixture(scope="session")
def demo(sources, tmp_path_factory):
    """The directory of a demo, its output, and its JSON."""
    home = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "motherbird", "demo", "--text", sources, "--out", "made",
         "--minutes", "0.12", "--question", QUESTION, "--question", "é 😀", "--threads", "2",
         "--json"],
        capture_output=True, text=True, encoding="utf-8", cwd=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return home / "made", done.stderr, json.loads(done.stdout)


def test_the_json_is_as_documented(demo, documented, has_shape):
    folder, _, report = demo
    whole, fills, searches = documented("demo")
    assert has_shape(report, whole)
    assert has_shape(report["fills"], fills) and has_shape(report["searches"], searches)
    assert has_shape(report["nano_fills"], fills) and report["nano_fills"] != report["fills"]
    assert report["out"] == "made"
    assert report["documents"] >= 5 and 0.1 < report["megabytes"] < 1
    assert report["vocabulary"] in (512, 1024, 2048, 4096)
    assert report["steps"] > 0 and report["tokens_per_second"] > 0
    assert 0 < report["held_out_loss"] < 10
    assert report["gain"] == pytest.approx(report["unigram_entropy"] - report["held_out_loss"])
    assert all(
        "[MASK]" in fill["text"] and len(fill["candidates"]) == 3 for fill in report["fills"]
    )
    assert [search["question"] for search in report["searches"]] == [QUESTION, "é 😀"]
    for search in report["searches"]:
        scores = [hit["score"] for hit in search["hits"]]
        assert scores == sorted(scores, reverse=True) and len(scores) == 3
        assert all(Path(hit["source"]).is_file() for hit in search["hits"])


def test_what_it_says_meanwhile(demo):
    """With --json all output is on standard error, without warnings."""
    _, said, report = demo
    lines = said.splitlines()
    assert [line[:4] for line in lines if line[1:4] == "/5 "] == [f"{n}/5 " for n in range(1, 6)]
    assert any(line.startswith("    100%  loss") for line in lines)
    assert f"{report['held_out_loss']:.2f} nats" in said
    assert "Saved in made" in said
    assert not re.search(r"gives -\d+\.\d+ nats", said)
    assert not [line for line in lines if "WARNING" in line or "error" in line.lower()[:8]]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_on_a_terminal_and_lines_elsewhere(terminal, toy, small_tokenizer, monkeypatch):
    """Both together would overlap."""
    from motherbird.cli import demo_steps
    from motherbird.data.loader import Cursor
    from motherbird.nn import MaskedLM
    from motherbird.train.health import Verdict
    from motherbird.train.state import Progress
    from motherbird.train.step import StepReport

    said = []

    def train(*arguments, on_step, **options):
        for number in range(1, 31):
            progress = Progress(Cursor(0), step=number, tokens=number)
            report = StepReport(progress, 1.0, 5.0, 1.0, 1, 1, Verdict("apply"))
            on_step(report, number / 30)
        assert [line.split("%")[0].strip() for line in said] == (
            [] if terminal else [str(10 * n) for n in range(1, 11)]
        )

    monkeypatch.setattr("motherbird.train.loop.train", train)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    # Unwrapped, because types are not checked then: this train returns None.
    inspect.unwrap(demo_steps._train)(MaskedLM(toy), [], small_tokenizer, 0, 1.0, said.append)


def test_the_folder(demo):
    folder, _, _ = demo
    assert [p.name for p in folder.parent.iterdir()] == ["made"]
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert files >= {
        "config.json", "model.safetensors", "tokenizer.json", "modules.json", "README.md",
        "1_Pooling/config.json", "search/config.json", "search/model.safetensors", MANIFEST,
    }  # fmt: skip
    manifest = read_manifest(folder)
    assert manifest["kind"] == "demo" and set(manifest["sha256"]) == files - {MANIFEST}
    check_files(folder, sorted(manifest["sha256"]))


def test_the_other_commands_work_on_it(demo, motherbird, tmp_path):
    folder, _, report = demo
    result = motherbird("fill-mask", "import [MASK]", "--model", folder, "--json").done().json
    assert len(result["masks"][0]) == 5
    (tmp_path / "questions.txt").write_text(f"{QUESTION}\nanother\n")
    result = motherbird("embed", tmp_path / "questions.txt", "--model", folder,
                        "--out", tmp_path / "vectors.npy", "--json").done().json  # fmt: skip
    assert (result["texts"], result["dimensions"]) == (2, 192)
    assert np.isfinite(np.load(tmp_path / "vectors.npy")).all()
    for part in (folder, folder / "search"):
        info = motherbird("info", part, "--json").done().json
        assert info["tokenizer"]["entries"] == report["vocabulary"]


def test_the_masked_lm_is_the_same_in_transformers(demo):
    transformers = pytest.importorskip("transformers")
    from motherbird import MaskedLM as FillMask
    from motherbird import tokenizer

    folder, _, _ = demo
    text = "def __init__([MASK], name):"
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(folder)
    words = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = words(text, return_tensors="pt")
    assert inputs["input_ids"][0].tolist() == tokenizer(folder).encode_masked(text)
    place = inputs["input_ids"][0].tolist().index(words.mask_token_id)
    wanted = theirs(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    best = wanted.logits[0, place].softmax(-1).topk(5)
    (ours,) = FillMask.load(folder, dtype="stored").fill(text, 5)
    assert [c.token_id for c in ours] == best.indices.tolist()
    assert [c.probability for c in ours] == pytest.approx(best.values.tolist(), rel=1e-3)


def test_the_search_is_the_same_in_sentence_transformers(demo):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    from motherbird import Embedder

    texts = [QUESTION, "for x in range(10):\n    print(x)\n", "é 😀"]
    theirs = sentence_transformers.SentenceTransformer(str(demo[0]), device="cpu")
    ours = Embedder.load(demo[0], dtype="stored")
    np.testing.assert_allclose(ours.embed(texts), theirs.encode(texts), atol=1e-4)


def test_it_replaces_its_own_folder(demo, sources, motherbird, tmp_path, tree):
    out = tmp_path / "made"
    shutil.copytree(demo[0], out)
    before = tree(out)
    said = motherbird("demo", "--text", sources, "--out", out, "--minutes", "0.1", "--seed", "1",
                      "--threads", "2").done().out  # fmt: skip
    after = tree(out)
    assert set(after) == set(before)
    assert after["model.safetensors"] != before["model.safetensors"]
    assert [p.name for p in tmp_path.iterdir()] == ["made"]
    # For the user's own text the questions are words from it.
    assert f'motherbird fill-mask "import [MASK]" --model {out}' in said
    assert said.count("\n      0.") >= 9  # three searches of three hits


# --- refused before any work

READING = r"(1/5 reading [^\n]+\n)?"


def refused(motherbird, says, *arguments, code=2):
    result = motherbird("demo", "--minutes", "0.1", *arguments).refused(says, code)
    assert re.fullmatch(READING, result.out)  # nothing was trained
    error = motherbird("demo", "--minutes", "0.1", *arguments, "--json")
    assert set(error.refused(says, code, after=READING).json) == {"error"}
    return result


def test_a_foreign_folder(motherbird, sources, tmp_path, tree, model):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    shutil.copytree(model, tmp_path / "ours")
    (tmp_path / "ours" / "notes.txt").write_text("mine")
    shutil.copytree(model, tmp_path / "model")
    manifest = tmp_path / "ours" / "motherbird.json"
    manifest.write_text(manifest.read_text().replace('"kind": "model"', '"kind": "demo"'))
    (tmp_path / "file").write_text("mine")
    before = tree(tmp_path)
    for name, says in {
        "mine": "not created by motherbird.*mine",
        "ours": "also contains 'notes.txt'",
        "model": "is a saved model, not a demo",
        "file": "not a directory.*file",
        "nowhere/deep": "does not exist.*nowhere",
    }.items():
        result = refused(motherbird, says, "--text", sources, "--out", tmp_path / name)
        assert result.out == ""  # not even read
    assert tree(tmp_path) == before


def test_a_folder_made_by_another_command_is_not_replaced_lightly(
    motherbird, sources, tmp_path, tree, model
):
    """A demo does not replace a model."""
    shutil.copytree(model, tmp_path / "mine")
    before = tree(tmp_path)
    refused(motherbird, "mine", "--text", sources, "--out", tmp_path / "mine")
    assert tree(tmp_path) == before


def test_the_output_inside_the_text(motherbird, sources, monkeypatch, tree):
    before = tree(sources)
    monkeypatch.chdir(sources)  # as with motherbird demo --text .
    refused(motherbird, "(is|inside) the input", "--text", ".")
    refused(motherbird, "(is|inside) the input", "--text", sources, "--out", sources)
    assert tree(sources) == before


def test_text_that_cannot_be_learned_from(motherbird, tmp_path, tree):
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "a.txt").write_bytes(os.urandom(100_000))
    (tmp_path / "little.txt").write_text("A short text.\n" * 100)
    (tmp_path / "same.txt").write_text("ab " * 100_000)
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": 5}\n')
    before = tree(tmp_path)
    out = ("--out", tmp_path / "made")
    refused(
        motherbird,
        "file or directory does not exist.*nowhere",
        "--text",
        tmp_path / "nowhere",
        *out,
    )
    refused(motherbird, "no text was found.*empty", "--text", tmp_path / "empty", *out)
    refused(motherbird, "too little.*little.txt", "--text", tmp_path / "little.txt", *out)
    refused(motherbird, "too small.*vocabulary", "--text", tmp_path / "same.txt", *out)
    refused(motherbird, r"bad\.jsonl:2", "--text", tmp_path / "bad.jsonl", *out, code=1)
    result = motherbird("demo", "--text", tmp_path / "binary", *out)
    assert result.code == 2 and "error: no text was found" in result.err
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--minutes", "0"], "--minutes.*0"),
        (["--minutes", "0.01"], "--minutes.*0.1"),
        (["--minutes", "nan"], "--minutes"),
        (["--minutes", "inf"], "--minutes"),
        (["--minutes", "three"], "--minutes.*'three'"),
        (["--question", ""], "question"),
        (["--question", "good", "--question", "  "], "question"),
        (["--threads", "0"], "--threads"),
        (["--text", ""], "text"),
    ],
    ids=str,
)
def test_options_that_are_impossible(arguments, says, motherbird, sources, tmp_path, tree):
    call = ["demo", "--out", tmp_path / "made"]
    call += [] if "--text" in arguments else ["--text", sources]
    call += [] if "--minutes" in arguments else ["--minutes", "0.1"]
    result = motherbird(*call, *arguments)
    result.refused(says)
    assert result.out == "" and tree(tmp_path) == {}
