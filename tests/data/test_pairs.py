"""Rows of queries and documents: columns, scores, and rows that are set aside."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird import InputError
from motherbird.data.pairs import PairColumns, Pairs, read_pairs, split_off


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_usual_names_of_columns_and_lists(tmp_path):
    one = write(tmp_path / "a.jsonl", [
        {"query": "q", "positive": "p", "negative": "n"},
        {"query": "q", "positive": "p", "negative": ["n", "m"]},
        {"query": "q", "positive": "p", "negative": []},
    ])  # fmt: skip
    two = tmp_path / "b.csv"
    two.write_text("anchor,document\nr,s\n")
    found = read_pairs([one, two])
    assert found.queries == ["q", "q", "q", "r"]
    assert found.documents == [["p", "n"], ["p", "n", "m"], ["p"], ["s"]]
    assert found.scores == [] and len(found) == 4
    assert [where.rsplit("/")[-1] for where in found.where] == [
        "a.jsonl:1", "a.jsonl:2", "a.jsonl:3", "b.csv:2",
    ]  # fmt: skip
    assert read_pairs([one], negatives=1).documents == [["p", "n"], ["p", "n"], ["p"]]
    assert read_pairs([one], negatives=0).documents == [["p"], ["p"], ["p"]]


def test_columns_that_are_named(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"query": "q", "ask": "a", "positive": "p", "tell": "t"}])
    found = read_pairs([path], PairColumns("ask", "tell"))
    assert (found.queries, found.documents) == (["a"], [["t"]])
    with pytest.raises(
        InputError, match='no column is called "other": .*a.jsonl:1: set --query to'
    ):
        read_pairs([path], PairColumns("other"))
    with pytest.raises(InputError, match='no column is called "other".*--negative'):
        read_pairs([path], PairColumns(negative="other"))


def test_scores_of_every_document(tmp_path):
    row = {"query": "q", "documents": ["a", "b", "c"], "scores": [3, 1.5, -2]}
    found = read_pairs([write(tmp_path / "a.jsonl", [row])])
    assert (found.documents, found.scores) == ([["a", "b", "c"]], [[3.0, 1.5, -2.0]])
    cut = read_pairs([tmp_path / "a.jsonl"], negatives=1)
    assert (cut.documents, cut.scores) == ([["a", "b"]], [[3.0, 1.5]])


@pytest.mark.parametrize("value", ["[1, 0.5]", 1, None])
def test_scores_that_are_no_list(value, tmp_path):
    """They are an error if their column was named."""
    row = {"query": "q", "documents": ["a", "b"], "teacher": value, "label": 1, "labels": value}
    path = write(tmp_path / "a.jsonl", [row])
    assert read_pairs([path]).scores == []
    type_ = {"[1, 0.5]": "a string", 1: "a number", None: "null"}[value]
    for name in ("teacher", "labels"):
        says = f'"{name}" is {type_}, not a list of numbers: .*a.jsonl:1'
        with pytest.raises(InputError, match=says):
            read_pairs([path], PairColumns(scores=name))


def test_scores_are_not_read_where_they_are_not_used(tmp_path):
    row = {"query": "q", "positive": "p", "negative": "n", "scores": ["fruit"], "labels": [1]}
    path = write(tmp_path / "a.jsonl", [row, {"query": "q", "positive": "p"}])
    with pytest.raises(InputError, match='"scores" has 1 score for 2 documents'):
        read_pairs([path])
    found = read_pairs([path], scored=False)
    assert (found.documents, found.scores) == ([["p", "n"], ["p"]], [])


GOOD = {"query": "q", "positive": "p"}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"query": " ", "positive": "p"}, '"query" is empty: .*:2'),
        ({"query": "q", "positive": ""}, '"positive" is empty: .*:2'),
        ({"query": None, "positive": "p"}, '"query" is null, not a text: .*:2'),
        ({"query": ["q"], "positive": "p"}, '"query" is a list, not a text: .*:2'),
        ({"query": "q", "positive": []}, '"positive" has no document: .*:2'),
        ({"query": "q", "positive": "p", "negative": ["n", 3]}, '"negative" is a number.*:2'),
        ({"query": "q", "positive": "p", "negatives": ["n", ""]}, '"negatives" is empty: .*:2'),
        ({"query": "q"}, "no column is a document by its name: .*:2"),
        ({"query": "q", "documents": ["a", "b"], "scores": [1]}, "1 score for 2 documents: .*:2"),
        ({"query": "q", "documents": ["a"], "scores": ["x"]}, "other than finite numbers: .*:2"),
        ({"query": "q", "documents": ["a"], "scores": [1]}, "1 of 2 rows have scores: .*all rows"),
    ],
)  # fmt: skip
def test_rows_that_are_refused(row, says, tmp_path):
    path = write(tmp_path / "a.jsonl", [GOOD, row])
    with pytest.raises(InputError, match=says):
        read_pairs([path])


def test_files_that_are_refused(tmp_path):
    with pytest.raises(InputError, match="there are no rows: .*a.jsonl"):
        read_pairs([write(tmp_path / "a.jsonl", [])])
    with pytest.raises(InputError, match="does not exist"):
        read_pairs([tmp_path / "b.jsonl"])


def of(queries):
    count = range(len(queries))
    return Pairs(queries, [[f"d{n}"] for n in count], [], [f"a:{n}" for n in count])


@given(
    queries=st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=40),
    seed=st.integers(0, 5), fraction=st.floats(0, 1), most=st.integers(1, 9),
)  # fmt: skip
def test_no_query_is_on_both_sides(queries, seed, fraction, most):
    pairs = of(queries)
    count = len({*queries})
    if max(1, min(most, int(fraction * count))) >= count:
        with pytest.raises(InputError, match="too few to set some aside: pass --dev"):
            split_off(pairs, fraction, seed, most)
        return
    train, dev = split_off(pairs, fraction, seed, most)
    assert not {*train.queries} & {*dev.queries}
    assert sorted(train.where + dev.where) == sorted(pairs.where)
    assert 1 <= len({*dev.queries}) <= most
    again = split_off(pairs, fraction, seed, most)
    assert (again[0].where, again[1].where) == (train.where, dev.where)


def test_scores_stay_with_their_rows():
    pairs = Pairs(["a", "b", "c"], [["x"]] * 3, [[1.0], [2.0], [3.0]], ["1", "2", "3"])
    train, dev = split_off(pairs, 0.5, 0, 1)
    for part in (train, dev):
        assert [f"{score:.0f}" for [score] in part.scores] == part.where
