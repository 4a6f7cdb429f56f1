"""data pairs and data negatives, as a user calls them."""

import json
import re

import pytest

from motherbird.cli.data_pairs import pairs
from motherbird.data.pairs import read_pairs


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_pairs_and_negatives(motherbird, sources, tmp_path, documented, has_shape):
    (sources / "broken.py").write_text("def f(:\n")
    out = tmp_path / "pairs.jsonl"
    try:
        said = motherbird("data", "pairs", sources, "--out", out, "--max", "40", "--json")
        text = motherbird("data", "pairs", sources, "--out", out, "--max", "40").out
    finally:
        (sources / "broken.py").unlink()
    report = said.json
    assert said.code == 0 and "1 file: " in said.err  # that is not Python
    assert [*report] == ["pairs", "seconds", "kinds", "sources"] and report["pairs"] == 40
    assert {*report["kinds"]} == {"docstring", "heading", "title", "question", "adjacent"}
    told = pairs.help[pairs.help.index("--json") :]
    for values in (report, *report["kinds"].values(), *report["sources"].values()):
        assert all(f'"{key}"' in told for key in values)
    assert report["kinds"]["docstring"]["kept"] == 40
    (source,) = report["sources"].values()
    assert source["bad_kinds"] == {"file": 1} and "broken.py:1" in source["bad_examples"][0]
    assert "pairs.jsonl: 40 pairs" in text and "more than --max" in text and "broken.py:1" in text
    found = rows(out)
    assert len(found) == 40 and all(
        [*row] == ["query", "positive", "kind", "source"] for row in found
    )
    assert not any(str(tmp_path.parent) in row["source"] for row in found)

    pytest.importorskip("bm25s")
    mined = tmp_path / "train.jsonl"
    said = motherbird("data", "negatives", out, "--out", mined, "--count", "3", "--json").done()
    (shape,) = [one for one in documented("data", "negatives") if isinstance(one, dict)]
    assert has_shape(said.json, shape) and said.json["rows"] == said.json["candidates"] == 40
    new = rows(mined)
    assert [(row["query"], row["positive"]) for row in new] == [
        (row["query"], row["positive"]) for row in found
    ]
    assert all(
        row["positive"] not in row["negatives"] and len(row["negatives"]) <= 3 for row in new
    )
    assert sum(len(row["negatives"]) for row in new) == said.json["negatives"] > 40
    read = read_pairs([mined])  # as finetune dense does
    assert read.documents == [[row["positive"], *row["negatives"]] for row in new]
    assert said.json["fewer"] == sum(len(row["negatives"]) < 3 for row in new)


def test_negatives_by_a_model(motherbird, model, tmp_path):
    given, corpus = tmp_path / "pairs.jsonl", tmp_path / "corpus.csv"
    given.write_text("".join(
        json.dumps({"ask": f"what is {n}", "positive": f"{n} is a number"}) + "\n" for n in range(6)
    ))  # fmt: skip
    corpus.write_text("text\nanother document\n")
    out = tmp_path / "train.jsonl"
    text = motherbird("data", "negatives", given, "--out", out, "--corpus", corpus, "--by", model,
                      "--count", "3", "--from-rank", "1", "--margin", "2",
                      "--query", "ask").done().out  # fmt: skip
    assert re.search(r"train.jsonl: 6 rows, \d+ negatives among 7 documents, ", text)
    assert {len(row["negatives"]) for row in rows(out)} <= {0, 1, 2, 3}
    assert all(row["positive"] not in row["negatives"] for row in rows(out))
    motherbird("data", "negatives", given, "--out", out, "--query", "ask", "--by", tmp_path
               ).refused()  # fmt: skip


def test_negatives_of_rows_with_labels(motherbird, model, tmp_path):
    """A list that is not of scores."""
    given, out = tmp_path / "pairs.jsonl", tmp_path / "train.jsonl"
    rows_ = [{"query": f"what is {n}", "positive": f"{n} is", "labels": []} for n in range(3)]
    given.write_text("".join(json.dumps(row) + "\n" for row in rows_))
    motherbird("data", "negatives", given, "--out", out, "--by", model).done()
    assert len(rows(out)) == 3


GOOD = '{"query": "one two", "positive": "three four five"}\n'


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pairs", "{0}", "--out", "{0}"], "the output is the input.*pairs"),
        (["pairs", "{0}", "--out", "new.txt"], "--out is not a .jsonl file"),
        (["pairs", ".", "--out", "new.jsonl"], "the output is inside the input"),
        (["pairs", "missing", "--out", "new.jsonl"], "does not exist: missing"),
        (["pairs", "{0}", "--out", "new.jsonl", "--kind", "x"], "there is no kind 'x': use docstr"),
        (["pairs", "{0}", "--out", "new.jsonl", "--exclude", "no"], "exclude: the file or dir.*no"),
        (["pairs", "{0}", "--out", "{0}", "--exclude", "{0}"], "the output is the input"),
        (["negatives", "{0}", "--out", "{0}"], "the output is the input"),
        (["negatives", "{0}", "--out", "n.jsonl", "--corpus", "n.jsonl"], "output is the input"),
        (["negatives", "{0}", "--out", "n.jsonl", "--to-rank", "1"], "--to-rank 1 is before"),
        (["negatives", "{0}", "--out", "n.jsonl", "--query", "x"], 'no column is called "x".*:1'),
        (["negatives", "missing", "--out", "n.jsonl"], "does not exist: missing"),
        (["negatives", "{0}", "--out", "n.jsonl", "--corpus", "missing"], "not exist: missing"),
        (["negatives", "{0}", "--out", "n.jsonl", "--by", "missing"], "missing"),
    ],
)  # fmt: skip
def test_what_is_refused(arguments, says, motherbird, tmp_path, monkeypatch, tree):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(GOOD)
    before = tree(tmp_path)
    motherbird("data", *(each.format("pairs.jsonl") for each in arguments)).refused(says)
    assert tree(tmp_path) == before


def test_no_pair(motherbird, tmp_path):
    (tmp_path / "a.py").write_text("def f(:\n")
    out = tmp_path / "new.jsonl"
    says = r"there is no pair: a.py: 1 file without usable text \(a.py:1 \(not Python"
    warning = r"WARNING: skipped in a.py: 1 file: [^\n]+\n"
    motherbird("data", "pairs", tmp_path / "a.py", "--out", out).refused(says, 1, warning)
    assert not out.exists()
