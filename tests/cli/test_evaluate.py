"""The command `evaluate lm`: a table, JSON, and errors."""

import pytest

from motherbird import nn
from motherbird.data.prepare import prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory, small_tokenizer):
    """A dataset with a large held-out part."""
    home = tmp_path_factory.mktemp("evaluate")
    (home / "text").mkdir()
    for number in range(40):
        words = " ".join(f"Document {number} says {n} things." for n in range(number, number + 90))
        (home / "text" / f"{number}.txt").write_text(words)
    small_tokenizer.save(home / "tokenizer")
    prepare(home / "text", home / "tokenizer", home / "set", [64, 128], held_out=0.3)
    return home / "set"


def test_a_table_with_a_line_for_each_source(motherbird, data, model):
    found = motherbird("evaluate", "lm", "--model", model, "--data", data, "--seq-len", 64)
    lines = found.done().out.splitlines()
    assert lines[0].split() == ["source", "loss", "gain", "accuracy", "masked"]
    assert len(lines) == 3 and lines[-1].startswith("all ")


def test_json(motherbird, data, model):
    report = motherbird(
        "evaluate", "lm", "--model", model, "--data", data, "--seq-len", 128,
        "--masking", 0.3, "--json",
    ).done().json  # fmt: skip
    assert report["masking"] == 0.3 and report["seq_len"] == 128
    every = report["sources"]["all"]
    keys = {"loss", "accuracy", "masked", "unigram", "bytes_per_token", "nats_per_byte"}
    assert set(every) == keys
    assert every["nats_per_byte"] == pytest.approx(every["loss"] / every["bytes_per_token"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--seq-len", 512], "no rows of 512 tokens"),
        (["--masking", 1.5], "--masking"),
        (["--data", "nowhere"], "nowhere"),
        (["--model", "nowhere"], "nowhere"),
    ],
)
def test_refused(motherbird, data, model, options, says):
    given = ["--model", model, "--data", data, "--seq-len", 64, *options]
    motherbird("evaluate", "lm", *given).refused(says)


def test_nothing_masked_is_null_and_a_dash(motherbird, data, model):
    call = ("evaluate", "lm", "--model", model, "--data", data, "--seq-len", 64)
    call += ("--masking", 1e-9)
    out = motherbird(*call).done().out
    assert "0.000" not in out
    for line in out.splitlines()[1:]:
        assert line.split()[1:] == ["-", "-", "-", "0"]
    for each in motherbird(*call, "--json").done().json["sources"].values():
        assert each.pop("masked") == 0 and set(each.values()) == {None}


@pytest.mark.parametrize(
    ("held_out", "says"),
    [
        (0.0, "no held-out documents: .*: prepare it again with --eval 0.01"),
        (1e-9, r"no held-out documents \(--eval 1e-09 chose none\): .*: .* a larger --eval"),
    ],
)
def test_nothing_is_held_out(held_out, says, motherbird, model, data, tmp_path):
    text, tokenizer = data.parent / "text", data.parent / "tokenizer"
    prepare(text, tokenizer, tmp_path / "set", [64], held_out=held_out)
    call = ("evaluate", "lm", "--model", model, "--data", tmp_path / "set", "--seq-len", 64)
    motherbird(*call).refused(says)


def test_a_model_without_a_head(motherbird, data, model, tmp_path):
    nn.Encoder.load(model).save(tmp_path / "bare")
    found = motherbird("evaluate", "lm", "--model", tmp_path / "bare", "--data", data)
    found.refused("this model cannot predict tokens.*use one with a masked-LM head")
