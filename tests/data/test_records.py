"""Records of every format: the same rows from each, and errors with their line."""

import csv
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird.data.readers.document import Record
from motherbird.data.readers.records import records
from motherbird.errors import DamagedError, FieldError, InputError, RowError

VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=9)


@pytest.fixture(scope="module")
def arrow():
    return pytest.importorskip("pyarrow")


def values(path) -> list[dict]:
    found = list(records(path))
    assert all(isinstance(each, Record) for each in found), found
    return [each.values for each in found]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "jsonl.gz", "csv.gz", "parquet"])
@given(rows=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=5))
def test_every_format_has_the_same_rows(suffix, rows, tmp_path_factory):
    """The oracles that write: csv, json and pyarrow."""
    path = tmp_path_factory.getbasetemp() / f"a.{suffix}"
    expected = [{"text": text, "the label": label} for text, label in rows]
    if suffix == "parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(expected), path)
    else:
        opened = gzip.open if suffix.endswith(".gz") else open
        with opened(path, "wt", encoding="utf-8-sig", newline="") as file:
            if suffix.startswith("jsonl"):
                file.writelines(json.dumps(row) + "\n" for row in expected)
            else:
                delimiter = "\t" if suffix == "tsv" else ","
                writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
                writer.writerows([["text", "the label"], *rows])
    assert values(path) == expected


def test_types_of_json_and_where_rows_are(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": [1, 2.5], "b": true}\n\n{"a": null}\n')
    found = list(records(path))
    assert found[0] == Record({"a": [1, 2.5], "b": True}, f"{path}:1")
    assert found[1] == Record({"a": None}, f"{path}:3")


def test_a_quoted_value_of_several_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"one\ntwo, ""three""",x\nlast,y\n')
    found = list(records(path))
    assert [each.values["text"] for each in found] == ['one\ntwo, "three"', "last"]
    assert [each.where for each in found] == [f"{path}:3", f"{path}:4"]


@pytest.mark.parametrize(
    ("name", "content", "kind", "says"),
    [
        ("a.csv", b'text,label\na,x\n"b,y\n', DamagedError, "quote is not closed.*csv:3: close"),
        ("a.csv", b"text,label\na\n", RowError, "1 value, the header 2.*csv:2: write a value"),
        ("a.csv", b"text;label\na;b\n", DamagedError, "separated by ';'"),
        ("a.csv", b"text,a,a\nx,1,2\n", FieldError, 'two columns are called "a"'),
        ("a.csv", "text\ncafé\n".encode() + b"caf\xe9\n", DamagedError, "not UTF-8.*csv:3, byte"),
        ("a.csv", b"", DamagedError, "table is empty"),
        ("a.jsonl", b'{"a": 1}\n[1]\n', RowError, "a list, not an object.*jsonl:2: write one"),
        ("a.jsonl", b'{"a": 1}\n{"a": NaN}\n', RowError, "not JSON.*jsonl:2"),
        ("a.jsonl", b'[{"a": 1}]', DamagedError, "a JSON array"),
        ("a.parquet", b"PAR1", DamagedError, "cannot be read.*parquet, after row 0"),
        ("a.jsonl.gz", b"no", DamagedError, "jsonl.gz"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\n", DamagedError, "LFS pointer"),
    ],
)
def test_what_cannot_be_read(name, content, kind, says, tmp_path):
    (tmp_path / name).write_bytes(content)
    error = list(records(tmp_path / name))[-1]
    with pytest.raises(kind, match=says):
        raise error


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.txt", r"not a table.*a\.txt: use a file that ends in \.jsonl"),
        ("a.json", "a .json file has no rows.*jq"),
    ],
)
def test_files_without_rows(name, says, tmp_path):
    (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=says):
        records(tmp_path / name)
    with pytest.raises(InputError, match="does not exist.*nowhere"):
        records(tmp_path / "nowhere.csv")


# --- Parquet and datasets


def test_a_value_of_parquet_that_is_not_utf_8(arrow, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    broken = arrow.array([b"good", b"caf\xe9"]).view(arrow.utf8())
    path = tmp_path / "a.parquet"
    parquet.write_table(arrow.table({"text": broken, "n": [1, 2]}), path)
    good, error = records(path)
    assert good.values == {"text": "good", "n": 1}
    assert isinstance(error, RowError) and f'"text" is not UTF-8, not text: {path}:2' in str(error)


@pytest.fixture(scope="module")
def dataset():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        text=datasets.Value("string"),
        label=datasets.ClassLabel(names=["negative", "positive"]),
        ner_tags=datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER"])),
    )
    columns = {"text": ["a", "b", "c"], "label": [1, 0, -1], "ner_tags": [[0, 1], [], None]}
    return datasets.Dataset.from_dict(columns, features=features)


NAMED = [
    {"text": "a", "label": "positive", "ner_tags": ["O", "B-PER"]},
    {"text": "b", "label": "negative", "ner_tags": []},
    {"text": "c", "label": None, "ner_tags": None},
]


@pytest.mark.parametrize("shards", [1, 2])
def test_a_dataset_with_the_names_of_its_classes(dataset, shards, tmp_path):
    dataset.save_to_disk(tmp_path / "d", num_shards=shards)
    assert values(tmp_path / "d") == NAMED
    assert [each.where for each in records(tmp_path / "d")] == [
        f"{tmp_path / 'd'}:{n}" for n in (1, 2, 3)
    ]
    dataset.to_parquet(tmp_path / "d.parquet")
    assert values(tmp_path / "d.parquet") == NAMED


def test_selected_rows_of_a_dataset_are_in_their_order(dataset, tmp_path):
    dataset.select([2, 0]).save_to_disk(tmp_path / "d")
    assert values(tmp_path / "d") == [NAMED[2], NAMED[0]]


def test_several_datasets_in_a_directory(dataset, tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.DatasetDict(train=dataset, test=dataset).save_to_disk(tmp_path / "d")
    with pytest.raises(InputError, match='several datasets: "train", "test".*such as .*d.train'):
        list(records(tmp_path / "d"))
    assert values(tmp_path / "d" / "train") == NAMED


def test_a_directory_that_is_no_dataset(tmp_path):
    with pytest.raises(InputError, match="not a dataset: .*: use a file, or .* save_to_disk"):
        list(records(tmp_path))


def test_a_damaged_dataset(dataset, tmp_path):
    dataset.save_to_disk(tmp_path / "d")
    (file,) = (tmp_path / "d").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:-100])
    *_, error = records(tmp_path / "d")
    assert isinstance(error, DamagedError) and f"{file}, after row 0" in str(error)
    file.unlink()
    *_, error = records(tmp_path / "d")
    assert isinstance(error, DamagedError) and str(file) in str(error)


def test_a_class_without_a_name(arrow, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    feature = {"names": ["a"], "_type": "ClassLabel"}
    metadata = json.dumps({"info": {"features": {"label": feature}}})
    table = arrow.table({"label": [0, 5]}).replace_schema_metadata({"huggingface": metadata})
    parquet.write_table(table, tmp_path / "a.parquet")
    first, error = records(tmp_path / "a.parquet")
    assert first.values == {"label": "a"}
    assert isinstance(error, RowError) and "a class without a name" in str(error)
