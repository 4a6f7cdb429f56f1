"""Building a corpus: what is kept, what is dropped and why, from every kind of source."""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from motherbird.data import mixture as mixtures
from motherbird.data import readers, registries
from motherbird.data.corpus import Corpus, build
from motherbird.data.mixture import Mixture, Source
from motherbird.errors import DamagedError, FetchError, InputError


def texts(corpus):
    return [document.text for document in corpus]


def of(tmp_path, *sources, **options):
    return build(Mixture(source=sources, **options), tmp_path / "corpus", processes=1)


def sentence(seed: int, words: int = 60) -> str:
    """Words that no other seed has in this order."""
    return " ".join(f"w{(seed * 7919 + i * i * 31) % 997}" for i in range(words))


def test_sources_in_order_with_what_became_of_them(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("First.\r\n")
    (tmp_path / "a" / "y.py").write_text("print(1)")
    (tmp_path / "b.jsonl").write_text('{"body": "Second."}\n{"body": "First.\\n"}\n{"body": "x"}\n')
    made = of(
        tmp_path,
        Source("text", path=str(tmp_path / "a"), files=("*.txt",)),
        Source("code", path=str(tmp_path / "a"), code=("python",)),
        Source("lines", path=str(tmp_path / "b.jsonl"), field="body", min_chars=2),
    )
    assert [(d.source, d.text) for d in made] == [
        ("text", "First.\n"), ("code", "print(1)"), ("lines", "Second."),
    ]  # fmt: skip
    lines = made.about.sources["lines"]
    assert (lines.read.documents, lines.kept.documents) == (3, 1)
    assert {reason: count.documents for reason, count in lines.dropped.items()} == {
        "too short": 1, "equal to an earlier one": 1,
    }  # fmt: skip
    assert lines.dropped["too short"].examples == [
        {"where": f"{tmp_path / 'b.jsonl'}:3", "text": "x"}
    ]
    assert texts(Corpus(tmp_path / "corpus")) == texts(made)


def test_long_documents_are_cut(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n" * 10)
    made = of(tmp_path, Source("a", path=str(tmp_path / "a.txt"), max_chars=12))
    assert "".join(texts(made)) == "one\n\n" * 2  # the others are equal
    assert made.about.sources["a"].dropped["equal to an earlier one"].documents == 4


def test_evaluation_texts_are_dropped(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "test.jsonl").write_text(json.dumps({"q": sentence(1)}))
    rows = [sentence(i) for i in range(5)] + [f"x {sentence(1)} y"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in rows))
    made = of(
        tmp_path,
        Source("a", path=str(tmp_path / "a.jsonl")),
        decontaminate=(str(tmp_path / "eval"),),
    )
    assert texts(made) == [rows[i] for i in (0, 2, 3, 4)]
    dropped = made.about.sources["a"].dropped["in an evaluation set"]
    assert dropped.documents == 2
    assert dropped.examples[0]["because"] == " ".join(sentence(1).split()[:13])


def test_near_duplicates_are_dropped(tmp_path):
    pytest.importorskip("rensa")
    base = [sentence(i, 200) for i in range(6)]
    near = base[2].split()
    near[100] = "changed"
    rows = [*base, " ".join(near), f"{base[3]} and a little more"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in rows))
    source = Source("a", path=str(tmp_path / "a.jsonl"))
    made = of(tmp_path, source, near_duplicates=0.7)
    assert texts(made) == base
    assert made.about.sources["a"].dropped["nearly equal to an earlier one"].documents == 2
    assert len(texts(of(tmp_path, source))) == 8


