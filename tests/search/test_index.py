"""The index of a directory: it always answers as one that was made anew."""

import os
import time

import numpy as np
import pytest
from code_files import WORDS, source
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from motherbird import disk
from motherbird.errors import BusyError, DamagedError, InputError
from motherbird.search import background, tree
from motherbird.search import index as module
from motherbird.search.build import cosines, decode, pack
from motherbird.search.cache import home_of, root_of
from motherbird.search.entry import InBytes
from motherbird.search.filters import Filters
from motherbird.search.index import Index

QUERIES = ("how to open a session", "parse_session", "route buffer", "tokens", "token3")


def answers(index):
    """Return everything that a search says, for some queries."""
    found = []
    for query in QUERIES:
        result = index.search(query, 50)
        found.append([
            (hit.path, hit.start, hit.end, hit.symbol, hit.kind, hit.text, round(hit.score, 9))
            for hit in result.hits
        ])  # fmt: skip
        found.append((result.files, result.chunks, result.pending))
    return found


def fresh(root, tmp_path):
    """Return the answers of a new index."""
    path = tmp_path / f"fresh-{time.monotonic_ns()}.db"
    index = Index(root, path)
    try:
        return answers(index)
    finally:
        index.close()


def test_a_search_makes_the_index(folder):
    index = Index.open(folder, None)
    result = index.search("how to open a session")
    assert (result.files, result.pending) == (13, 0) and result.chunks >= 26
    best = result.hits[0]
    assert (best.symbol, best.kind, best.start, best.end) == ("open_session", "function", 3, 4)
    assert ("README.md", "Project", "section") in {
        (hit.path, hit.symbol, hit.kind) for hit in result.hits
    }
    best = index.search("session2()").hits[0]
    assert (best.symbol, best.kind) == ("session2", "function")
    assert best.text.startswith("def session2(") and best.parts["definition"] > 0


@st.composite
def edits(draw):
    """Yield what is done to a directory, one after another."""
    paths = st.sampled_from([f"part{a}/file_{b}.py" for a in range(4) for b in range(6)])
    one = st.one_of(
        st.tuples(st.just("write"), paths, st.integers(0, 40)),
        st.tuples(st.just("remove"), paths),
        st.tuples(st.just("rename"), paths, paths),
        st.tuples(st.just("ignore"), st.sampled_from(["part1/", "file_2.py", "*_3.py", ""])),
        st.tuples(st.just("search"), st.sampled_from(QUERIES)),
        st.tuples(st.just("open")),
    )
    return draw(st.lists(one, max_size=12))


def apply(root, edit):
    what, *rest = edit
    path = root / rest[0] if rest else root
    if what == "write":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source(rest[1]))
    elif what == "remove":
        path.unlink(missing_ok=True)
    elif what == "rename" and path.exists():
        (root / rest[1]).parent.mkdir(parents=True, exist_ok=True)
        path.replace(root / rest[1])
    elif what == "ignore":
        (root / ".gitignore").write_text(rest[0] + "\n")


def check_edits(sequence, tmp_path):
    root = tmp_path / f"project-{time.monotonic_ns()}"
    root.mkdir()
    (root / "file.py").write_text(source(1))
    index = Index(root, tmp_path / f"{root.name}.db")
    for edit in sequence:
        if edit[0] == "search":
            index.search(edit[1])
        elif edit[0] == "open":
            index.close()
            index = Index(root, tmp_path / f"{root.name}.db")
        else:
            apply(root, edit)
    assert answers(index) == fresh(root, tmp_path)
    assert index.store.problems() == []
    index.close()


relaxed = settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@relaxed
@given(edits())
def test_edits(tmp_path, sequence):
    check_edits(sequence, tmp_path)


@pytest.mark.slow
@settings(relaxed, max_examples=200)
@given(edits())
def test_200_sequences_of_edits(tmp_path, sequence):
    check_edits(sequence, tmp_path)


def test_many_files_are_scanned_first(folder, tmp_path, monkeypatch):
    """The answer is nearly that of the index, and nothing is written."""
    monkeypatch.setattr(module, "FEW", 5)
    index = Index(folder, tmp_path / "index.db")
    result = index.search("session3")
    assert (result.files, result.pending) == (0, 13)
    first = result.hits[0]
    index.refresh()
    again = index.search("session3")
    assert (again.files, again.pending) == (13, 0)
    assert (again.hits[0].path, again.hits[0].start) == (first.path, first.start)


