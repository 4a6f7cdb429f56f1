"""Labelled data: columns, labels, errors with their line, and the division for evaluation."""

import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird.core.spans import scheme_of
from motherbird.data.labelled import (
    Columns,
    Labelled,
    check_training,
    from_records,
    read_labelled,
    split_off,
)
from motherbird.data.readers.document import Record
from motherbird.errors import InputError


def put(folder, *rows, name="train.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- columns


@pytest.mark.parametrize(
    ("task", "names", "expected"),
    [
        ("classify", ["text", "label"], ("text", "label")),
        ("classify", ["Category", "Message"], ("Message", "Category")),
        ("classify", ["text", "content", "label", "category"], ("text", "label")),
        ("score", ["text_a", "text_b", "score", "label"], ("text_a", "text_b", "score")),
        ("score", ["idx", "question", "sentence", "label"], ("question", "sentence", "label")),
        ("score", ["query", "document", "label"], ("query", "document", "label")),
        ("score", ["pair_ID", "sentence_A", "sentence_B", "score"],
         ("sentence_A", "sentence_B", "score")),
        ("tag", ["id", "tokens", "pos_tags", "ner_tags"], ("tokens", "ner_tags")),
        ("tag", ["words", "labels"], ("words", "labels")),
    ],
)  # fmt: skip
def test_usual_names(task, names, expected):
    from motherbird.data.columns import find_columns

    inputs, label = find_columns(names, task, Columns(), "a.csv")
    assert (*inputs, label) == expected


@pytest.mark.parametrize(
    ("task", "names", "columns", "says"),
    [
        ("classify", ["body", "label"], {},
         'no column has a usual name of the text: a.csv:2: set --text to .*: "body", "label"'),
        ("classify", ["review", "message", "label"], {},
         'several columns can be the text: "review", "message": .* set --text'),
        ("classify", ["text", "intent", "category"], {}, "the label.*set --label"),
        ("classify", ["text", "label"], {"label": "stars"}, 'no column is called "stars".*--label'),
        ("classify", ["text", "label"], {"pair": "text"}, "no second text"),
        ("score", ["text", "label"], {}, "no two columns.*set --text and --pair"),
        ("score", ["text_a", "text_b", "query", "document", "label"], {},
         'several pairs .*: "text_a" and "text_b"; "query" and "document"'),
        ("tag", ["tokens", "tags", "ner_tags"], {}, 'several .*"tags", "ner_tags".*--label'),
    ],
)  # fmt: skip
def test_columns_that_are_missing_or_ambiguous(task, names, columns, says):
    rows = [Record(dict.fromkeys(names, "x"), "a.csv:2")]
    with pytest.raises(InputError, match=says):
        from_records(rows, task, Columns(**columns))


def test_columns_by_name(tmp_path):
    path = put(tmp_path, {"a": "one", "b": "two", "c": 1, "text_a": "x", "text_b": "x", "score": 0})
    found = read_labelled(path, "score", Columns("b", "a", "c"))
    assert found == Labelled([("two", "one")], [1.0], [f"{path}:1"], "number")
    found = read_labelled(path, "score", Columns(text="text_a"))
    assert found.texts == [("x", "x")]


# --- labels


@pytest.mark.parametrize(
    ("labels", "expected", "kind"),
    [
        (["b", "a"], ["b", "a"], "single"),
        ([1, 0], ["1", "0"], "single"),
        ([1.0, 0.0], ["1", "0"], "single"),
        ([True, False], ["true", "false"], "single"),
        ([["x", "y", "x"], []], [["x", "y"], []], "multi"),
        ([[1], [0, 1]], [["1"], ["0", "1"]], "multi"),
        ([" a", "A"], [" a", "A"], "single"),  # nothing is changed; `describe` warns
    ],
)
def test_labels_of_texts(labels, expected, kind, tmp_path):
    path = put(tmp_path, *({"text": "t", "label": label} for label in labels))
    found = read_labelled(path, "classify")
    assert (found.labels, found.kind) == (expected, kind)


@pytest.mark.parametrize(
    ("labels", "expected", "kind"),
    [
        ([1, 2.5], [1.0, 2.5], "number"),
        (["1", "2.5e0"], [1.0, 2.5], "number"),  # of a CSV file
        (["yes", "no"], ["yes", "no"], "single"),
        ([True, False], ["true", "false"], "single"),
    ],
)
def test_labels_of_pairs(labels, expected, kind, tmp_path):
    rows = [{"text_a": "t", "text_b": "t", "label": label} for label in labels]
    found = read_labelled(put(tmp_path, *rows), "score")
    assert (found.labels, found.kind) == (expected, kind)


def test_the_type_of_other_data_is_that_of_the_training_data(tmp_path):
    """Some labels of classes look like numbers, and those of a small dataset can all do."""
    path = put(tmp_path, {"text_a": "t", "text_b": "t", "score": "1"})
    assert read_labelled(path, "score").labels == [1.0]
    assert read_labelled(path, "score", kind="single").labels == ["1"]
    path = put(tmp_path, {"text_a": "t", "text_b": "t", "label": 1})  # as of QQP, MRPC and RTE
    assert read_labelled(path, "score").labels == ["1"]
    assert read_labelled(path, "score", kind="number").labels == [1.0]
    path = put(tmp_path, {"text_a": "t", "text_b": "t", "label": "high"})
    with pytest.raises(InputError, match="score is not a number: 'high': .*jsonl:1, column"):
        read_labelled(path, "score", kind="number")


def test_names_are_sorted_integers_by_value():
    labelled = Labelled(["t"] * 4, ["10", "9", "b", "a"], [""] * 4, "single")
    assert labelled.names() == ["9", "10", "a", "b"]
    assert Labelled(["t"], [["b", "a"]], [""], "multi").names() == ["a", "b"]
    assert Labelled([("t", "t")], [0.5], [""], "number").names() == []


# --- errors


TEXT = {"text": "t", "label": "a"}
PAIR = {"text_a": "t", "text_b": "t", "score": 1}
WORDS = {"tokens": ["a", "b"], "tags": ["O", "B-X"]}


@pytest.mark.parametrize(
    ("task", "good", "bad", "says"),
    [
        ("classify", TEXT, {"text": "t"}, 'column is missing: PATH:2, column "label": write a'),
        ("classify", TEXT, {"text": "t", "label": None}, "value is missing: PATH:2"),
        ("classify", TEXT, {"text": "t", "label": " "}, "label is empty: PATH:2.*: write a label"),
        ("classify", TEXT, {"text": "t", "label": "nan"}, "label is nan, a missing value: PATH:2"),
        ("classify", TEXT, {"text": "t", "label": 0.5}, "label is a number: 0.5: PATH:2"),
        ("classify", TEXT, {"text": "t", "label": ["a"]}, "label is a list: PATH:2"),
        ("classify", TEXT, {"text": "t", "label": {}}, "label is an object: {}: PATH:2"),
        ("classify", {**TEXT, "label": ["a"]}, TEXT, "label is not a list.*: PATH:2"),
        (
            "classify",
            TEXT,
            {**TEXT, "text": "\u200b"},
            "no visible character: PATH:2.*: leave it out",
        ),
        ("classify", TEXT, {**TEXT, "text": ""}, "text is empty: PATH:2"),
        ("classify", TEXT, {**TEXT, "text": 5}, "text is of type int, not str: PATH:2"),
        ("score", PAIR, {**PAIR, "text_b": ""}, 'text is empty: PATH:2, column "text_b"'),
        ("score", PAIR, {**PAIR, "score": "high"}, "not a number: 'high': PATH:2.*: write a num"),
        ("score", PAIR, {**PAIR, "score": "nan"}, "not a finite number: 'nan': PATH:2"),
        ("score", PAIR, {**PAIR, "score": "1_000"}, "not a number"),
        ("score", PAIR, {**PAIR, "score": 10**400}, "not a number"),
        ("score", PAIR, {**PAIR, "score": True}, "not a number: True"),
        ("tag", WORDS, {**WORDS, "tags": ["O"]}, "2 words and 1 tag: PATH:2: write one tag"),
        ("tag", WORDS, {**WORDS, "tokens": "a b"}, "a string, not a list of words: PATH:2"),
        ("tag", WORDS, {**WORDS, "tags": [0, 1]}, "tag 1 is a number: PATH:2.*: write the tags as"),
        ("tag", WORDS, {**WORDS, "tokens": ["a", ""]}, "word 2 is empty: PATH:2"),
        ("tag", WORDS, {"tokens": [], "tags": []}, "list of words is empty: PATH:2"),
        ("tag", WORDS, {**WORDS, "tags": ["O", "X"]}, '"B-X" has a prefix, but "X" has none: PATH'),
    ],
)
def test_an_example_that_cannot_be_used(task, good, bad, says, tmp_path):
    path = put(tmp_path, good, bad)
    with pytest.raises(InputError, match=says.replace("PATH", re.escape(str(path)))) as error:
        read_labelled(path, task)
    assert error.value.exit_code == 2 and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"text,label\n", "no examples.*a.csv: write one example per row"),
        ("a.csv", b'text,label\n"a,x\n', "quote is not closed.*a.csv:2"),
        ("a.csv", "text,label\ncafé,x\n".encode() + b"caf\xe9,x\n", "not UTF-8 text.*a.csv:3"),
        ("a.jsonl", b'{"text": "caf\xe9", "label": "a"}\n', "not UTF-8.*a.jsonl:1"),
        ("a.jsonl", b"", "no examples"),
        ("a.txt", b"text", "not a table"),
    ],
)
def test_a_file_that_cannot_be_used(name, content, says, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=says) as error:
        read_labelled(tmp_path / name, "classify")
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("labels", "kind", "says"),
    [
        (["a", "a"], "single", 'all 2 rows have the same label: "a": train.csv: use data with two'),
        ([1.0, 1.0], "number", "all 2 rows have the same label"),
        ([["O", "O"]], "tags", 'all tags are "O"'),
        ([[], []], "multi", "no row has a label"),
    ],
)
def test_nothing_to_learn(labels, kind, says):
    texts = [["w", "w"] if kind == "tags" else "t"] * len(labels)
    with pytest.raises(InputError, match=says):
        check_training(Labelled(texts, labels, [""] * len(labels), kind), "train.csv")


