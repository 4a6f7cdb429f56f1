"""Embeddings and a retriever of LangChain; needs the extra ``langchain``."""

from collections.abc import Sequence
from typing import Any

from ..errors import require_extra
from ..retrieval.embedders import open_embedder
from .memory import MemoryIndex

require_extra("langchain_core", "langchain")
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever

__all__ = ["MotherbirdEmbeddings", "MotherbirdRetriever"]


class MotherbirdEmbeddings(Embeddings):
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

    def __init__(self, model: str, **options: Any) -> None:
        self.model = model
        self.embed = open_embedder(model, **options)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Compute a vector for each text.

        Raises:
            InputError: a text is empty.
        """
        found: list[list[float]] = self.embed(texts, "document").tolist()
        return found

    def embed_query(self, text: str) -> list[float]:
        """Compute the vector of a query.

        Raises:
            InputError: it is empty.
        """
        found: list[float] = self.embed([text], "query")[0].tolist()
        return found


class MotherbirdRetriever(BaseRetriever):
    """The nearest of some documents in memory; each has its cosine as metadata "score".

    Attributes:
        documents: what is searched.
        index: their vectors.
        k: the number of documents that are found.
    """

    documents: list[Document]
    index: MemoryIndex
    k: int = 4

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        embeddings: MotherbirdEmbeddings,
        *,
        metadatas: Sequence[dict[str, Any]] | None = None,
        k: int = 4,
    ) -> "MotherbirdRetriever":
        """Embed texts, and return a retriever of them.

        Args:
            texts: none of them empty.
            embeddings: what computes vectors.
            metadatas: of each text.
            k: the number of documents that are found.
        """
        pairs = zip(texts, metadatas or [{} for _ in texts], strict=True)
        documents = [Document(page_content=text, metadata=dict(more)) for text, more in pairs]
        return cls(documents=documents, index=MemoryIndex(embeddings.embed, texts), k=k)

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return [
            Document(
                page_content=self.documents[position].page_content,
                metadata={**self.documents[position].metadata, "score": score},
            )
            for position, score in self.index.search(query, self.k)
        ]
