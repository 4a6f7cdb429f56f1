"""A small retrieval set on disk."""

from pathlib import Path

import pytest
from retrieval_set import write_set


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_set(tmp_path / "animals")
