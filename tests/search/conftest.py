"""Directories of source code, and indexes of them."""

import pytest
from code_files import source


@pytest.fixture(autouse=True)
def needs_grammars():
    pytest.importorskip("tree_sitter")


@pytest.fixture
def folder(tmp_path):
    """A directory of 12 files."""
    root = tmp_path / "project"
    for number in range(12):
        path = root / f"part{number % 3}" / f"file_{number}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source(number))
    (root / "README.md").write_text(
        "# Project\n\nHow to open a session.\n\n## Tokens\n\nParse them.\n"
    )
    return root
