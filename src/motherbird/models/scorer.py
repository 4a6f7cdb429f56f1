"""Scorer: pairs of texts to numbers or labels."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..arrays import Float32
from ..core import hf_config
from ..core.arguments import (
    Documents,
    check_integer,
    check_list,
    check_names,
    check_text,
    check_texts,
)
from ..core.hf_config import HeadConfig
from ..core.measure import Metrics, sigmoid
from ..errors import InputError
from ..files import read_json_object
from .label_model import DocumentModel, Prediction
from .text_model import warn_truncated

SETTINGS = "config_sentence_transformers.json"
Pair = tuple[str, str]


class Ranked(NamedTuple):
    """A document in the order of its score for a query."""

    index: int  # type: ignore[assignment]  # in the list of documents; a tuple has such a method
    score: float


class Scorer(DocumentModel):
    """A model that scores pairs of texts: a cross-encoder, similarity, or entailment.

    A model with one logit computes a number (`score`), and one with several a label (`predict`).
    The activation of the logit is that of CrossEncoder in sentence-transformers: what config.json
    says, and otherwise none for a problem_type of "regression", and a sigmoid if it has none.
    """

    task = "score"
    purpose = "score pairs of texts"

    @classmethod
    def _read_head(cls, directory: Path, raw: dict[str, Any]) -> HeadConfig:
        head = super()._read_head(directory, raw)
        settings = directory / SETTINGS
        stated = read_json_object(settings) if settings.is_file() else {}
        if stated.get("default_prompt_name"):
            raise InputError("prompts of cross-encoders are not supported", str(settings))
        if head.kind != "number" or not stated.get("activation_fn"):
            return head
        try:
            return replace(head, activation=hf_config.read_activation(stated["activation_fn"]))
        except InputError as error:
            raise InputError(error.what, str(settings), error.how) from error

    def score(
        self,
        pairs: Iterable[Pair],
        *,
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int | None = None,
    ) -> Float32[np.ndarray, " S"]:
        """Compute a number for each pair of texts.

        Args:
            pairs: S pairs of texts, which may be empty.
            max_length: maximum number of tokens of a pair, special tokens included.
            truncate: truncate longer pairs, the longer text first, and log how many; otherwise
                they are an error.
            batch_tokens: tokens per batch; None chooses by the device.

        Raises:
            InputError: the model has several labels, a pair is not one of texts or is too long, or
                an argument is invalid.
        """
        ids, _ = self.tokenize_pairs(pairs, max_length=max_length, truncate=truncate)
        return self.scores_of_ids(ids, batch_tokens=batch_tokens)

    def scores_of_ids(
        self, ids: Documents, *, batch_tokens: int | None = None
    ) -> Float32[np.ndarray, " S"]:
        """Compute a number for each list of token ids, as `score` does for pairs of texts."""
        if self.head_config.kind != "number":
            what = f"this model predicts {len(self.labels)} labels, not a number"
            raise InputError(what, how="use predict")
        [logits] = self._all_logits(ids, batch_tokens).T
        return sigmoid(logits) if self.head_config.activation == "sigmoid" else logits

    def predict(
        self,
        pairs: Iterable[Pair],
        *,
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int | None = None,
    ) -> list[Prediction]:
        """Predict the label, or the labels, of each pair; arguments are those of `score`.

        Raises:
            InputError: the model computes a number; see also `score`.
        """
        return self.predictions(self.probabilities(
            pairs, max_length=max_length, truncate=truncate, batch_tokens=batch_tokens
        ))  # fmt: skip

    def probabilities(
        self,
        pairs: Iterable[Pair],
        *,
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int | None = None,
    ) -> Float32[np.ndarray, "S C"]:
        """Compute the probability of each label for each pair; see `predict`."""
        ids, _ = self.tokenize_pairs(pairs, max_length=max_length, truncate=truncate)
        return self.probabilities_of_ids(ids, batch_tokens=batch_tokens)

    def evaluate(
        self,
        pairs: Iterable[Pair],
        labels: Iterable[Any],
        *,
        max_length: int | None = None,
        truncate: bool = False,
        batch_tokens: int | None = None,
    ) -> Metrics:
        """Return the metrics of the model on pairs with a number or a label for each.

        See `core.measure.measure`; other arguments and errors are those of `score`.
        """
        ids, _ = self.tokenize_pairs(pairs, max_length=max_length, truncate=truncate)
        return self.evaluate_ids(ids, list(labels), batch_tokens)

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
        """Return documents by their score for a query, the highest first.

        Args:
            query: the first text of every pair.
            documents: the second texts.
            top_k: how many to return; None is all of them.
            max_length: see `score`.
            truncate: see `score`.
            batch_tokens: see `score`.

        Raises:
            InputError: see `score`.
        """
        check_text(query, "the query", many="call rank once for each query")
        texts = check_texts(documents, allow_empty=True)
        top_k = len(texts) if top_k is None else check_integer(top_k, "top_k", 1)
        pairs = [(query, text) for text in texts]
        scores = self.score(
            pairs, max_length=max_length, truncate=truncate, batch_tokens=batch_tokens
        )
        order = np.argsort(-scores, kind="stable")[:top_k].tolist()
        return [Ranked(index, float(scores[index])) for index in order]

    def tokenize_pairs(
        self,
        pairs: Iterable[Pair],
        *,
        max_length: int | None = None,
        truncate: bool = False,
        names: Sequence[str] | None = None,
    ) -> tuple[list[list[int]], int]:
        """Convert pairs of texts to token ids.

        Arguments and errors are those of `score`. Errors call the pairs by ``names``; "pair 0",
        "pair 1" ... by default.

        Returns:
            The ids of each pair, and how many pairs were truncated.
        """
        limit = self._limit(max_length, truncate)
        listed = check_list(pairs, "pairs", "pairs of texts")
        names = check_names(names, len(listed), "pair")
        ids, _ = self.tokenizer.encode_pairs(listed, 2**31 - 1)
        long = self._too_long(ids, limit, truncate, names, "pair")
        cut, _ = self.tokenizer.encode_pairs([listed[number] for number in long], limit)
        for number, document in zip(long, cut, strict=True):
            ids[number] = document
        warn_truncated(len(long), len(ids), limit, "pair")
        return ids, len(long)
