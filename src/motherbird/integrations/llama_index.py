"""An embedding and a retriever of LlamaIndex; needs the extra ``llama-index``."""

from collections.abc import Sequence
from typing import Any

from ..errors import require_extra
from ..retrieval.embedders import open_embedder
from .memory import MemoryIndex

require_extra("llama_index.core", "llama-index")
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

__all__ = ["MotherbirdEmbedding", "MotherbirdRetriever"]

BATCH = 256  # texts that LlamaIndex passes at once


class MotherbirdEmbedding(BaseEmbedding):
    """Vectors of length 1 by any model of `motherbird evaluate retrieval`.

    A prompt of the model called "query" or "document" is put before texts of this kind. Texts
    that are too long are truncated.

    Args:
        model: a model of motherbird, a table of static vectors, or a model of
            sentence-transformers: a directory, or a name on the Hub.
        options: of `retrieval.embedders.open_embedder`.

    Raises:
        InputError: there is no such model.
    """

    _embed: Any = PrivateAttr()

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__(model_name=model, embed_batch_size=BATCH)
        self._embed = open_embedder(model, **options)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex shows."""
        return "MotherbirdEmbedding"

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        found: list[list[float]] = self._embed(texts, "document").tolist()
        return found

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        found: list[float] = self._embed([query], "query")[0].tolist()
        return found

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def index(self, texts: Sequence[str]) -> MemoryIndex:
        """Return the vectors of texts, for `MotherbirdRetriever`."""
        return MemoryIndex(self._embed, texts)


class MotherbirdRetriever(BaseRetriever):
    """The nearest of some nodes in memory, with their cosines as scores.

    Args:
        nodes: what is searched, or texts, none of them empty.
        embedding: what computes vectors.
        k: the number of nodes that are found.
    """

    def __init__(
        self, nodes: Sequence[TextNode | str], embedding: MotherbirdEmbedding, k: int = 4
    ) -> None:
        self.nodes = [TextNode(text=node) if isinstance(node, str) else node for node in nodes]
        self.k = k
        self._index = embedding.index([node.get_content() for node in self.nodes])
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [
            NodeWithScore(node=self.nodes[position], score=score)
            for position, score in self._index.search(query_bundle.query_str, self.k)
        ]
