"""Pairs of sources: what is read, counted, dropped and chosen."""

import json
import tarfile
import zipfile

import pytest
from retrieval_set import write_set

from motherbird.data.pairing.make import make_pairs
from motherbird.errors import DamagedError, InputError


def write(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def function(name, doc=""):
    doc = doc or f"Compute the {name} of it."
    return f'def {name}(a):\n    """{doc}"""\n    {name} = a + 1\n    return {name}_of(a)\n\n\n'


def reasons(made, kind):
    return {reason: count.documents for reason, count in made.kinds[kind].dropped.items()}


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "zoo"
    (home / "inside").mkdir(parents=True)
    (home / "birds.py").write_text(function("wren") + function("crow"))
    (home / "inside" / "guide.md").write_text("# Guide\n\nHow to feed a bird at home.\n")
    (home / "broken.py").write_text("def f(:\n")
    (home / "latin.txt").write_bytes("Vögel im Garten".encode("latin-1"))
    (home / "empty.txt").write_text("")
    (home / "other.js").write_text("function f() { return 1 }\n")
    (home / "made_pb2.py").write_text(function("hidden"))
    (home / "picture.png").write_bytes(b"\x89PNG")
    (home / "node_modules").mkdir()
    (home / "node_modules" / "a.py").write_text(function("vendored"))
    rows = [{"title": "Bees", "text": "Bees make honey of nectar."}, {"name": "x"}, {"text": 3}]
    path = write(home / "rows.jsonl", rows)
    path.write_text(path.read_text() + "{broken\n")
    return home


def test_a_directory(folder, caplog):
    made = make_pairs([folder])
    assert [(p.kind, p.query, p.source) for p in made.pairs] == [
        ("docstring", "Compute the wren of it.", "zoo/birds.py:1"),
        ("docstring", "Compute the crow of it.", "zoo/birds.py:7"),
        ("heading", "Guide", "zoo/inside/guide.md:1"),
        ("title", "Bees", "zoo/rows.jsonl:1"),
    ]
    tally = made.sources["zoo"]
    assert tally.bad_kinds == {"file": 2, "line": 1}
    assert all(name in " ".join(tally.bad_examples)
               for name in ("zoo/broken.py:1", "zoo/latin.txt",
                            "zoo/rows.jsonl:4"))  # fmt: skip
    assert {reason: count.documents for reason, count in tally.skipped.items()} == {
        "vendored": 1, "other suffixes": 1, "generated": 1, "empty files": 1,
        "code without docstrings that are read, and settings": 1,
        "no title and text, no question and answer": 2,
    }  # fmt: skip
    assert "zoo/broken.py:1" in caplog.text and str(folder.parent) not in caplog.text
    assert [p.kind for p in make_pairs([folder], kinds=["title"]).pairs] == ["title"]


def test_wheels_sdists_and_what_is_no_archive(tmp_path):
    wheel, sdist = tmp_path / "a-1-py3-none-any.whl", tmp_path / "b-1.tar.gz"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("a/one.py", function("one"))
    (tmp_path / "two.py").write_text(function("two"))
    with tarfile.open(sdist, "w:gz") as tar:
        tar.add(tmp_path / "two.py", "b-1/two.py")
    damaged = tmp_path / "c.whl"
    damaged.write_bytes(wheel.read_bytes()[:100])
    cut = tmp_path / "d.tar.gz"
    cut.write_bytes(sdist.read_bytes()[:90])
    made = make_pairs([wheel, sdist, damaged, cut])
    assert [p.source for p in made.pairs] == [
        "a-1-py3-none-any.whl/a/one.py:1", "b-1.tar.gz/b-1/two.py:1",
    ]  # fmt: skip
    assert made.sources["c.whl"].bad_kinds == made.sources["d.tar.gz"].bad_kinds == {"package": 1}
    with pytest.raises(
        DamagedError, match=r"no pair: c.whl: 1 package without .*cannot be unpacked"
    ):
        make_pairs([damaged])


def test_archives_that_write_elsewhere(tmp_path):
    (tmp_path / "two.py").write_text(function("two"))
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        tar.add(tmp_path / "two.py", "../../outside.py")
    made = make_pairs([tmp_path / "b.tar", tmp_path / "two.py"])
    assert made.sources["b.tar"].bad_kinds == {"package": 1} and len(made.pairs) == 1


def test_a_file_of_json_says_what_to_do(tmp_path):
    (tmp_path / "a.json").write_text('[{"title": "a", "text": "b"}]')
    with pytest.raises(DamagedError, match="has records.*write one object per line"):
        make_pairs([tmp_path / "a.json"])


def test_a_dataset_of_the_library_datasets(tmp_path):
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_dict({"question": ["Who?"], "answer": ["The wren of it."]})
    data.save_to_disk(tmp_path / "set")
    (pair,) = make_pairs([tmp_path / "set"]).pairs
    assert (pair.query, pair.source) == ("Who?", "set:1")


def test_tables_of_every_format(tmp_path):
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "a.csv").write_text("question,answer\nWho sings?,The wren sings loudly.\n")
    table = {"title": ["Owls"], "text": ["Owls hunt mice at night."]}
    parquet.write_table(pyarrow.table(table), tmp_path / "b.parquet")
    made = make_pairs([tmp_path / "a.csv", tmp_path / "b.parquet"])
    found = [(p.kind, p.source) for p in made.pairs]
    assert found == [("question", "a.csv:2"), ("title", "b.parquet:1")]


