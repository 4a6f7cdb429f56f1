"""Search in memory, and libraries that are not installed."""

import importlib
import sys

import numpy as np
import pytest

from motherbird.errors import InputError, MissingExtraError
from motherbird.integrations.memory import MemoryIndex
from motherbird.retrieval.embedders import open_embedder


def test_the_nearest_texts(model, wanted, texts):
    documents, query = wanted
    index = MemoryIndex(open_embedder(model), texts)
    found = index.search("files", 2)
    cosines = documents @ query
    assert [position for position, _ in found] == np.argsort(-cosines)[:2].tolist()
    assert [score for _, score in found] == pytest.approx(sorted(cosines, reverse=True)[:2])
    assert len(index.search("files", 9)) == 3
    with pytest.raises(InputError):
        index.search("", 1)
    with pytest.raises(InputError, match="k"):
        index.search("files", 0)


@pytest.mark.parametrize(
    ("name", "library", "extra"),
    [("langchain", "langchain_core", "langchain"), ("llama_index", "llama_index", "llama-index")],
)
def test_without_the_library(name, library, extra, monkeypatch):
    for module in [each for each in sys.modules if each.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"motherbird.integrations.{name}", raising=False)
    with pytest.raises(MissingExtraError, match=rf"pip install .*\[{extra}\]"):
        importlib.import_module(f"motherbird.integrations.{name}")
