"""Reading retrieval sets, and what is refused."""

import gzip

import pytest

from motherbird import InputError, MotherbirdError
from motherbird.retrieval.sets import find_sets, read_set


def test_a_set(folder):
    found = read_set(folder, "test")
    assert (found.name, found.split) == ("animals", "test")
    assert found.document_ids == ["d1", "d2", "d3", "d4", "d5"]
    assert found.documents[:2] == [
        "Bees Bees make honey from nectar.", "A hive is the home of bees."
    ]  # fmt: skip
    assert found.query_ids == ["q1", "q2"] and found.queries[1] == "where does milk come from"
    assert found.relevant == [{0: 2, 1: 1}, {3: 1}]
    assert (found.without, found.empty) == (1, 1)


def test_compressed_files_and_the_first_split_that_exists(folder):
    for name in ("corpus", "queries"):
        file = folder / f"{name}.jsonl"
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    found = read_set(folder, "dev, test", limit=1)
    assert found.split == "test" and found.query_ids == ["q1"]


def test_sets_of_a_directory(folder, tmp_path):
    (tmp_path / "notes").mkdir()
    assert find_sets(tmp_path) == [folder] == find_sets(folder)
    with pytest.raises(InputError, match="there is no retrieval set"):
        find_sets(tmp_path / "notes")
    with pytest.raises(InputError, match="does not exist"):
        find_sets(tmp_path / "nowhere")


def replace_line(path, number, line):
    lines = path.read_text().splitlines()
    lines[number - 1 : number] = [] if line is None else [line]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("file", "number", "line", "says"),
    [
        ("qrels/test.tsv", 2, "q9\td1\t1", "query 'q9' is not in queries.jsonl: .*test.tsv:2"),
        ("qrels/test.tsv", 3, "q1\td9\t1", "document 'd9' is not in corpus.jsonl: .*test.tsv:3"),
        ("qrels/test.tsv", 3, "q1\td1", "not a query, a document and a score: .*test.tsv:3"),
        ("qrels/test.tsv", 3, "q1\td1\tyes", "'yes' is not an integer: .*test.tsv:3"),
        ("qrels/test.tsv", 1, None, "the first line is not .*test.tsv:1: .*tabs"),
        ("corpus.jsonl", 2, '{"_id": "d1", "text": "x"}', "'d1' occurs twice: .*:2.*corpus.*:1"),
        ("corpus.jsonl", 2, '{"_id": 7, "text": "x"}', '"_id" is not a text: .*corpus.jsonl:2'),
        ("corpus.jsonl", 2, '{"_id": "d2"}', 'there is no "text": .*corpus.jsonl:2'),
        ("corpus.jsonl", 2, '{"_id": "d2", "text": ["x"]}', '"text" is not a text: .*jsonl:2'),
        ("queries.jsonl", 3, '{"_id": "q1", "text": "x"}', "'q1' occurs twice: .*queries.*:3"),
        ("queries.jsonl", 3, "{", "queries.jsonl:3"),
    ],
)
def test_mistakes_name_the_line(folder, file, number, line, says):
    replace_line(folder / file, number, line)
    with pytest.raises(MotherbirdError) as found:
        read_set(folder, "test")
    import re

    assert re.search(says, str(found.value)), found.value


def test_what_is_missing(folder):
    with pytest.raises(InputError, match="there is no split dev or train: .*use --split test"):
        read_set(folder, "dev,train")
    text = (folder / "qrels/test.tsv").read_text()
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t0\n")
    with pytest.raises(InputError, match="no query has a relevant document"):
        read_set(folder, "test")
    (folder / "qrels/test.tsv").write_text(text)
    (folder / "corpus.jsonl").write_text("")
    with pytest.raises(InputError, match="there are no documents with text"):
        read_set(folder, "test")
    (folder / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match=r"corpus.jsonl is missing: .*also as .jsonl.gz"):
        read_set(folder, "test")