TEXT = " ".join(f"word{n}" for n in range(60))


def test_duplicates(tmp_path):
    rows = [
        {"question": "one", "answer": TEXT},
        {"question": "one", "answer": TEXT},
        {"question": "two", "answer": TEXT},  # another query for the same text
        {"question": "three", "answer": f"{TEXT} end"},
        {"question": "four", "answer": f"{TEXT} end"},
        {"question": "five", "answer": "Something else of five words."},
    ]
    made = make_pairs([write(tmp_path / "a.jsonl", rows)])
    assert [p.query for p in made.pairs] == ["one", "two", "five"]
    assert reasons(made, "question") == {
        "equal to an earlier pair": 1, "text nearly equal to an earlier one": 2,
    }  # fmt: skip
    assert (made.kinds["question"].found, made.kinds["question"].kept) == (6, 3)


def test_decontamination(tmp_path):
    own = write_set(tmp_path / "animals")
    rows = [
        {"question": "Where does milk come from?", "answer": "It comes from the cow."},
        {"question": "one", "answer": "BEES make honey -- from nectar."},  # a short document
        {"question": "two", "answer": f"before {TEXT} after"},
        {"question": "three", "answer": "An owl hunts mice at night."},
    ]
    path = write(tmp_path / "a.jsonl", rows)
    table = write(tmp_path / "test.jsonl", [{"sentence": f"x {TEXT}"}])
    assert len(make_pairs([path]).pairs) == 4
    made = make_pairs([path], exclude=[own, table])
    assert [p.query for p in made.pairs] == ["three"]
    assert reasons(made, "question") == {"in an evaluation set": 3}
    example = made.kinds["question"].dropped["in an evaluation set"].examples[0]
    assert example["because"] == "where does milk come from"
    with pytest.raises(DamagedError, match="there is no pair: question: 4 dropped: in an eval"):
        make_pairs([path], exclude=[path])
    with pytest.raises(InputError, match="exclude: the file or directory does not exist"):
        make_pairs([path], exclude=[tmp_path / "missing"])


def test_some_pairs_at_random_and_long_texts(tmp_path):
    rows = [{"question": f"q{n}", "answer": f"a{n} b{n} c{n} d{n} e{n}"} for n in range(50)]
    path = write(tmp_path / "a.jsonl", rows)
    one, again, other = (make_pairs([path], most=10, max_words=4, seed=s) for s in (0, 0, 1))
    assert one.pairs == again.pairs != other.pairs
    assert len(one.pairs) == len(other.pairs) == 10
    numbers = [int(p.query[1:]) for p in one.pairs]
    assert numbers == sorted(numbers) and numbers != list(range(10))
    assert all(p.positive == "a{0} b{0} c{0} d{0}".format(p.query[1:]) for p in one.pairs)
    assert reasons(one, "question") == {"more than --max": 40}
    assert (one.kinds["question"].kept, one.kinds["question"].cut) == (10, 10)
    assert len(make_pairs([path], most=50).pairs) == 50


def test_sources_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="does not exist: .*missing"):
        make_pairs([tmp_path / "missing"])
    for name in ("one", "two"):
        (tmp_path / name / "same").mkdir(parents=True)
    with pytest.raises(InputError, match="two sources are called 'same'"):
        make_pairs([tmp_path / "one" / "same", tmp_path / "two" / "same"])
    (tmp_path / "a.txt").write_text("short")
    with pytest.raises(DamagedError, match="there is no pair: a.txt: .*use other sources or kinds"):
        make_pairs([tmp_path / "a.txt"])
