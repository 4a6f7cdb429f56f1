"""`DocumentIndex`: search over documents of one's own, for example for RAG."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core.arguments import check_integer, check_path, check_text
from ..core.hub import NANO
from ..errors import InputError
from .build import entry_of, fill
from .entry import State
from .lookup import Hit, Mode, find
from .query import Query
from .store import Store
from .vectors import Vectors, load

BATCH = 256  # documents of a transaction


class DocumentIndex:
    """Documents in one file, which can be searched at once.

    A long document is divided as a file of its name would be: an id such as "guide.md" has
    sections, any other one paragraphs.

    Args:
        path: the file; it is created if it does not exist.
        model: for `mode` "dense" and "hybrid": static vectors, or an encoder initialized from them;
            None for full text alone. Vectors that are missing are computed.

    Raises:
        InputError: there is no such model.
        DamagedError: the file is not an index, or it or the model is damaged.
        BusyError: vectors are missing, and another process has been writing for 10 seconds.
    """

    def __init__(self, path: str | Path, model: str | Path | Vectors | None = NANO) -> None:
        self.vectors, self.store = load(model), Store(check_path(path, "the path"))
        if self.vectors is not None:
            with self.store.errors():
                fill(self.store, self.vectors)

    def close(self) -> None:
        """Close the file."""
        self.store.close()

    def __len__(self) -> int:
        return self.store.counts()[0]

    def add(self, documents: Iterable[Mapping[str, Any]]) -> int:
        """Add documents, or replace those of the same ids; all of them, or none after an error.

        Args:
            documents: each with "id" and "text"; other keys are not kept.

        Returns:
            How many there were.

        Raises:
            InputError: a document has no id or no text.
        """
        rows = [_checked(number, document) for number, document in enumerate(documents)]
        with self.store.writing():
            for first in range(0, len(rows), BATCH):
                self.store.put(
                    entry_of(name.encode("utf-8", "surrogatepass"), name, text, State(0, 0), b"",
                             self.vectors)
                    for name, text in rows[first : first + BATCH]
                )  # fmt: skip
        return len(rows)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove documents, and return how many of the ids there were."""
        with self.store.writing():
            return self.store.remove([name.encode("utf-8", "surrogatepass") for name in ids])

    def search(self, query: str, count: int = 10, mode: Mode = "hybrid") -> list[Hit]:
        """Return the best parts of documents, the best first; ``path`` is the id.

        Args:
            query: a question, or some words.
            count: of hits, at most.
            mode: "bm25" for full text, "dense" for vectors, "hybrid" for both.

        Raises:
            InputError: the query is empty.
        """
        count = check_integer(count, "count", 1)
        text = check_text(query, "the query")
        return find(self.store, self.vectors, Query(text), count, mode, use_rules=False)


def _checked(number: int, document: Mapping[str, Any]) -> tuple[str, str]:
    values = [document.get(key) for key in ("id", "text")]
    for key, value in zip(("id", "text"), values, strict=True):
        if not isinstance(value, str) or not value.strip():
            raise InputError(f'"{key}" is not a text', f"document {number}")
    return values[0], values[1]  # type: ignore[return-value]
