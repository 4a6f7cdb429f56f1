"""What is said about labelled data before training."""

import json

from motherbird.data.description import describe
from motherbird.data.labelled import Labelled


def part(name, rows, kind="single") -> Labelled:
    where = [f"{name}.csv:{number}" for number in range(2, len(rows) + 2)]
    return Labelled([text for text, _ in rows], [label for _, label in rows], where, kind)


def test_texts_and_labels():
    train = part("train", [
        ("A  text", "yes"), ("a text", "no"), ("a\ntext ", "yes"), ("b", "no"), ("B", "no"),
        ("c", "Yes "),
    ])  # fmt: skip
    dev = part("dev", [("C", "yes"), ("new", "maybe"), ("a text", "yes")])
    found = describe(train, dev)
    assert found.rows == {"train": 6, "dev": 3}
    assert found.labels == {
        "train": {"Yes ": 1, "no": 3, "yes": 2}, "dev": {"maybe": 1, "yes": 2},
    }  # fmt: skip
    assert (found.duplicates, found.conflicts) == (3, 1)
    assert found.conflict_examples == [
        {"labels": ["yes", "no"], "where": ["train.csv:2", "train.csv:3"]}
    ]
    assert found.in_train == {"dev": 2}
    assert found.in_train_examples["dev"] == [
        {"where": "dev.csv:2", "train": "train.csv:7"},
        {"where": "dev.csv:4", "train": "train.csv:2"},
    ]
    assert found.unknown == {"dev": {"maybe": 1}}
    assert found.similar == [["Yes ", "yes"]]
    assert found.lines() == [
        "train: 6 examples: Yes  1, no 3, yes 2", "dev: 3 examples: maybe 1, yes 2",
    ]  # fmt: skip
    assert found.warnings() == [
        "train: 3 examples with the text of an earlier one; 1 text with different labels: "
        "yes (train.csv:2) and no (train.csv:3)",
        "dev: 3 examples, too few to measure small differences",
        "dev: 2 examples whose text is in train, such as dev.csv:2 (train.csv:7)",
        "dev: labels that train lacks, which count as wrong: maybe 1",
        'labels that differ only in case or white space: "Yes ", "yes"',
    ]
    assert json.loads(json.dumps(found.data()))["rows"] == {"train": 6, "dev": 3}


def test_pairs_and_numbers():
    train = part("train", [(("a", "b"), 1.0), (("a", "c"), 2.0), (("b", "a"), 4.5)], "number")
    found = describe(train, test=part("test", [(("A", "B"), 3.0)], "number"))
    assert found.duplicates == 0 and found.in_train == {"test": 1}
    assert found.numbers["train"] == {"min": 1.0, "mean": 2.5, "max": 4.5}
    assert found.lines()[0] == "train: 3 examples, min 1, mean 2.5, max 4.5"


def test_words_and_entities():
    train = part("train", [(["New", "York"], ["B-LOC", "I-LOC"]), (["He"], ["O"])], "tags")
    dev = part("dev", [(["new", "york"], ["B-LOC", "B-ORG"])], "tags")
    found = describe(train, dev)
    assert found.labels == {"train": {"LOC": 1}, "dev": {"LOC": 1, "ORG": 1}}
    assert found.in_train == {"dev": 1} and found.unknown == {"dev": {"ORG": 1}}


def test_lists_of_labels_have_no_order():
    train = part("train", [("a", ["x", "y"]), ("a", ["y", "x"]), ("b", [])], "multi")
    found = describe(train)
    assert (found.duplicates, found.conflicts) == (1, 0)
    assert found.labels["train"] == {"x": 1 + 1, "y": 2}
    assert found.warnings() == ["train: 1 example with the text of an earlier one"]


def test_many_labels():
    found = describe(part("train", [(f"{n}", f"{n:03}") for n in range(150)]))
    assert found.lines()[0].endswith("019 1, ... (150 labels)")
