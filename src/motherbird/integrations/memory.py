"""Search over texts in memory, which the retrievers of other libraries call."""

from collections.abc import Sequence

from ..core.arguments import check_integer, check_texts
from ..retrieval.embedders import Embed
from ..retrieval.ranking import by_vectors


class MemoryIndex:
    """The vectors of some texts, in memory.

    Args:
        embed: of `retrieval.embedders.open_embedder`.
        texts: n texts, none of them empty.

    Raises:
        InputError: there is no text, or one is empty.
    """

    def __init__(self, embed: Embed, texts: Sequence[str]) -> None:
        self._embed = embed
        self._vectors = embed(check_texts(texts), "document")

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """Return the positions of the k nearest texts, best first, and their cosines.

        Raises:
            InputError: the query is empty, or k is not 1 or more.
        """
        k = check_integer(k, "k", 1)
        if not len(self._vectors):
            return []
        found = by_vectors(self._embed(check_texts([query]), "query"), self._vectors)
        pairs = zip(found.documents[0, :k].tolist(), found.scores[0, :k].tolist(), strict=True)
        return list(pairs)
