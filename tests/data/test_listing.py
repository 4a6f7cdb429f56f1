"""Which files of a directory are read: links, .gitignore, vendored files."""

import logging
import os
import shutil
import subprocess

import pytest

from motherbird.data import mixture as mixtures
from motherbird.data.corpus import build
from motherbird.data.mixture import Mixture, Source
from motherbird.data.overlap import evaluation_runs
from motherbird.data.readers import list_directory, read
from motherbird.errors import InputError

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX links and pipes")


def write(folder, *names, text="some text\n"):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} {text}" if text == "some text\n" else text)


def names_of(listing, folder):
    return [path.relative_to(folder).as_posix() for path in listing.files]


def skipped(listing):
    return {reason: count.documents for reason, count in listing.skipped.items()}


# --- links


@pytest.fixture
def snapshot(tmp_path):
    """A dataset in the cache of the Hugging Face Hub: files are links to blobs."""
    repository = tmp_path / "hub" / "datasets--owner--name"
    write(repository / "blobs", "1a2b", "3c4d")
    write(repository / "blobs", "5e6f", text='{"text": "a row"}\n')
    folder = repository / "snapshots" / "0123abcd"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").symlink_to("../../blobs/1a2b")
    (folder / "data" / "a.txt").symlink_to("../../../blobs/3c4d")
    return folder


@posix
def test_a_snapshot_of_the_hub(snapshot, tmp_path):
    assert [document.text for document in read(snapshot)] == [
        "1a2b some text\n",
        "3c4d some text\n",
    ]
    assert [document.text for document in read(snapshot / "data")] == ["3c4d some text\n"]
    (tmp_path / "link").symlink_to(snapshot)
    corpus = build(mixtures.read(tmp_path / "link"), tmp_path / "corpus", processes=1)
    assert len(list(corpus)) == 2
    with pytest.raises(InputError, match=r"links out of the directory: 1 \(README.md\)"):
        (snapshot / "data" / "a.txt").unlink()
        write(tmp_path, "elsewhere.md")
        (snapshot / "README.md").unlink()
        (snapshot / "README.md").symlink_to(tmp_path / "elsewhere.md")
        build(mixtures.read(snapshot), tmp_path / "corpus2")


@posix
def test_a_file_that_is_a_link_has_the_suffix_of_its_own_name(snapshot, tmp_path):
    (snapshot / "rows.jsonl").symlink_to("../../blobs/5e6f")
    for path in (snapshot / "rows.jsonl", snapshot):
        corpus = build(mixtures.read(path), tmp_path / "corpus", processes=1)
        assert "a row" in [document.text for document in corpus]


@posix
def test_the_texts_of_an_evaluation_set_can_be_links(tmp_path):
    write(tmp_path, ".store/x", text=" ".join(f"w{i}" for i in range(20)))
    (tmp_path / "a.txt").symlink_to(".store/x")
    assert len(evaluation_runs([tmp_path])) == 8


@posix
def test_links_inside_the_directory_are_followed(tmp_path):
    folder = tmp_path / "in"
    write(folder, "b/real.txt", ".store/hidden", ".annex/x.txt")
    (folder / "a.txt").symlink_to("b/real.txt")  # read once, under its own name
    (folder / "stored.txt").symlink_to(".store/hidden")
    (folder / "annex").symlink_to(".annex")
    (folder / "again").symlink_to("b")
    listing = list_directory(folder)
    assert names_of(listing, folder) == ["annex/x.txt", "b/real.txt", "stored.txt"]
    assert not listing.skipped
    # The name of the link counts if only that is wanted.
    assert names_of(list_directory(folder, ["again/*"]), folder) == ["again/real.txt"]
    assert names_of(list_directory(folder, ["a.txt"]), folder) == ["a.txt"]


@posix
def test_links_that_are_not_followed_are_counted(tmp_path, caplog):
    folder = tmp_path / "in"
    write(folder, "a.txt", "sub/b.txt")
    write(tmp_path, "out/c.txt", "out/d.txt")
    (folder / "c.txt").symlink_to(tmp_path / "out" / "c.txt")
    (folder / "out").symlink_to("../out")
    (folder / "sub" / "up").symlink_to("..")
    (folder / "self").symlink_to(".")
    (folder / "gone.txt").symlink_to("nowhere")
    (folder / "picture.png").symlink_to(tmp_path)  # a directory
    os.mkfifo(folder / "pipe.txt")
    listing = list_directory(folder)
    assert names_of(listing, folder) == ["a.txt", "sub/b.txt"]
    expected = {"links out of the directory": 3, "link loops": 2, "broken links": 1,
                "special files": 1}  # fmt: skip
    assert skipped(listing) == expected
    with caplog.at_level(logging.WARNING):
        list(read(folder))
    assert "links out of the directory: 3 (c.txt)" in caplog.text and "loops: 2" in caplog.text
    caplog.clear()
    made = build(mixtures.read(folder), tmp_path / "corpus", processes=1)
    assert "links out of the directory: 3 (c.txt)" in caplog.text and "loops: 2" in caplog.text
    assert skipped(made.about.sources["in"]) == expected


