"""``motherbird search`` and ``motherbird index``."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from code_files import source

pytest.importorskip("tree_sitter")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository as the current directory, and a cache of its own."""
    monkeypatch.setenv("MOTHERBIRD_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "project"
    for number in range(6):
        path = root / f"part{number % 2}" / f"file_{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source(number))
    (root / ".git").mkdir()
    (root / "README.md").write_text("# Sessions\n\nHow to open one.\n")
    monkeypatch.chdir(root)
    return root


def test_a_question(motherbird, project):
    done = motherbird("search", "open session").done()
    assert done.out.startswith(
        "part0/file_2.py:3  function open_session\n      3  def open_session("
    )
    assert "README.md:1  section Sessions\n      1  # Sessions\n" in done.out
    found = motherbird("search", "open session", "-k", "2", "--json", "--explain").done().json
    assert found["query"] == "open session" and found["seconds"] > 0
    assert found["index"] == {"files": 7, "chunks": 19, "pending": 0, "skipped": {}}
    first = found["hits"][0]
    assert len(found["hits"]) == 2 and first.keys() == {
        "path", "start", "end", "symbol", "kind", "score", "text", "parts",
    }  # fmt: skip
    assert (first["path"], first["start"], first["end"]) == ("part0/file_2.py", 3, 4)
    assert first["text"].startswith("def open_session") and first["parts"]["bm25"] == 1.0


def test_from_a_directory_inside(motherbird, project, monkeypatch):
    """The index is that of the repository, and paths can be opened from here."""
    motherbird("search", "session").done()
    monkeypatch.chdir(project / "part1")
    out = motherbird("search", "session", "..", "--files").done().out.split()
    assert "../README.md" in out and len(out) == len(set(out))
    assert all(os.path.exists(path) for path in out)
    out = motherbird("search", "session", "--files").done().out.split()
    assert out and all(path.startswith("../part1/") for path in out)
    assert len(motherbird("index", "--list", "--json").done().json) == 1


def test_filters_and_lines(motherbird, project):
    def files(*more):
        return set(motherbird("search", "open session", "--files", *more).done().out.split())

    assert files("--type", "prose") == {"README.md"} == files("--path", "*.md")
    assert files("--language", "python") == files("--type", "code") == files("part0", "part1")
    out = motherbird("search", "session2()", "-k", "1", "-C", "1").done().out
    assert out.startswith("part0/file_2.py:") and len(out.splitlines()) >= 4


def test_index(motherbird, project):
    [made] = motherbird("index", "--json").done().json
    assert (made["root"], made["files"], made["new"], made["removed"]) == (str(project), 7, 7, 0)
    assert made["bytes"] > 0 and made["skipped"] == {}
    (project / "README.md").unlink()
    (project / "poetry.lock").write_text("")
    (project / "package-lock.json").write_text("{}")
    done = motherbird("index", "--report").done()
    assert "6 of 8 files in the index (1 new or changed, 1 removed)" in done.out
    assert "1 left out: lock files" in done.out
    assert motherbird("index", "--check").done().out == f"{project}: whole\n"
    assert str(project) in motherbird("index", "--list").done().out
    [deleted] = motherbird("index", "--delete", "--json").done().json
    assert deleted["bytes"] > 0
    assert motherbird("index", "--list").done().out == "no index\n"
    assert motherbird("index", "--delete").done().out == "there was no index\n"
    assert motherbird("index", "--check").code == 1


def test_a_damaged_index(motherbird, project):
    motherbird("index").done()
    [home] = motherbird("index", "--list", "--json").done().json
    [path] = Path(home["index"]).glob("index-*.db")
    path.write_bytes(b"something else  " + path.read_bytes()[16:])
    result = motherbird("index", "--check")
    assert result.code == 1 and "damaged" in result.out
    motherbird("search", "session").refused("index --delete removes it", code=1)


def test_mistakes(motherbird, project, tmp_path):
    motherbird("search", "").refused("the query")
    motherbird("search", "x", "nothing").refused("does not exist")
    motherbird("search", "x", "--language", "pyton").refused("unknown language 'pyton'")
    motherbird("search", "x", "--model", "nowhere").refused("there is no such directory: nowhere")
    motherbird("search", "x", ".", tmp_path).refused("different directories")
    motherbird("index", "--list", "--delete").refused("exclude each other")
    result = motherbird("search", "zzzzzz", "--mode", "bm25")
    assert (result.code, result.out) == (0, "") and result.err == "nothing found in 7 files\n"


@pytest.mark.parametrize(
    "query", ["@nasa", "why?", '"', "NEAR(", "multi-agent", "the of", "a" * 99999]
)
def test_any_text_is_a_query(motherbird, project, query):
    assert motherbird("search", query, "--json").done().json["query"] == query


def test_it_starts_without_torch(project):
    code = (
        "import sys; from motherbird.cli.main import main\n"
        "sys.argv = ['motherbird', 'search', 'open']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'pyarrow', 'transformers'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_many_files_are_indexed_in_the_background(motherbird, project):
    for number in range(250):
        (project / f"more_{number}.py").write_text(source(number))
    call = ("search", "session2()", "--json")
    first = motherbird(*call, "--no-background").done().json
    assert first["index"]["pending"] == 257 and first["hits"][0]["symbol"] == "session2"
    result = motherbird("search", "session2()")
    assert "257 files not in the index yet" in result.err
    assert "it is being made in the background" in result.err
    end = time.monotonic() + 60
    while motherbird(*call, "--no-background").json["index"]["pending"]:
        assert time.monotonic() < end
        time.sleep(0.2)
    found = motherbird(*call).done().json
    assert found["index"]["files"] == 257 and found["hits"][0]["symbol"] == "session2"
