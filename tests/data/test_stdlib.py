"""The text that every Python brings along, and no other package's."""

import sysconfig
from pathlib import Path

import pytest

from motherbird.data import stdlib
from motherbird.errors import InputError


@pytest.fixture(scope="module")
def documents():
    return {document.source: document.text for document in stdlib.read()}


def test_the_standard_library_is_there(documents):
    assert {"argparse.py", "json/decoder.py", "json/__init__.py", "textwrap.py"} <= set(documents)
    assert "class JSONDecoder" in documents["json/decoder.py"]
    assert len(documents) > 200


def test_nothing_else_is_there(documents):
    parts = {part for source in documents for part in source.split("/")}
    assert parts.isdisjoint({"site-packages", "dist-packages", "test", "tests", "torch", "numpy"})
    library = Path(sysconfig.get_paths()["stdlib"])
    assert all((library / source).is_file() for source in documents)


def test_order_is_that_of_names(documents):
    assert list(documents) == sorted(documents, key=lambda source: source.split("/"))


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})

    def put(name: str, content: bytes = b"# a comment\n" * 50) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    return put


def test_what_is_left_out(library):
    library("good.py")
    library("sub/good.py")
    library("site-packages/other/bad.py")
    library("test/bad.py")
    library("sub/tests/bad.py")
    library("encodings/bad.py")
    library("latin.py", b"# caf\xe9\n" * 50)
    library("tiny.py", b"x = 1\n")
    library("data.txt")
    assert [document.source for document in stdlib.read()] == ["good.py", "sub/good.py"]


def test_a_python_without_sources(library, tmp_path):
    library("compiled.pyc")
    with pytest.raises(InputError, match="no sources.*--text PATH") as error:
        list(stdlib.read())
    assert error.value.where == str(tmp_path)
