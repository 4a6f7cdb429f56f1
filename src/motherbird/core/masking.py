"""Masking of tokens (paper 2.2.1; 30% in training, 15% in evaluation)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..arrays import Bool, Int
from ..errors import InputError
from .rng import Positions, random_bits
from .tokenizer import Tokenizer

_HALF = np.uint64(32)


@dataclass(frozen=True)
class Masking:
    """Masks tokens: 80% are replaced by the mask token, 10% by a random token, 10% are unchanged.

    Special tokens are never masked and never used as random tokens (unlike in the reference
    implementation).

    Raises:
        InputError: the rate is not in (0, 1].
    """

    rate: float  # the probability of a token to be masked, in (0, 1]
    mask_id: int  # id of the mask token
    special_ids: tuple[int, ...]  # ids of the special tokens
    vocab_size: int  # size of the vocabulary

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            how = "use a value greater than 0 and at most 1"
            raise InputError(f"invalid masking rate {self.rate}", how=how)

    @cached_property
    def _ordinary(self) -> Bool[np.ndarray, " V"]:
        ordinary = np.ones(self.vocab_size, dtype=bool)
        ordinary[list(self.special_ids)] = False
        return ordinary

    @cached_property
    def _choices(self) -> Int[np.ndarray, " ordinary"]:
        return np.flatnonzero(self._ordinary)

    def mask(
        self, ids: Int[np.ndarray, " T"], key: Sequence[int], positions: Positions | None = None
    ) -> tuple[Int[np.ndarray, " T"], Int[np.ndarray, " masked"]]:
        """Mask tokens at random.

        Args:
            ids: token ids.
            key: key of the random numbers, see `rng.random_bits`.
            positions: positions of the random numbers, one per token; 0, 1, 2 ... by default. Equal
                keys and positions give equal results in any batch.

        Returns:
            The input ids (T,), and the indices of the masked tokens, int64.
        """
        drawn = random_bits(key, np.arange(len(ids)) if positions is None else positions)
        high = drawn >> _HALF
        limits = [np.uint64(round(part * self.rate * 2**32)) for part in (0.8, 0.9, 1.0)]
        masked = np.flatnonzero(self._ordinary[ids] & (high < limits[2]))
        high, low = high[masked], drawn[masked] & np.uint64(2**32 - 1)
        random_ids = self._choices[(low * np.uint64(len(self._choices))) >> _HALF]
        others = np.where(high < limits[1], random_ids, ids[masked])
        inputs = ids.copy()
        inputs[masked] = np.where(high < limits[0], self.mask_id, others)
        return inputs, masked


def masking_for(tokenizer: Tokenizer, rate: float) -> Masking:
    """Return masking with the mask token and the special tokens of a tokenizer."""
    return Masking(rate, tokenizer.mask_id, tuple(tokenizer.special_ids), tokenizer.vocab_size)