def test_parquet_html_and_descriptions(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pytest.importorskip("resiliparse")
    parquet.write_table(arrow.table({"text": ["p1", "p2"], "n": [1, 2]}), tmp_path / "a.parquet")
    (tmp_path / "b.html").write_bytes(
        "<html><head><meta charset=latin-1></head><body><nav>Menu</nav><main><p>Caf\xe9 is open "
        "every day.</p></main></body></html>".encode("latin-1")
    )
    description = "<p>Lists all of the things that a user may have &amp; hold.</p>"
    (tmp_path / "c.json").write_text(json.dumps({"name": "x", "documentation": description}))
    made = of(
        tmp_path,
        Source("p", path=str(tmp_path / "a.parquet")),
        Source("h", path=str(tmp_path / "b.html")),
        Source("j", path=str(tmp_path / "c.json")),
    )
    assert texts(made)[:2] == ["p1", "p2"]
    assert "Café is open every day." in texts(made)[2]
    assert texts(made)[3] == "Lists all of the things that a user may have & hold."
    with pytest.raises(DamagedError, match='no column is called "body".*columns: "text", "n"'):
        of(tmp_path, Source("p", path=str(tmp_path / "a.parquet"), field="body"))


def test_a_local_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["d1", "d2"]}).save_to_disk(tmp_path / "set")
    assert texts(of(tmp_path, Source("d", dataset=str(tmp_path / "set")))) == ["d1", "d2"]
    with pytest.raises(
        DamagedError, match='no text in field "body".*: "text"; set field in the mix'
    ):
        of(tmp_path, Source("d", dataset=str(tmp_path / "set"), field="body"))