def test_processes_read_many_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "LITTLE", 0)
    monkeypatch.setattr(module, "BATCH", 3)
    monkeypatch.setattr(module.threads, "count", lambda: 2)
    done = []
    index = Index(folder, tmp_path / "index.db")
    index.refresh(on_files=lambda *numbers: done.append(numbers))
    assert done == [(3, 13), (6, 13), (9, 13), (12, 13), (13, 13)]
    monkeypatch.undo()
    assert answers(index) == fresh(folder, tmp_path)


def test_files_that_are_left_out(folder, tmp_path):
    (folder / "big.py").write_text("x = 1\n" * 400_000)
    (folder / "poetry.lock").write_text("session\n")
    (folder / "package-lock.json").write_text("{}\n")
    (folder / "secrets.yaml").write_text("session: 1\n")
    (folder / "data.txt").write_bytes(b"session\0")
    (folder / "made.py").write_text("# automatically generated by a tool\nsession = 1\n")
    (folder / ".gitignore").write_text("part0/\n")
    index = Index.open(folder, None)
    index.refresh()
    result = index.search("session")
    assert result.skipped == {
        "gitignored": 4, "generated": 1, "larger than 2 MB": 1, "lock files": 1, "not text": 1,
        "secrets, by their names": 1, "other suffixes": 1,
    }  # fmt: skip
    assert not {hit.path for hit in result.hits} & {"data.txt", "made.py", "secrets.yaml"}
    assert index.search("session").skipped == result.skipped
    (folder / "data.txt").write_bytes(b"session session\n")
    assert "data.txt" in {hit.path for hit in index.search("session", 50).hits}


def test_own_patterns_overrule_others(folder, monkeypatch, tmp_path):
    """Those of .motherbirdignore, git's for the repository, and git's for all repositories."""
    settings = tmp_path / "settings" / "git"
    settings.mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(settings.parent))
    (settings / "ignore").write_text("file_1.py\nfile_2.py\n")
    (folder / ".git/info").mkdir(parents=True)
    (folder / ".git/info/exclude").write_text("!file_2.py\nfile_3.py\n")
    (folder / "vendor").mkdir()
    (folder / "vendor/a.py").write_text(source(2))
    (folder / ".gitignore").write_text("part0/\n")
    (folder / ".motherbirdignore").write_text("!vendor/\n!part0/\nfile_4.py\n")
    paths = {
        hit.path for hit in Index.open(folder, None).search("open session close token", 100).hits
    }
    names = {path.rpartition("/")[2] for path in paths}
    assert {"a.py", "file_0.py", "file_2.py"} <= names
    assert not names & {"file_1.py", "file_3.py", "file_4.py"}


def test_encodings():
    assert decode("ä".encode("utf-16")) == "ä" == decode("\ufeffä".encode()) == decode(b"\xe4")
    assert decode(b"\xff\xfe\x00") is None and decode(b"\x01\x02\xe4" * 9) is None


def test_filters(folder):
    index = Index.open(folder, None)

    def paths(**filters):
        return {
            hit.path for hit in index.search("open session", 50, filters=Filters(**filters)).hits
        }

    assert paths(inside=("part1",)) and all(
        p.startswith("part1/") for p in paths(inside=("part1",))
    )
    assert paths(kind="prose") == {"README.md"} == paths(paths=("*.md",))
    assert paths(languages=("python",)) == paths(kind="code") == paths(paths=("part?/*",))
    assert not paths(languages=("go",)) and "README.md" in paths()


def test_the_index_of_a_repository_is_that_of_its_directories(folder, tmp_path):
    (folder / ".git").mkdir()
    assert root_of(folder / "part1") == root_of(folder / "README.md") == folder
    home = home_of(folder)
    assert home.root == folder and home.path.stat().st_mode & 0o777 == 0o700
    with pytest.raises(InputError, match="does not exist"):
        root_of(tmp_path / "nothing")


def test_a_damaged_index_is_named(folder, tmp_path):
    path = tmp_path / "index.db"
    index = Index(folder, path)
    index.refresh()
    index.close()
    data = bytearray(path.read_bytes())
    data[:16] = b"not an index ..."
    path.write_bytes(data)
    with pytest.raises(DamagedError, match="index --delete"):
        Index(folder, path)


def test_an_index_that_is_damaged_inside_is_named(folder, tmp_path):
    path = tmp_path / "index.db"
    index = Index(folder, path)
    index.refresh()
    index.close()
    data = path.read_bytes()
    path.write_bytes(data[:4096] + bytes(len(data) - 4096))
    with pytest.raises(DamagedError, match="index --delete"):
        Index(folder, path).search("session")


