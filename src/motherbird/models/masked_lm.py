"""MaskedLM: texts with masks to candidates for each mask."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.arguments import check_integer, check_text
from ..core.batching import concatenate
from ..errors import HeadError, InputError
from . import backend
from .text_model import TextModel, softmax


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate for a mask."""

    text: str  # the token's text without leading and trailing white space
    probability: float  # its probability
    token_id: int  # its id


class MaskedLM(TextModel):
    """A model with a masked-LM head that fills masks."""

    head = "MaskedLM"

    @classmethod
    def _load(cls, directory: Path, **options: Any) -> "MaskedLM":
        try:
            return cls(backend.load(directory, "MaskedLM", **options))
        except HeadError as error:
            how = "use one with a masked-LM head"
            raise HeadError("this model cannot fill masks", error.where, how) from error

    def fill(self, text: str, top_k: int = 5) -> list[list[Candidate]]:
        """Return the most probable tokens for each mask of a text.

        Args:
            text: a text with one or more masks, written ``[MASK]``.
            top_k: number of candidates for each mask.

        Returns:
            For each mask, in order, its candidates, the most probable first.

        Raises:
            InputError: the text has no mask or is too long, or the model has no tokenizer.
        """
        top_k = check_integer(top_k, "top_k", 1, self.model.config.vocab_size)
        check_text(text, allow_empty=True, many="call fill once for each text")
        ids = self.tokenizer.encode_masked(text)
        limit = self.model.config.max_position_embeddings
        if len(ids) > limit:
            what = f"the text has {len(ids)} tokens, more than the model's limit of {limit}"
            raise InputError(what, how="shorten the text")
        positions = np.flatnonzero(np.array(ids) == self.tokenizer.mask_id)
        probabilities = softmax(self.model.run(*concatenate([ids]), "logits", positions))
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
        return [
            [
                Candidate(self.text_of(token).strip(), float(row[token]), token)
                for token in tokens.tolist()
            ]
            for row, tokens in zip(probabilities, best, strict=True)
        ]

    def text_of(self, token: int) -> str:
        """Return the text of a token id of the model; a padding row of the embedding has none."""
        known = self.tokenizer.backend.id_to_token(token) is not None
        return self.tokenizer.decode([token]) if known else ""
