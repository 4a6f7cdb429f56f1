"""The embeddings and the retriever of LangChain, with the real library."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("langchain_core")
from langchain_core.vectorstores import InMemoryVectorStore

from motherbird.errors import InputError
from motherbird.integrations.langchain import MotherbirdEmbeddings, MotherbirdRetriever

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "rag.py"


def test_vectors_with_the_prompts_of_the_model(model, wanted, texts):
    documents, query = wanted
    embeddings = MotherbirdEmbeddings(model)
    np.testing.assert_array_equal(embeddings.embed_documents(texts), documents)
    np.testing.assert_array_equal(embeddings.embed_query("files"), query)
    assert embeddings.embed_documents([]) == []
    with pytest.raises(InputError):
        embeddings.embed_query("")


def test_retriever(model, wanted, texts):
    documents, query = wanted
    cosines = documents @ query
    retriever = MotherbirdRetriever.from_texts(
        texts, MotherbirdEmbeddings(model), metadatas=[{"n": n} for n in range(3)], k=2
    )
    found = retriever.invoke("files")
    assert [document.metadata["n"] for document in found] == np.argsort(-cosines)[:2].tolist()
    assert found[0].page_content == texts[cosines.argmax()]
    assert found[0].metadata["score"] == pytest.approx(cosines.max())


def test_a_vector_store_of_the_library(model, wanted, texts):
    documents, query = wanted
    store = InMemoryVectorStore.from_texts(texts, MotherbirdEmbeddings(model))
    found = store.similarity_search("files", k=1)
    assert found[0].page_content == texts[(documents @ query).argmax()]


def test_the_example(model, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rag.py", model, "How do I open a file?"])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    out = capsys.readouterr().out
    assert out.count("\n- ") == 2 and "2 documents were found; the best is 'The " in out
