"""Questions with known answers: the metrics, and how well this repository is searched."""

import json
import math
from pathlib import Path

import pytest

from motherbird.errors import InputError
from motherbird.search.evaluate import Question, Target, evaluate, read_questions
from motherbird.search.index import Index
from motherbird.search.lookup import Hit

HERE = Path(__file__).parent


def hit(path, start, end):
    return Hit(path, start, end, "", "function", 1.0, "")


@pytest.mark.parametrize(
    "target, found",
    [
        (Target("a.py"), True), (Target("b.py"), False), (Target("src/a.py"), True),
        (Target("c/src/a.py"), False), (Target("a.py", 20, 30), True), (Target("xa.py"), False),
        (Target("a.py", 1, 10), True), (Target("a.py", 1, 9), False),
        (Target("a.py", 21, 30), False),
    ],
)  # fmt: skip
def test_a_hit_of_a_target(target, found):
    assert target.is_in(hit("src/a.py", 10, 20)) is found


def test_metrics(folder):
    index = Index.open(folder, None)
    paths = list(dict.fromkeys(hit.path for hit in index.search("open session", 10).hits))

    def scores(*targets, category=""):
        question = Question("open session", tuple(map(Target, targets)), category)
        return evaluate(index, [question], "bm25")

    first = scores(paths[0])["all"]
    assert (first["nDCG@10"], first["hit@1"], first["hit@5"]) == (1.0, 1.0, 1.0)
    found = scores("nothing.py", paths[0], category="how")
    assert found.keys() == {"all", "how"}
    assert found["how"]["nDCG@10"] == pytest.approx(1 / (1 + 1 / math.log2(3)))
    assert scores("nothing.py")["all"]["nDCG@10"] == 0.0
    last = scores(paths[-1])["all"]
    assert 0 < last["nDCG@10"] < 1 and last["hit@1"] == 0.0


def test_reading(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [
        {"question": "a", "relevant": ["x.py"], "secondary": [{"path": "y.py", "start_line": 3,
                                                               "end_line": 4}]},
        {"query": "b", "relevant": ["z.py"], "category": "how"},
    ]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    found = read_questions(path)
    assert found == [
        Question("a", (Target("x.py"), Target("y.py", 3, 4))),
        Question("b", (Target("z.py"),), "how"),
    ]  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(rows))
    assert read_questions(path.with_suffix(".json")) == found
    for row, says in (
        ({"relevant": ["x"]}, '"query"'), ({"query": "a"}, '"relevant"'), ([], "an object"),
        ({"query": "a", "relevant": [3]}, "3 is not a path"),
    ):  # fmt: skip
        path.write_text("{}" if row is None else json.dumps(row))
        with pytest.raises(InputError, match=says):
            read_questions(path)
    path.write_text("")
    with pytest.raises(InputError, match="no question"):
        read_questions(path)


@pytest.mark.slow
def test_this_repository():
    """By full text alone; docs/search.md has the figures with vectors."""
    root = HERE.parents[1]
    if not (root / "recipes").is_dir():
        pytest.skip("the tests are not in a checkout")
    questions = read_questions(HERE / "questions.jsonl")
    assert len(questions) >= 40
    index = Index.open(root, None)
    index.refresh()
    found = evaluate(index, questions, "bm25")["all"]
    index.close()
    assert found["hit@5"] >= 0.85, found