@posix
def test_directories_that_link_to_each_other(tmp_path):
    for one in "abcdef":
        write(tmp_path, f"{one}/x.txt")
        for other in "abcdef":
            (tmp_path / one / other).symlink_to(f"../{other}")
    listing = list_directory(tmp_path)
    assert names_of(listing, tmp_path) == [f"{one}/x.txt" for one in "abcdef"]


# --- .gitignore and vendored files


GITIGNORES = [
    {".gitignore": "*.log.txt\nbuild/\n!keep.log.txt\n"},
    {".gitignore": "/top.txt\nsub/*.txt\n!sub/keep.txt\n", "sub/.gitignore": "!other.txt\n"},
    {".gitignore": "build\n!build/a.txt\n"},
    {".gitignore": "**/deep/**\n", "a/.gitignore": "*\n!*.txt\n"},
    {".gitignore": "sub/\n", "sub/.gitignore": "!*.txt\n"},
    {".gitignore": "# comment\n\\#x.txt\n[ab]?.txt\ntrailing.txt   \n"},
    {"a/.gitignore": "/x.txt\nb/x.txt\n"},
    {".gitignore": "*\n!*/\n!*.md\n"},
]
FILES = ["top.txt", "x.log.txt", "keep.log.txt", "build/a.txt", "sub/build/b.txt", "sub/top.txt",
         "sub/keep.txt", "sub/other.txt", "a/deep/b/c.txt", "a/x.txt", "a/b/x.txt", "a/b/y.md",
         "#x.txt", "b1.txt", "trailing.txt", "sub/a.md"]  # fmt: skip


