"""The patterns of .gitignore files, compared with git."""

import os
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from motherbird.data import mixture as mixtures
from motherbird.data.corpus import build
from motherbird.data.readers import list_directory

pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git, the oracle"),
    pytest.mark.skipif(os.name == "nt", reason="needs POSIX file names"),
]

FILES = [
    b"a.txt", b"b.md", b"#x.txt", b"!x.txt", b"a b ", b"a\\", b"[a].txt", b"caf\xc3\xa9.txt",
    b"\xff",
    b"doc/a.txt", b"doc/b.md", b"doc/doc/a.txt", b"doc/sub/a.txt", b"doc/sub/deep/a.txt",
    b"build/a.txt", b"a/build/a.txt", b"a/doc/b.md", b"a/x/y/b.md", b"sub /a.txt", b"a-b/]",
]  # fmt: skip
CASES = {
    "byte order mark": {b".": b"\xef\xbb\xbf*.txt\n"},
    "a mark and a comment": {b".": b"\xef\xbb\xbf# text\n*.md\n"},
    "a directory is included again, not its files": {b".": b"*.txt\n", b"a": b"!doc/\n!x\n"},
    "the same in the same file": {b".": b"*.md\n!doc/\n!doc\n"},
    "a name is included again with what is below": {b".": b"doc\n", b"doc": b"!sub\n"},
    "directories below": {b".": b"doc/**/\n"},
    "everything below": {b".": b"doc/**\n!doc/sub/\n"},
    "stars before a slash": {b".": b"**/sub/\n**/b.md\n"},
    "an escaped space": {b".": b"a\\ b\\ \ndoc\\ \nsub\\ \n"},
    "only an exclamation mark": {b".": b"!\n*.md\n"},
    "only a slash": {b".": b"/\n//\n*.md\n"},
    "a backslash at the end": {b".": b"a\\\n*.md\n"},
    "an escaped backslash": {b".": b"a\\\\\n"},
    "escaped marks": {b".": b"\\#x.txt\n\\!x.txt\n"},
    "an open set": {b".": b"[a.txt\n*.md\n"},
    "sets": {b".": b"[[:alpha:]].txt\n[]]\n[!a-c].md\n\\[a].txt\n"},
    "an unknown class": {b".": b"[[:letter:]].txt\nb.md\n"},
    "a range from right to left": {b".": b"[z-a].txt\n[!z-a].md\n"},
    "bytes of other encodings": {b".": b"\xff\ncaf??.txt\n"},
    "Windows": {b".": b"*.txt\r\n!doc/\r\n\r\n/b.md \r\n"},
    "an old Mac": {b".": b"*.txt\r*.md"},
}


def check(root, files):
    """The files that are listed are those of git."""
    for home, text in files.items():
        with open(os.path.join(os.fsencode(root), home, b".gitignore"), "wb") as file:
            file.write(text)
    command = [
        "git",
        "-c",
        "core.excludesFile=",
        "ls-files",
        "--others",
        "--exclude-standard",
        "-z",
    ]
    found = subprocess.run(command, cwd=root, check=True, capture_output=True).stdout.split(b"\0")
    expected = sorted(name for name in found if name and not name.endswith(b".gitignore"))
    listing = list_directory(root, ["*"], rules=("gitignored",))
    assert sorted(os.fsencode(path.relative_to(root)) for path in listing.files) == expected
    skipped = sum(count.documents for count in listing.skipped.values())
    assert len(expected) + skipped == len(FILES)
    for home in files:
        os.unlink(os.path.join(os.fsencode(root), home, b".gitignore"))


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    for name in FILES:
        path = os.path.join(os.fsencode(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(b"text")
    return root


@pytest.mark.parametrize("case", CASES)
def test_as_git_reads_it(case, repository):
    check(repository, CASES[case])


lines = st.lists(
    st.sampled_from(
        "* ** *** / // ? ! # \\ [ ] [a [!a [^a-c] [[:alpha:]] [[:x:]] - . a b x doc sub build "
        "txt md a.txt *.txt *.md doc/ /doc !doc !doc/ **/ /** \\* \ufeff é".split()
        + [" ", "  ", "\r"]
    ),
    max_size=5,
).map(lambda parts: "".join(parts).encode())
texts = st.lists(lines, max_size=4).map(b"\n".join)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from([b".", b"doc", b"doc/sub", b"a"]), texts))
def test_any_patterns(repository, files):
    check(repository, files)


def test_a_link_or_a_directory_has_no_patterns(repository, tmp_path):
    root = tmp_path / "in"
    shutil.copytree(repository, root)
    (root / "b.md").write_text("*")
    (root / "doc" / ".gitignore").symlink_to("../b.md")
    (root / "build" / ".gitignore").mkdir()
    check(root, {b".": b"b.md\n"})


def test_a_link_to_a_directory_is_a_file(tmp_path):
    (tmp_path / ".store").mkdir()
    (tmp_path / ".store" / "a.txt").write_text("text")
    (tmp_path / "linked").symlink_to(".store")
    for pattern, expected in (("linked/", ["a.txt"]), ("linked", [])):
        (tmp_path / ".gitignore").write_text(pattern)
        listing = list_directory(tmp_path, rules=("gitignored",))
        assert [path.name for path in listing.files] == expected


def test_lines_that_match_nothing_do_not_stop_a_build(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("text")
    (tmp_path / "in" / "b.txt").write_text("more text")
    (tmp_path / "in" / ".gitignore").write_text("!\ndoc\\ \na\\\nb.txt\n")
    built = build(mixtures.read(tmp_path / "in"), tmp_path / "corpus", processes=1)
    assert [document.text for document in built] == ["text"]
