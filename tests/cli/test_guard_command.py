"""motherbird guard: a line of JSON for each text, in order, and an exit code that can be used."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from motherbird import EncoderConfig, Guard, nn
from motherbird.nn import checkpoint

TEXTS = ["A short text.", "The secret plan.", "", "é 😀", "s e c r e t", "z" * 90]


@pytest.fixture(scope="module")
def folder(small_tokenizer, tmp_path_factory):
    """A directory with a classifier of random weights and a policy."""
    token = {f"{role}_token_id": small_tokenizer.id_of(role) for role in ("cls", "sep", "pad")}
    config = EncoderConfig(
        1024, 32, 48, 4, 2, max_position_embeddings=512, local_attention=16,
        bos_token_id=token["cls_token_id"], eos_token_id=token["sep_token_id"], **token,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("guard")
    torch.manual_seed(0)
    model = nn.SequenceClassifier(replace(config, initializer_range=0.3), ("benign", "jailbreak"))
    checkpoint.save(model, folder / "model", tokenizer=small_tokenizer)
    (folder / "policy.toml").write_text(
        "max_chars = 80\n"
        '[classifiers.injection]\nmodel = "model"\nlabels = ["jailbreak"]\nthreshold = 0.5\n'
        'action = "flag"\n[patterns.plans]\nwords = ["secret"]\n'
    )
    (folder / "words.toml").write_text('[patterns.plans]\nwords = ["secret"]\n')
    return folder


@pytest.fixture
def call(motherbird, folder):
    def run(file, *options, policy="policy.toml", stdin=b""):
        place = folder / policy
        return motherbird("guard", file, "--policy", place, *options, stdin=stdin)

    return run


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_decisions_are_those_of_python(call, folder, tmp_path, documented, has_shape):
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"prompt": t}) + "\n" for t in TEXTS))
    out = tmp_path / "out.jsonl"
    out.write_text("an older result")
    options = ("--column", "prompt", "--dtype", "float32", "--out", out, "--json")
    summary = call(tmp_path / "in.jsonl", *options).done().json
    found = lines(out.read_text("utf-8"))
    for row, wanted in zip(
        found, Guard.load(folder / "policy.toml", dtype="float32").check(TEXTS), strict=True
    ):
        assert list(row) == ["decision", "reasons", "unscanned"]
        assert row["decision"] == wanted.decision
        for reason, own in zip(row["reasons"], wanted.reasons, strict=True):
            assert list(reason) == ["rule", "action", "label", "probability", "spans"]
            assert (reason["rule"], reason["action"]) == (own.rule, own.action)
            assert reason["spans"] == [
                {"start": s.start, "end": s.end, "text": s.text} for s in own.spans
            ]
            assert reason["probability"] == pytest.approx(own.probability, abs=1e-5)
        assert [u["start"] for u in row["unscanned"]] == [u.start for u in wanted.unscanned]
    decisions = [row["decision"] for row in found]
    assert decisions[1] == decisions[2] == decisions[4] == decisions[5] == "block"
    assert has_shape(summary | {"decisions": None}, documented("guard")[-1])
    assert summary["decisions"] == {name: decisions.count(name) for name in decisions}
    assert (summary["texts"], summary["truncated"], summary["side"]) == (6, 1, "input")


def test_lines_of_text_and_exit_codes(call):
    data = "\n".join(TEXTS[:2]).encode()
    done = call("-", policy="words.toml", stdin=data)
    assert done.code == 0 and [row["decision"] for row in lines(done.out)] == ["allow", "block"]
    assert done.err.startswith("2 texts, ") and "allow 1, block 1" in done.err
    failed = call("-", "--fail", policy="words.toml", stdin=data)
    assert failed.code == 1 and failed.out == done.out and "error" not in failed.err
    assert call("-", "--fail", policy="words.toml", stdin=b"fine").code == 0
    empty = call("-", "--fail", policy="words.toml", stdin=b"fine\n\nfine\n")
    assert [row["decision"] for row in lines(empty.out)] == ["allow", "block", "allow"]


def test_what_cannot_be_used(call, motherbird, folder, tmp_path, tree):
    (tmp_path / "in.txt").write_text("a\n")
    (tmp_path / "latin.txt").write_bytes(b"a\ncaf\xe9\n")
    (tmp_path / "bad.toml").write_text("[patterns.x]\nword = ['x']\n")
    (tmp_path / "out.jsonl").write_text("an older result")
    before, text = tree(tmp_path), tmp_path / "in.txt"
    motherbird("guard", text).refused("Missing option '--policy'")
    call(text, policy="nothing.toml").refused(r"cannot read the file.*nothing\.toml")
    motherbird("guard", text, "--policy", tmp_path / "bad.toml").refused(
        r"unknown key patterns\.x\.word .*did you mean patterns\.x\.words.*bad\.toml"
    )
    call(tmp_path / "nothing.txt").refused("does not exist")
    call(tmp_path / "latin.txt", "--out", tmp_path / "out.jsonl").refused(
        r"UTF-8.*latin\.txt", code=1
    )
    call(text, "--side", "both").refused("--side")
    call(text, "--out", folder / "model" / "out.jsonl").refused("input")
    call(text, "--out", text).refused("not a .jsonl file")
    call(text, "--column", "text").refused("--column is for tables")
    assert tree(tmp_path) == before


def test_it_runs_without_torch(folder):
    code = (
        "import sys; sys.modules['torch'] = None; from motherbird import Guard;"
        "print(Guard.load(sys.argv[1]).check(['The secret plan.'])[0].decision)"
    )
    call = [sys.executable, "-c", code, folder / "policy.toml"]
    assert subprocess.check_output(call, text=True) == "block\n"