def test_indexes_of_earlier_versions_are_removed(folder):
    home = home_of(root_of(folder))
    old = [home.path / name for name in ("index-1.db", "index-1.db-wal")]
    kept = [home.path / name for name in ("index-9999.db", "index-2.db", "index-x.db")]
    for path in (*old, *kept):
        path.write_text("")
    with disk.locked(home.path / "index-2.lock"):  # another version uses it
        Index.open(folder, None).close()
    assert not any(path.exists() for path in old) and all(path.exists() for path in kept)
    assert not (home.path / "index-1.lock").exists()


def test_wrong_arguments(folder):
    index = Index.open(folder, None)
    for call, says in (
        (lambda: index.search(""), "the query"),
        (lambda: index.search("a", 0), "count"),
        (lambda: index.search("a", mode="dense"), "needs vectors"),
        (lambda: Filters(languages=("pyton",)), "unknown language 'pyton'"),
    ):
        with pytest.raises(InputError, match=says):
            call()


def test_another_process_that_indexes_is_named(folder, tmp_path, monkeypatch):
    """An error while the index is locked is raised as it is."""
    monkeypatch.setattr(module, "WAIT", 0.3)
    index = Index(folder, tmp_path / "index.db")
    with disk.locked(tmp_path / "index.lock"):
        with pytest.raises(BusyError, match=f"pid {os.getpid()}"):
            index.refresh()

    def fail(*arguments):
        raise InputError("a mistake")

    monkeypatch.setattr(index, "_put", fail)
    with pytest.raises(InputError, match="a mistake"):
        index.refresh()


@pytest.mark.skipif(
    os.name != "posix" or os.uname().sysname != "Linux", reason="needs bytes in names"
)
def test_names_of_odd_bytes(folder):
    name = os.fsencode(folder) + b"/odd\xff\n.py"
    with open(name, "w") as file:
        file.write(source(5))
    index = Index.open(folder, None)
    assert any(hit.path.startswith("odd") for hit in index.search(f"{WORDS[5]}", 50).hits)
    os.unlink(name)
    assert not any(hit.path.startswith("odd") for hit in index.search(f"{WORDS[5]}", 50).hits)


class Letters:
    """A model whose vectors are the frequencies of letters."""

    name = "letters"

    def embed(self, texts):
        found = np.array(
            [[text.lower().count(c) for c in "abcdefghijklmnopqrst"] for text in texts]
        )
        return (found / np.linalg.norm(found, axis=1, keepdims=True).clip(1)).astype(np.float32)


def test_vectors(folder, tmp_path):
    """They are added to an index without them, and follow the files."""
    Index(folder, tmp_path / "index.db").refresh()
    index = Index(folder, tmp_path / "index.db", Letters())
    dense = index.search("open", mode="dense", use_rules=False).hits
    assert len(dense) == 10 and dense[0].parts["cosine"] == 1.0
    (folder / "letters.txt").write_text("open open open\n")
    assert index.search("open", mode="dense", use_rules=False).hits[0].path == "letters.txt"
    both = index.search("open").hits[0].parts
    assert both["bm25"] > 0 and "cosine" in both
    assert index.store.without_vectors("letters") == []


def test_a_scan_has_vectors_too(folder, tmp_path, monkeypatch):
    """Those of the best files; and with mode dense, nothing else ranks them."""
    monkeypatch.setattr(module, "FEW", 5)
    scanned = Index(folder, tmp_path / "other.db", Letters())
    index = Index(folder, tmp_path / "index.db", Letters())
    index.refresh()
    for mode in ("hybrid", "dense"):
        found = scanned.search("parse session", mode=mode, use_rules=False)
        assert found.pending == 13
        wanted = index.search("parse session", mode=mode, use_rules=False).hits
        assert {hit.text for hit in found.hits[:3]} == {hit.text for hit in wanted[:3]}
        for hit, own in zip(found.hits, wanted, strict=True):
            assert hit.parts["cosine"] == pytest.approx(own.parts["cosine"], abs=1e-6)
    assert not any("cosine" in hit.parts for hit in scanned.search("parse", mode="bm25").hits)


def test_vectors_of_many_files_are_left_to_the_background(folder, tmp_path, monkeypatch):
    """The index has them by words alone. Until they are there, a scan answers, without a lock."""
    Index(folder, tmp_path / "index.db").refresh()
    monkeypatch.setattr(module, "FEW", 5)
    index = Index(folder, tmp_path / "index.db", Letters())
    (folder / "new.py").write_text("zebra = 1\n")
    with disk.locked(tmp_path / "index.lock"):
        for mode in ("hybrid", "dense"):
            result = index.search("zebra", mode=mode)
            assert (result.files, result.pending) == (13, 14) and result.hits
    result = index.search("zebra", mode="bm25")
    assert result.pending == 0 and [hit.path for hit in result.hits] == ["new.py"]
    index.refresh()
    assert index.search("zebra").pending == 0 == len(index.store.without_vectors("letters"))


