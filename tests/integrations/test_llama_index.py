"""The embedding and the retriever of LlamaIndex, with the real library."""

import asyncio

import numpy as np
import pytest

pytest.importorskip("llama_index.core")
from llama_index.core.schema import TextNode

from motherbird.integrations.llama_index import MotherbirdEmbedding, MotherbirdRetriever


def test_vectors_with_the_prompts_of_the_model(model, wanted, texts):
    documents, query = wanted
    embedding = MotherbirdEmbedding(model)
    np.testing.assert_array_equal(embedding.get_text_embedding_batch(texts), documents)
    np.testing.assert_array_equal(embedding.get_text_embedding(texts[0]), documents[0])
    np.testing.assert_array_equal(embedding.get_query_embedding("files"), query)
    found = asyncio.run(embedding.aget_query_embedding("files"))
    np.testing.assert_array_equal(found, query)


@pytest.mark.parametrize("kind", ["texts", "nodes"])
def test_retriever(kind, model, wanted, texts):
    documents, query = wanted
    cosines = documents @ query
    nodes = texts if kind == "texts" else [TextNode(text=text) for text in texts]
    found = MotherbirdRetriever(nodes, MotherbirdEmbedding(model), k=2).retrieve("files")
    assert [each.node.get_content() for each in found] == [
        texts[position] for position in np.argsort(-cosines)[:2]
    ]
    assert found[0].score == pytest.approx(cosines.max())