@pytest.mark.parametrize("patterns", GITIGNORES, ids=range(len(GITIGNORES)))
def test_gitignore_as_git_reads_it(patterns, tmp_path):
    if shutil.which("git") is None:
        pytest.skip("needs git, the oracle")
    write(tmp_path, *FILES)
    for name, text in patterns.items():
        write(tmp_path, name, text=text)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    options = ["-c", "core.excludesFile=", "ls-files", "--others", "--exclude-standard", "-z"]
    command = ["git", *options]
    output = subprocess.run(
        command, cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    expected = sorted(name for name in output.split("\0") if name and ".gitignore" not in name)
    listing = list_directory(tmp_path, rules=("gitignored",))
    assert sorted(names_of(listing, tmp_path)) == expected
    assert skipped(listing).get("gitignored", 0) == len(FILES) - len(expected)
    assert len(list_directory(tmp_path).files) == len(FILES)


@pytest.fixture
def project(tmp_path):
    """A working directory of code, of which a third was written by hand."""
    folder = tmp_path / "project"
    write(
        folder, "app.js", "lib/node_modules/x/index.js", "vendor/y.js", "env/lib/z.py",
        "env/lib/site-packages/w.py", "third_party/v.c", "dist/out.js",
    )  # fmt: skip
    write(folder, "env/pyvenv.cfg", text="home = /usr\n")
    write(folder, ".gitignore", text="dist/\n")
    write(folder, "app.min.js", text="x=1\n")
    write(folder, "packed.js", text="var a=1;" * 100)
    write(folder, "api_pb2.py", text="x = 1\n")
    write(folder, "names.go", text="// Code generated by stringer; DO NOT EDIT.\npackage x\n")
    return folder


def test_a_working_directory(project, tmp_path):
    source = Source("code", path=str(project))
    made = build(Mixture(source=(source,)), tmp_path / "corpus", processes=1)
    assert [document.text for document in made] == ["app.js some text\n"]
    tally = made.about.sources["code"]
    assert skipped(tally) == {"gitignored": 1, "vendored": 5, "generated": 2, "minified": 2}
    assert tally.skipped["gitignored"].examples == [{"where": "dist/out.js"}]
    assert tally.skipped["gitignored"].bytes == len("dist/out.js some text\n")
    assert tally.skipped["generated"].examples == [{"where": "api_pb2.py"}, {"where": "names.go"}]
    assert tally.read.documents == 1 and not tally.dropped


def test_the_rules_can_be_changed(project, tmp_path):
    def texts(name, toml):
        (tmp_path / "m.toml").write_text(f'[[source]]\nname = "code"\npath = "project"\n{toml}')
        made = build(mixtures.read(tmp_path / "m.toml"), tmp_path / name, processes=1)
        return {document.text.split()[0] for document in made}

    assert len(texts("a", "skip = []")) == 11
    assert texts("b", 'skip = ["gitignored", "generated", "minified"]') == {
        "app.js", "lib/node_modules/x/index.js", "vendor/y.js", "env/lib/z.py",
        "env/lib/site-packages/w.py", "third_party/v.c",
    }  # fmt: skip
    with pytest.raises(InputError, match="skip.0 = 'vendor' is not one of gitignored, vendored"):
        texts("c", 'skip = ["vendor"]')


def test_a_named_file_and_a_named_directory_are_read(project, tmp_path):
    for path in (project / "app.min.js", project / "lib" / "node_modules"):
        made = build(mixtures.read(path), tmp_path / "corpus", processes=1)
        assert len(list(made)) == 1 and not made.about.sources[path.name.split(".")[0]].skipped


def test_everything_is_skipped(project, tmp_path):
    shutil.rmtree(project / "env")
    (project / "third_party").rename(tmp_path / "x")
    source = Source("code", path=str(project), files=("vendor/*",))
    with pytest.raises(InputError, match=r"no file to read .skipped vendored: 1 .vendor/y.js"):
        build(Mixture(source=(source,)), tmp_path / "corpus")


def test_patterns_that_cannot_be_read(tmp_path, monkeypatch):
    write(tmp_path / "in", "a.txt", ".gitignore")

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(type(tmp_path), "read_bytes", denied)
    with pytest.raises(InputError, match=r"the patterns cannot be read .Perm.*\.gitignore.*skip"):
        build(mixtures.read(tmp_path / "in"), tmp_path / "corpus")


# --- other suffixes


@pytest.fixture
def mixed(tmp_path):
    """A directory with one text among files of other suffixes."""
    folder = tmp_path / "mixed"
    write(folder, "a.txt", "s2.log", "s3.log", "sub/s4.LOG", "notes", "LICENSE", "t.csv", "u.tgz",
          "v.txt.xz", "node_modules/x.log", ".hidden.log")  # fmt: skip
    return folder


EXAMPLES = [{"where": "s2.log", "suffix": ".log 3"}, {"where": "LICENSE", "suffix": "no suffix 2"},
            {"where": "t.csv", "suffix": ".csv 1"}]  # fmt: skip


def test_files_with_other_suffixes_are_counted(mixed, tmp_path, caplog):
    said = "other suffixes: 8 (.log 3, no suffix 2, .csv 1, such as s2.log)"
    made = build(mixtures.read(mixed), tmp_path / "corpus", processes=1)
    tally = made.about.sources["mixed"]
    assert skipped(tally) == {"other suffixes": 8}
    assert tally.skipped["other suffixes"].examples == EXAMPLES
    assert not caplog.records
    assert [document.text for document in read(mixed)] == ["a.txt some text\n"]
    assert (
        "other suffixes: 9 (.log 4, no suffix 2, .csv 1, such as node_m" in caplog.text
    )  # no rules
    (mixed / "a.txt").unlink()
    with pytest.raises(InputError) as error:
        build(mixtures.read(mixed), tmp_path / "corpus")
    assert f"no file to read (skipped {said})" in str(error.value)
    assert str(error.value).endswith("set files in the mixture to read them")
    with pytest.raises(InputError, match=r"no text was found .other suffixes: 9 .\.log 4"):
        list(read(mixed))


def test_files_that_a_mixture_leaves_out_are_not_other_ones(mixed):
    assert skipped(list_directory(mixed, ["*.log"])) == {}
    assert skipped(list_directory(mixed, suffixes=[".py"])) == {}
    assert skipped(list_directory(mixed, ["!*.log"])) == {"other suffixes": 5 + 1}


@posix
def test_a_file_that_is_read_under_another_name_is_not_another_one(tmp_path):
    write(tmp_path, "in/b.log", "in/c.log")
    (tmp_path / "in" / "b.txt").symlink_to("b.log")
    (tmp_path / "in" / "d.log").symlink_to("c.log")
    listing = list_directory(tmp_path / "in")
    assert names_of(listing, tmp_path / "in") == ["b.txt"]
    assert skipped(listing) == {"other suffixes": 1}