def test_vectors_in_8_bits():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(9000, 24)).astype(np.float32)
    query = draw.normal(size=24).astype(np.float32)
    assert np.abs(cosines(pack(vectors), query) - vectors @ query).max() < 0.2
    assert cosines(pack(vectors[:1]), query).shape == (1,)
    assert cosines(InBytes(b"", b""), query).shape == (0,)


def test_changes_of_the_same_size_in_the_same_moment(folder, tmp_path):
    """Also where the time of modification does not tell."""
    path = folder / "part1/file_1.py"
    index = Index.open(folder, None)
    for number in range(30):
        path.write_text(f"def zebra():\n    return {number:03}\n")
        if number % 3 == 0:
            os.utime(path, ns=(0, path.stat().st_mtime_ns))
        [hit] = index.search("zebra").hits
        assert f"return {number:03}" in hit.text
        (folder / f"new_{number}.txt").write_text("giraffe")
        assert len(index.search("giraffe", 50, use_rules=False).hits) == number + 1


def test_a_file_that_is_only_touched_is_not_read_again(folder, tmp_path):
    index = Index(folder, tmp_path / "index.db", Letters())
    index.refresh()
    before = index.store.db.execute(
        "select id, first, data from files, vectors on id = file"
    ).fetchall()
    for path in folder.rglob("*.py"):
        os.utime(path, ns=(0, 10**18))
    index.refresh()
    assert not index.changes().new
    after = index.store.db.execute(
        "select id, first, data from files, vectors on id = file"
    ).fetchall()
    assert before == after


def test_the_listing_is_kept_for_other_processes(folder, monkeypatch):
    """A new `Index` lists the directory only if a directory or a file of patterns has changed."""
    made = []

    def find_files(root):
        made.append(root)
        return tree.find_files(root)

    monkeypatch.setattr(module, "find_files", find_files)

    def searched():
        """Return whether a new index lists the directory, and the paths of some hits."""
        time.sleep(0.15)  # later than one tick of the clock
        before, index = len(made), Index.open(folder, None)
        paths = {hit.path for hit in index.search("zebra", 50).hits}
        index.close()
        return len(made) > before, paths

    assert searched() == (True, set()) and searched()[0] is False
    (folder / "new.py").write_text("def zebra():\n    return 'a zebra'\n")
    assert searched() == (True, {"new.py"}) and searched() == (False, {"new.py"})
    (folder / "new.py").write_text("def horse():\n    return 'a zebra'\n")
    assert searched() == (False, {"new.py"})
    (folder / ".gitignore").write_text("new.py\n")
    assert searched() == (True, set()) and searched()[0] is False
    (folder / ".gitignore").write_text("old.py\n")
    assert searched() == (True, {"new.py"})
    (folder / "new.py").unlink()
    assert searched() == (True, set())
    (folder / "part0" / "deep").mkdir()
    (folder / "part0" / "deep" / "er.py").write_text("ZEBRA = 1\n")
    assert searched() == (True, {"part0/deep/er.py"})


@pytest.mark.parametrize("made", [True, False])
def test_the_model_of_the_background(folder, monkeypatch, made):
    """A directory is found from anywhere; a name stays a name."""
    monkeypatch.chdir(folder)
    if made:
        (folder / "owner" / "name").mkdir(parents=True)
    calls = []

    class Process:
        pid = os.getpid()
        returncode = None

        def __init__(self, command, **options):
            calls.append(command)

    monkeypatch.setattr(background.subprocess, "Popen", Process)
    monkeypatch.setattr(background.os, "setpriority", lambda *given: None)
    assert background.start(root_of(folder), "owner/name")
    assert calls[0][-1] == (str(folder / "owner" / "name") if made else "owner/name")


def test_a_listing_of_a_file_that_was_written_a_moment_ago(folder):
    """Its time says nothing, also when the file is gone."""
    (folder / ".git" / "info").mkdir(parents=True)
    exclude = folder / ".git" / "info" / "exclude"
    exclude.write_text("part0\n")
    listing = tree.find_files(folder)
    assert listing.seen[str(exclude)] == -1 and not any("part0" in n for n in listing.names)
    listing.seen = {str(exclude): -1}
    exclude.unlink()
    assert not listing.is_current()