@pytest.fixture
def registry(monkeypatch, tmp_path):
    """Clients that copy from a folder: a wheel and an npm package, and what does not exist."""
    with zipfile.ZipFile(tmp_path / "pack-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("pack/a.py", "a = 1")
        wheel.writestr("pack/data.bin", b"\0")
    (tmp_path / "index.ts").write_text("let x = 1")
    with tarfile.open(tmp_path / "node-2.0.tgz", "w") as tar:
        tar.add(tmp_path / "index.ts", "package/index.ts")

    def run(command, cwd, **_):
        wanted = {"pack": "pack-1.0-py3-none-any.whl", "node": "node-2.0.tgz"}.get(command[-1])
        if wanted is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution")
        shutil.copy(tmp_path / wanted, cwd)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(registries.subprocess, "run", run)


def test_packages(tmp_path, registry):
    made = of(
        tmp_path,
        Source("python", packages=("pypi:pack",), code=("python",)),
        Source("typescript", packages=("npm:node", "npm:gone"), optional=True),
    )
    assert [(d.source, d.text) for d in made] == [("python", "a = 1"), ("typescript", "let x = 1")]
    assert made.about.sources["python"].packages == ("pack-1.0-py3-none-any.whl",)
    assert made.about.sources["typescript"].bad_examples == (
        "npm:gone (the package cannot be downloaded (ERROR: No matching distribution))",
    )
    with pytest.raises(FetchError, match="cannot be downloaded .*pypi:gone"):
        of(tmp_path, Source("python", packages=("pypi:gone",)))


def test_several_processes_give_the_same_bytes(library, tmp_path, monkeypatch):
    mixture = mixtures.read(library)
    monkeypatch.setattr("motherbird.data.parts.PART_BYTES", 1 << 16)
    done = []
    for processes in (1, 2):
        build(mixture, tmp_path / str(processes), processes=processes,
              on_progress=lambda *progress: done.append(progress))  # fmt: skip
    files = [{p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "12"]
    assert files[0] == files[1]
    assert done[0] == (0, "cleaning") and done[-1][0] == 1 and len(done) > 12


def test_a_mixture_of_a_file(tmp_path):
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "inner.toml").write_text('[[source]]\nname = "a"\npath = "text.txt"\n')
    (tmp_path / "m.toml").write_text(
        'include = ["inner.toml"]\nmax_bad = 0.5\n'
        '[[source]]\nname = "b"\npath = "gone"\noptional = true\n'
    )
    mark = b"\xef\xbb\xbf"
    (tmp_path / "m.toml").write_bytes(mark + (tmp_path / "m.toml").read_bytes())
    mixture = mixtures.read(tmp_path / "m.toml")
    assert [source.path for source in mixture.source] == [
        str(tmp_path / "text.txt"), str(tmp_path / "gone"),
    ]  # fmt: skip
    assert mixture.max_bad == 0.5 and mixtures.read(tmp_path / "m.toml", max_bad=0.0).max_bad == 0
    assert texts(build(mixture, tmp_path / "corpus")) == ["text"]
    for text, says in (
        ('[[source]]\nname = "a"\npath = "gone"', "file or directory does not exist.*gone"),
        (
            '[[source]]\nname = "a"\npath = "text.txt"\nmin_char = 1',
            "did you mean source.a.min_chars",
        ),
        ('decontaminate = ["gone"]\n[[source]]\nname = "a"\npath = "text.txt"', "decontaminate"),
        ('include = ["gone.toml"]', "cannot read the file.*gone.toml"),
        ('[source]\nname = "a"\npath = "text.txt"', r"one table.*write \[\[source\]\]"),
        ("", "no .*source"),
    ):
        (tmp_path / "m.toml").write_text(text)
        with pytest.raises(InputError, match=says):
            mixtures.read(tmp_path / "m.toml")


def test_included_mixtures_have_their_own_place(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "text.txt").write_text("text")
    (tmp_path / "sub" / "eval.txt").write_text("evaluation")
    inner = 'decontaminate = ["eval.txt"]\n[[source]]\nname = "a"\npath = "text.txt"\n'
    (tmp_path / "sub" / "in.toml").write_text(inner)
    (tmp_path / "m.toml").write_text('include = ["sub/in.toml"]')
    mixture = mixtures.read(tmp_path / "m.toml")
    assert mixture.source[0].path == str(tmp_path / "sub" / "text.txt")
    assert mixture.decontaminate == (str(tmp_path / "sub" / "eval.txt"),)
    (tmp_path / "sub" / "in.toml").write_text('include = ["../m.toml"]')
    with pytest.raises(InputError, match="includes itself"):
        mixtures.read(tmp_path / "m.toml")


def test_an_output_inside_a_source(tmp_path):
    (tmp_path / "text.txt").write_text("text")
    (tmp_path / "m.toml").write_text('[[source]]\nname = "a"\npath = "."')
    with pytest.raises(InputError, match="inside the input"):
        build(mixtures.read(tmp_path / "m.toml"), tmp_path / "corpus")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.toml", "text.txt"]


@pytest.mark.skipif(sys.platform != "linux", reason="needs file names of any bytes")
def test_a_name_that_is_not_utf_8(tmp_path):
    (tmp_path / "in").mkdir()
    with open(os.fsencode(tmp_path) + b"/in/caf\xe9.txt", "w") as file:
        file.write("x")
    source = Source("a", path=str(tmp_path / "in"), min_chars=2)
    with pytest.raises(DamagedError, match=r"too short \(min_chars = 2\): 1"):
        of(tmp_path, source)


def test_a_dataset_that_does_not_exist(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "a.txt").write_text("text")
    lone = Source("d", dataset="missing/nothing")
    with pytest.raises(FetchError, match="cannot be read .*missing/nothing"):
        of(tmp_path, lone)
    made = of(
        tmp_path,
        Source("d", dataset="missing/nothing", optional=True),
        Source("a", path=str(tmp_path / "a.txt")),
    )
    assert texts(made) == ["text"] and made.about.sources["d"].bad == 1


def test_a_folder_without_text(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no file to read.*empty"):
        build(mixtures.read(tmp_path / "empty"), tmp_path / "corpus")
    assert sorted(os.listdir(tmp_path)) == ["empty"]


def test_importing_costs_no_library():
    """Nothing that reads formats is imported before it is needed."""
    code = (
        "import sys, motherbird.data.corpus\n"
        "print(*{'pyarrow', 'rensa', 'resiliparse', 'datasets', 'torch'} & {*sys.modules})"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == ""


@pytest.mark.parametrize("name", ["mixture-registries.toml", "mixture-full.toml"])
def test_recipes_can_be_read(name, pytestconfig):
    recipe = pytestconfig.rootpath / "recipes" / name
    if "full" in name and not (pytestconfig.rootpath.parent / "shared").is_dir():
        pytest.skip("needs ../shared, real data that is not in the repository")
    mixture = mixtures.read(recipe)
    assert len(mixture.source) > 5
    reserved = {"numpy", "scipy", "statsmodels", "scikit-image", "networkx", "scikit-learn",
                "pandas", "xarray"}  # fmt: skip
    packages = {p.partition(":")[2] for source in mixture.source for p in source.packages}
    assert packages and not packages & reserved


# --- what is counted, and what is said


def write_lines(path, rows):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))


def test_empty_rows_are_counted(tmp_path):
    write_lines(tmp_path / "a.jsonl", ["", " \n", "\x01\x07", "text", *[""] * 96])
    source = Source("a", path=str(tmp_path / "a.jsonl"))
    for max_bad in (None, 0.0):
        tally = of(tmp_path, source, max_bad=max_bad).about.sources["a"]
        assert (tally.read.documents, tally.kept.documents, tally.bad) == (100, 1, 0)
        assert tally.dropped["empty"].documents == 99
        assert tally.dropped["empty"].examples[0] == {
            "where": f"{tmp_path / 'a.jsonl'}:1", "text": "",
        }  # fmt: skip
    write_lines(tmp_path / "a.jsonl", [""] * 5)
    with pytest.raises(DamagedError, match="no document is left: source 'a': empty: 5"):
        of(tmp_path, source)


def test_empty_rows_of_parquet_and_datasets(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    datasets = pytest.importorskip("datasets")
    parquet.write_table(arrow.table({"text": ["", "p", " "]}), tmp_path / "a.parquet")
    datasets.Dataset.from_dict({"text": ["d", ""]}).save_to_disk(tmp_path / "set")
    made = of(
        tmp_path,
        Source("p", path=str(tmp_path / "a.parquet")),
        Source("d", dataset=str(tmp_path / "set")),
    )
    assert [tally.dropped["empty"].documents for tally in made.about.sources.values()] == [2, 1]


def test_a_file_that_is_cut_counts_with_its_bytes(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    rows = [json.dumps({"text": os.urandom(50).hex()}) for _ in range(6000)]
    whole = gzip.compress("\n".join(rows).encode())
    (folder / "a.jsonl.gz").write_bytes(whole[: len(whole) // 10])
    source = Source("a", path=str(folder))
    with pytest.raises(DamagedError, match="100.0% of the bytes .*, more than 1.00%.*a.jsonl.gz"):
        of(tmp_path, source, max_bad=0.01)
    with pytest.raises(
        DamagedError, match="cannot be read to its end.*repair.*files with --max-bad"
    ):
        of(tmp_path, source)
    write_lines(folder / "b.jsonl", [os.urandom(500).hex() for _ in range(1500)])
    tally = of(tmp_path, source, max_bad=0.05).about.sources["a"]
    size = (folder / "a.jsonl.gz").stat().st_size
    assert (tally.bad, tally.bad_kinds, tally.bad_bytes) == (1, {"file": 1}, size)
    assert tally.file_bytes == size + (folder / "b.jsonl").stat().st_size
    with pytest.raises(DamagedError, match=r"\d\.\d% of the bytes"):
        of(tmp_path, source, max_bad=0.001)


def test_what_was_skipped_is_named(tmp_path, caplog):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"text": "a"}\n' * 95 + '{"text": 1}\n' * 5)
    made = of(tmp_path, Source("a", path=str(folder)), max_bad=0.05)
    assert "skipped 5 lines of 1 file without usable text" in caplog.text
    assert made.about.sources["a"].describe_bad() == "5 lines of 1 file"
    caplog.clear()
    (folder / "b.txt").write_bytes(b"\xff")
    (folder / "c.txt").write_bytes(b"")
    of(tmp_path, Source("a", path=str(folder)), max_bad=0.5)
    assert "skipped 5 lines of 1 file and 2 files without usable text" in caplog.text


def test_the_loss_of_much_text_is_a_warning(tmp_path, caplog):
    rows = [sentence(i) for i in range(60)] + [sentence(0)] * 25 + ["x"] * 15
    write_lines(tmp_path / "a.jsonl", rows)
    write_lines(tmp_path / "b.jsonl", [sentence(i) for i in range(100, 171)] + ["y"] * 29)
    write_lines(tmp_path / "c.jsonl", [f"short {i}" for i in range(9)] + ["long " * 1000])
    of(
        tmp_path,
        Source("much", path=str(tmp_path / "a.jsonl"), min_chars=2),
        Source("little", path=str(tmp_path / "b.jsonl"), min_chars=2),
        Source("bytes", path=str(tmp_path / "c.jsonl"), max_line=100),
    )
    first, second = (record.getMessage() for record in caplog.records)
    assert re.match(
        r"source 'much' lost 40% of its documents and \d\d% of their bytes: "
        r"equal to an earlier one: 25 \(.*a.jsonl:61\); too short \(min_chars = 2\): 15 \(.*:86\)$",
        first,
    )
    assert second.startswith(
        "source 'bytes' lost 10% of its documents and 99% of their bytes: "
        "line too long (max_line = 100): 1 ("
    )


def test_every_source_says_why_no_document_is_left(tmp_path):
    (tmp_path / "a.txt").write_text("short")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x_pb2.py").write_text("x = 1")
    sources = [
        Source(name, path=str(tmp_path / name), min_chars=9) for name in ("a.txt", "b.txt", "c")
    ]
    says = (
        r"source 'a.txt': too short \(min_chars = 9\): 1 \(.*a.txt\); source 'b.txt': "
        r"1 file without usable text \(.*b.txt, byte 0 .*; source 'c': generated: 1 \(x_pb2.py\)"
    )
    with pytest.raises(DamagedError, match=says):
        of(tmp_path, *sources)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX links")
def test_skip_is_a_hint_only_if_it_can_help(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "b.txt").write_text("text")
    (tmp_path / "in" / "b.txt").symlink_to(tmp_path / "b.txt")
    with pytest.raises(InputError, match=r"links out of the directory: 1.*check its files$"):
        of(tmp_path, Source("a", path=str(tmp_path / "in")))
    (tmp_path / "in" / "vendor").mkdir()
    (tmp_path / "in" / "vendor" / "c.txt").write_text("text")
    with pytest.raises(InputError, match="check its files, or set skip in the mixture$"):
        of(tmp_path, Source("a", path=str(tmp_path / "in")))


def test_a_language_that_is_not_known(tmp_path):
    pytest.importorskip("resiliparse")
    (tmp_path / "a.txt").write_text("This is a text in English, which has some words in it.")
    source = {"name": "a", "path": str(tmp_path / "a.txt")}
    with pytest.raises(InputError, match="source 'a': language = 'xx' .*use one of af, .*, en, "):
        of(tmp_path, Source(**source, language="xx"))
    assert not (tmp_path / ".corpus.unfinished").exists()
    assert len(texts(of(tmp_path, Source(**source, language="en")))) == 1


def test_unfinished_work_is_named(tmp_path, caplog, registry):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(FetchError):
        of(
            tmp_path,
            Source("a", path=str(tmp_path / "a.txt")),
            Source("b", packages=("pypi:gone",)),
        )
    (record,) = caplog.records
    assert f"unfinished work is kept in {tmp_path / '.corpus.unfinished'}" in record.getMessage()
    assert list((tmp_path / ".corpus.unfinished").glob("part-*.json"))


def test_a_package_is_not_a_working_directory(tmp_path, monkeypatch):
    """Its files are all read, unless the mixture sets `skip`."""
    with zipfile.ZipFile(tmp_path / "pack-1.0-py3-none-any.whl", "w") as wheel:
        for name in ("vendor/a.py", "pack/b_pb2.py", "pack/c.py", "pack/d.min.js"):
            wheel.writestr(name, f"name = {name!r}")
        wheel.writestr(".gitignore", "c.py")

    def run(command, cwd, **_):
        shutil.copy(tmp_path / "pack-1.0-py3-none-any.whl", cwd)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(registries.subprocess, "run", run)
    made = of(tmp_path, Source("all", packages=("pypi:pack",)))
    assert len(texts(made)) == 4 and not made.about.sources["all"].skipped
    made = of(tmp_path, Source("some", packages=("pypi:pack",), skip=("vendored", "minified")))
    assert len(texts(made)) == 2 and made.about.sources["some"].skipped["vendored"].documents == 1


RECORDS = {
    "array": [{"text": "short"}, {"text": "another text"}],
    "array of texts": ["short", "another text"],
    "one record": {"id": 1, "text": "a text with more than eight spaces, which is not lost at all"},
    "records in an object": {"version": 1, "data": [{"id": 1, "text": "short"}]},
    "records by name": {"1": {"text": "short"}, "2": {"text": "another text"}},
}


@pytest.mark.parametrize("value", RECORDS.values(), ids=RECORDS)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_json_with_records_is_not_read_as_one_text(value, suffix, tmp_path):
    data = json.dumps(value, indent=2).encode()
    path = tmp_path / f"my.json{suffix}"
    path.write_bytes(gzip.compress(data) if suffix else data)
    with pytest.raises(
        DamagedError,
        match=r"read as one text.*has records.*my\.json.*\.jsonl.*jq -c '\.\[\]' my\.json >",
    ):
        of(tmp_path, Source("a", path=str(path)))
    (tmp_path / "in").mkdir()
    path.rename(tmp_path / "in" / path.name)
    (tmp_path / "in" / "b.txt").write_text("text")
    source = Source("a", path=str(tmp_path / "in"), files=("*.json*", "*.txt"))
    made = of(tmp_path, source, max_bad=0.99)
    assert texts(made) == ["text"] and made.about.sources["a"].bad_kinds == {"file": 1}


def test_lines_of_json_in_a_json_file(tmp_path):
    write_lines(tmp_path / "a.json", ["a", "b"])
    with pytest.raises(
        DamagedError, match=r"not valid JSON.*one object per line to a \.jsonl file"
    ):
        of(tmp_path, Source("a", path=str(tmp_path / "a.json")))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 5\n"


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "a.csv", "a.txt.gz"])
def test_pointers_of_git_lfs_are_skipped_and_named(name, tmp_path, caplog):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(POINTER)
    (tmp_path / "in" / "b.md").write_text("text")
    source = Source("a", path=str(tmp_path / "in"), files=("*",))
    made = of(tmp_path, source)
    assert texts(made) == ["text"] and made.about.sources["a"].bad == 1
    assert f"{name} (a Git LFS pointer in place of the file)" in caplog.text
    with pytest.raises(DamagedError, match=r"Git LFS pointer.*git lfs pull"):
        of(tmp_path, source, max_bad=0.0)


def test_damage_says_how_it_can_be_skipped(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"body": 1}\n')
    says = 'a.jsonl:2: fields: "body"; set field in the mixture, or .* of the lines with --max-bad'
    with pytest.raises(DamagedError, match=says):
        of(tmp_path, Source("a", path=str(tmp_path / "a.jsonl")))
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{\n')
    with pytest.raises(
        DamagedError, match="a.jsonl:2: repair it, or .* of the lines with --max-bad"
    ):
        of(tmp_path, Source("a", path=str(tmp_path / "a.jsonl")))


def test_an_array_in_place_of_lines(tmp_path):
    """The whole file is an error, not each of its lines."""
    (tmp_path / "a.jsonl").write_text(json.dumps([{"text": "a"}] * 9, indent=1))
    source = Source("a", path=str(tmp_path / "a.jsonl"))
    says = r"JSON array, not JSON lines: .*a.jsonl: write one object per line, .*of the files with"
    with pytest.raises(DamagedError, match=says):
        of(tmp_path, source)
    with pytest.raises(DamagedError, match="no document is left.*: 1 file .*: write one object"):
        of(tmp_path, source, max_bad=1.0)


def test_the_column_of_a_cut_line_of_json(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n{"text": "b"}\n')
    with pytest.raises(DamagedError, match=r"at column 10\): .*a.jsonl:2: repair it, or"):
        of(tmp_path, Source("a", path=str(tmp_path / "a.jsonl")))


def test_quotes_in_a_table_say_how_they_are_written(tmp_path):
    (tmp_path / "a.tsv").write_text('id\ttext\n1\t"Hello" she said\n')
    says = "a.tsv:2: write the text in double quotes, with two of them for a quote in it, or skip"
    with pytest.raises(DamagedError, match=says):
        of(tmp_path, Source("a", path=str(tmp_path / "a.tsv")))
    (tmp_path / "a.tsv").write_text('id\ttext\n1\t"""Hello"" she said"\n')
    assert texts(of(tmp_path, Source("a", path=str(tmp_path / "a.tsv")))) == ['"Hello" she said']


def test_the_suffix_of_a_mixture_in_capitals(tmp_path):
    (tmp_path / "a.txt").write_text("some text")
    (tmp_path / "Mix.TOML").write_text('[[source]]\nname = "a"\npath = "a.txt"\n')
    mixture = mixtures.read(tmp_path / "Mix.TOML")
    assert [source.path for source in mixture.source] == [str(tmp_path / "a.txt")]


@pytest.mark.parametrize("path", ["s3://bucket/text", Path("http://localhost/a.txt")], ids=str)
def test_urls_are_not_read(path):
    for read in (mixtures.read, lambda path: list(readers.read(path))):
        with pytest.raises(InputError, match="URLs are not read.*download the file"):
            read(path)


@pytest.mark.parametrize(
    "line",
    ['path = "https://host/a.txt"', 'dataset = "hf://datasets/owner/name"', 'path = "s3://b/a"'],
)
def test_urls_in_a_mixture(line, tmp_path):
    (tmp_path / "mix.toml").write_text(f'[[source]]\nname = "a"\n{line}\n')
    with pytest.raises(InputError, match="URLs are not read.*download the file"):
        mixtures.read(tmp_path / "mix.toml")


def test_urls_of_evaluation_sets(tmp_path):
    (tmp_path / "a.txt").write_text("some text")
    with pytest.raises(InputError, match="URLs are not read"):
        mixtures.read(tmp_path / "a.txt", decontaminate=["https://host/a.txt"])


ALONE = {
    "utf-16": ("text".encode("utf-16"), {}, "seems to be UTF-16.*iconv -f UTF-16 -t UTF-8"),
    "latin-1": (b"caf\xe9", {}, r"not UTF-8 text.*iconv -f ENCODING .*\(Japanese\)"),
    "cp1252": (
        b"caf\x81",
        {"encoding": "cp1252"},
        "not CP1252 text.*: set encoding in the mixture",
    ),
    "short": (b"text", {"min_chars": 200}, r"too short \(min_chars = 200\): 1 .*its filters$"),
    "letters": (b"12345", {"min_letters": 0.5}, r"too few letters \(min_letters = 0.5\): 1 "),
    "line": (b"a long line", {"max_line": 5}, r"line too long \(max_line = 5\): 1 "),
    "max_bad": (
        b'{"text": 5, "body": "a"}',
        {},
        'fields: "text", "body"; set field in the mixture',
    ),
    "damaged": (b"{", {}, "not JSON"),
}


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("max_bad", [None, 0.1])
def test_what_a_repeated_call_finds_again_leaves_no_work(name, max_bad, tmp_path, caplog):
    data, options, says = ALONE[name]
    path = tmp_path / ("a.jsonl" if name in ("max_bad", "damaged") else "a.txt")
    path.write_bytes(data)
    with pytest.raises(DamagedError, match=says):
        of(tmp_path, Source("a", path=str(path), **options), max_bad=max_bad)
    assert not caplog.records  # said once, in the error
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("encoding", ["utf-16", "UTF-16", "utf-16-le", "utf-32"])
@pytest.mark.parametrize("suffix", [".txt", ".csv"])
def test_a_mixture_of_utf_16(suffix, encoding, tmp_path):
    text = "text\r\nA capital \u010a and \u0d0a\r\n"
    (tmp_path / f"a{suffix}").write_bytes(text.encode(encoding))
    toml = f'[[source]]\nname = "a"\npath = "a{suffix}"\nencoding = "{encoding}"\n'
    (tmp_path / "m.toml").write_text(toml)
    expected = {".txt": text.replace("\r", ""), ".csv": "A capital \u010a and \u0d0a"}
    assert texts(build(mixtures.read(tmp_path / "m.toml"), tmp_path / "corpus")) == [
        expected[suffix]
    ]


@pytest.mark.parametrize("max_bad", [None, 0.5])
def test_lines_of_json_in_utf_16(max_bad, tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"text": "a"}\r\n{"text": "b"}\r\n'.encode("utf-16"))
    with pytest.raises(DamagedError, match="seems to be UTF-16.*iconv -f UTF-16 -t UTF-8"):
        of(tmp_path, Source("a", path=str(tmp_path / "a.jsonl")), max_bad=max_bad)


def test_errors_in_a_mixture_name_the_source(tmp_path):
    toml = (
        '[[source]]\nname = "a"\npath = "."\n[[source]]\nname = "my web"\npath = "."\n'
        'min_chars = 500\nmax_chars = 100\n[[source]]\nname = 5\npath = "."\n'
        '[[source]]\nname = "d"\npath = "."\nmin_char = 1\n'
    )
    (tmp_path / "m.toml").write_text(toml)
    with pytest.raises(InputError) as error:
        mixtures.read(tmp_path / "m.toml")
    assert error.value.what == (
        "source.my web.min_chars = 500 is more than max_chars = 100; source.2.name = 5 is not "
        "text; unknown key source.d.min_char (did you mean source.d.min_chars?)"
    )


def test_windows_paths_and_misspelt_weights(tmp_path):
    (tmp_path / "a.toml").write_text('[[source]]\nname = "a"\npath = "C:\\Users\\me"\n')
    with pytest.raises(InputError, match="not valid TOML.*write paths with / or in single quotes"):
        mixtures.read(tmp_path / "a.toml")
    with pytest.raises(InputError, match="weights.b: there is no such source: the sources are a"):
        Mixture(source=(Source("a", path="a"),), weights={"b": 1.0})
