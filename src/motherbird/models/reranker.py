"""Reranker: documents in the order of how well they answer a query, by a cross-encoder."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..arrays import Float32
from ..core.arguments import check_text, check_texts, check_type
from ..errors import HeadError
from .scorer import Ranked, Scorer

if TYPE_CHECKING:
    import torch


class Reranker:
    """A model that computes a number for a query with a document, to sort documents by it.

    Args:
        scorer: of a model with one logit.

    Raises:
        HeadError: the model has labels instead.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = check_type(scorer, "scorer", Scorer, "load a directory with Reranker.load")
        if scorer.head_config.kind != "number":
            what = f"this model cannot rerank: it predicts {len(scorer.labels)} labels, no number"
            raise HeadError(what, how="use a cross-encoder with one label")

    @classmethod
    def load(
        cls,
        name_or_dir: str | Path,
        *,
        dtype: "torch.dtype | str" = "auto",
        attention: str = "auto",
        device: "torch.device | str | None" = None,
        revision: str | None = None,
        split_special_tokens: bool = False,
    ) -> "Reranker":
        """Load a cross-encoder with one label; arguments and errors are those of `Scorer.load`."""
        scorer = Scorer.load(
            name_or_dir, dtype=dtype, attention=attention, device=device, revision=revision,
            split_special_tokens=split_special_tokens,
        )  # fmt: skip
        try:
            return cls(scorer)
        except HeadError as error:
            raise HeadError(error.what, str(name_or_dir), error.how) from error

    def save(self, directory: str | Path) -> None:
        """Write a directory that motherbird, sentence-transformers and transformers read.

        See `Scorer.save`.
        """
        self.scorer.save(directory)

    def score(
        self,
        query: str,
        documents: Iterable[str],
        *,
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int | None = None,
    ) -> Float32[np.ndarray, " n"]:
        """Compute how well each of n documents answers a query, in the order of the documents.

        Args:
            query: the first text of every pair.
            documents: the second texts, none of them empty.
            max_length: maximum number of tokens of a query with a document.
            truncate: truncate longer ones, the longer text first, and log how many; otherwise they
                are an error.
            batch_tokens: tokens per batch; None chooses by the device.

        Raises:
            InputError: a text is not a string, empty or too long, or an argument is invalid.
        """
        check_text(query, "the query", many="call score once for each query")
        pairs = [(query, document) for document in check_texts(documents)]
        return self.scorer.score(
            pairs, max_length=max_length, truncate=truncate, batch_tokens=batch_tokens
        )

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        *,
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int | None = None,
    ) -> list[Ranked]:
        """Return the index and the score of each document, the highest score first.

        ``top_k`` is how many are returned, None for all; the rest is as in `score`.
        """
        return self.scorer.rank(
            query, check_texts(documents), top_k,
            max_length=max_length, truncate=truncate, batch_tokens=batch_tokens,
        )  # fmt: skip
