"""A small real corpus: sources of the standard library, prepared for two row lengths."""

import json as json_module
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    """A folder with some 60 modules of the standard library."""
    home = Path(json_module.__file__).parents[1]
    folder = tmp_path_factory.mktemp("library")
    for path in sorted(home.glob("[a-h]*.py"))[:60]:
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="session")
def tokenizer_folder(small_tokenizer, tmp_path_factory) -> Path:
    """`small_tokenizer` on disk."""
    folder = tmp_path_factory.mktemp("tokenizer") / "t"
    small_tokenizer.save(folder)
    return folder


@pytest.fixture(scope="session")
def prepared(library, tokenizer_folder, tmp_path_factory):
    """The library for rows of 128 and 1,024 tokens, a tenth of it held out."""
    from motherbird.data.prepare import prepare

    out = tmp_path_factory.mktemp("prepared") / "set"
    return prepare(library, tokenizer_folder, out, [128, 1024], held_out=0.1)