@pytest.mark.parametrize(
    ("labels", "kind"),
    [(["a", "b"], "single"), ([1.0, 2.0], "number"), ([["B-X"]], "tags"), ([["a"], []], "multi")],
)
def test_something_to_learn(labels, kind):
    texts = [["w"] if kind == "tags" else "t"] * len(labels)
    check_training(Labelled(texts, labels, [""] * len(labels), kind))


# --- the division


def examples(labels, kind="single") -> Labelled:
    names = [f"{number}" for number in range(len(labels))]
    return Labelled(names, list(labels), names, kind)


@given(
    st.lists(st.sampled_from("aaaaabbc"), min_size=4),
    st.sampled_from([0.1, 0.2, 1 / 3, 0.5]),
    st.integers(0, 2**64 - 1),
)
def test_every_label_has_its_fraction(labels, fraction, seed):
    whole, counts = examples(labels), Counter(labels)
    divisible = sum(count for count in counts.values() if count > 1)
    if not divisible:
        with pytest.raises(InputError, match="too few examples"):
            split_off(whole, fraction, seed)
        return
    train, dev = split_off(whole, fraction, seed)
    assert sorted(train.texts + dev.texts, key=int) == whole.texts  # each example once
    assert train.texts == sorted(train.texts, key=int) and dev.where == dev.texts
    assert set(train.labels) == set(labels)
    assert len(dev) == min(max(1, round(fraction * len(labels))), divisible // 2)
    for label, count in counts.items():
        expected = count * len(dev) / divisible if count > 1 else 0
        assert abs(dev.labels.count(label) - expected) <= 1


def test_the_division_depends_on_the_seed_alone():
    whole = examples("ab" * 500)
    first, again, other = (split_off(whole, 0.1, seed)[1].texts for seed in (7, 7, 8))
    assert first == again and first != other
    assert len(set(first) & set(other)) < 30  # 10 are expected
    assert split_off(whole, 0.1, 7)[1].labels.count("a") == 50


def test_the_division_never_changes():
    """The rows that a run set aside are those that a later version sets aside."""
    assert split_off(examples("ab" * 20), 0.1, 0)[1].texts == ["14", "19", "28", "31"]


def test_numbers_are_divided_by_quantile():
    values = np.sin(np.arange(1000)) ** 3
    _, dev = split_off(examples(values.tolist(), "number"), 0.1, 3)
    ranks = values.argsort().argsort()[[int(text) for text in dev.texts]]
    assert np.bincount(ranks // 100).tolist() == [10] * 10


@pytest.mark.parametrize("kind", ["tags", "multi"])
def test_lists_are_divided_plainly(kind):
    train, dev = split_off(examples([["a"]] * 50, kind), 0.1, 1)
    assert (len(train), len(dev)) == (45, 5)


def test_a_division_that_is_impossible():
    with pytest.raises(InputError, match="too few examples to set some aside: a.csv: use more"):
        split_off(examples("abc"), 0.1, 0, "a.csv")
    with pytest.raises(InputError, match="invalid fraction 0.6"):
        split_off(examples("aabb"), 0.6, 0)
    with pytest.raises(InputError, match="seed"):
        split_off(examples("aabb"), 0.5, -1)


# --- the real datasets

TASKS = {"classify": "classify", "routing": "classify", "pair": "score", "score": "score",
         "tag": "tag"}  # fmt: skip
SMALL = {"notinject", "rte", "sick", "stsb", "trec", "wikigold"}
SETS = [
    "ag_news", "banking77", "clinc150", "cola", "hate_offensive", "injection",
    "movie_reviews_long", "mrpc", "notinject", "qnli", "qqp", "routing", "rte", "sick", "snips",
    "snips_slots", "sst2", "stsb", "trec", "wikigold", "wnut17",
]  # fmt: skip


@pytest.mark.parametrize(
    "name", [n if n in SMALL else pytest.param(n, marks=pytest.mark.slow) for n in SETS]
)
def test_a_real_dataset(name, shared):
    """Rows and label counts are those that its meta.json says."""
    folder = shared / "data/tasks" / name
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    for file, facts in meta["files"].items():
        found = read_labelled(folder / file, TASKS[meta["type"]])
        assert len(found) == facts["rows"] and found.where[-1].endswith(f"{file}:{facts['rows']}")
        if meta["type"] == "score":
            assert found.kind == "number"
            found = None if name == "stsb" else read_labelled(
                folder / file, "score", Columns(label="label"))  # fmt: skip
        if meta["type"] == "tag":
            assert scheme_of(found.labels) == "BIO"
        elif found is not None:
            assert Counter(found.labels) == facts["labels"]


def test_reading_needs_neither_torch_nor_other_heavy_packages(tmp_path):
    path = put(tmp_path, {"text": "t", "label": "a"})
    code = (
        "import sys; from motherbird.data.labelled import read_labelled; "
        "from motherbird.data.description import describe; from motherbird.core import metrics; "
        f"describe(read_labelled({str(path)!r}, 'classify')); "
        "sys.exit(' '.join({'torch', 'pyarrow', 'datasets'} & sys.modules.keys()) or None)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
