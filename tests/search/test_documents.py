"""An index of documents of one's own."""

import numpy as np
import pytest

from motherbird import DocumentIndex, InputError

DOCUMENTS = [
    {"id": "bees", "text": "Bees make honey."},
    {"id": "guide.md", "text": "# Cheese\n\nMade of milk.\n\n# Bread\n\nMade of flour.\n"},
    {"id": "two", "text": "Honey is sweet.", "source": "not kept"},
]


def test_documents(tmp_path):
    index = DocumentIndex(tmp_path / "index.db", None)
    assert index.add(DOCUMENTS) == 3 == len(index)
    assert {hit.path for hit in index.search("honey")} == {"bees", "two"}
    [hit] = index.search("flour")
    assert (hit.path, hit.symbol, hit.kind, hit.start) == ("guide.md", "Bread", "section", 5)
    index.add([{"id": "bees", "text": "Bees live in a hive."}])
    assert len(index) == 3 and {hit.path for hit in index.search("honey")} == {"two"}
    index.close()
    index = DocumentIndex(tmp_path / "index.db", None)
    assert index.delete(["two", "nothing"]) == 1 and index.search("honey") == []
    assert [hit.path for hit in index.search("hive", count=1, mode="bm25")] == ["bees"]
    assert index.store.problems() == []


class Sweet:
    """Vectors that tell what is sweet."""

    name = "sweet"

    def embed(self, texts):
        return np.array([[float("sweet" in text or "honey" in text.lower()), 0.1]
                         for text in texts], np.float32)  # fmt: skip


def test_documents_that_were_added_without_vectors_get_them(tmp_path):
    index = DocumentIndex(tmp_path / "index.db", None)
    index.add(DOCUMENTS)
    index.close()
    index = DocumentIndex(tmp_path / "index.db", Sweet())
    assert {hit.path for hit in index.search("sweet", 2, mode="dense")} == {"bees", "two"}


def test_by_meaning_without_a_model(tmp_path):
    index = DocumentIndex(tmp_path / "index.db")
    index.add(DOCUMENTS)
    assert index.search("dairy", 1)[0].path == "guide.md"


def test_all_or_none(tmp_path):
    index = DocumentIndex(tmp_path / "index.db", None)
    for wrong in ({"id": "a"}, {"id": "", "text": "b"}, {"id": 3, "text": "b"}):
        with pytest.raises(InputError, match="document 1"):
            index.add([DOCUMENTS[0], wrong])
    assert len(index) == 0
    with pytest.raises(InputError, match="empty"):
        index.search("")
    with pytest.raises(InputError, match="count"):
        index.search("a", count=0)
