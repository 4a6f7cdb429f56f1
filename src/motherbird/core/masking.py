"""Which tokens are masked, and with what (paper 2.2.1; 30% in training, 15% in evaluation)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int

from ..errors import InputError
from .rng import Positions, random_bits

_HALF = np.uint64(32)


@dataclass(frozen=True)
class Masking:
    """Hides a share of the tokens: 80% become the mask, 10% a random token, 10% stay as they are.

    Special tokens are never hidden and never drawn as random ones (unlike in the reference, whose
    packer exempts neither).

    Attributes:
        rate: the chance of each ordinary token to be hidden, more than 0, up to 1.
        mask_id: what hides it.
        special_ids: ids that are left alone.
        vocab_size: random tokens are drawn from the ordinary ids below it.

    Raises:
        InputError: the rate is impossible.
    """

    rate: float
    mask_id: int
    special_ids: tuple[int, ...]
    vocab_size: int

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise InputError(
                f"a masking rate of {self.rate} is impossible", how="give more than 0, up to 1"
            )

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
        """Draw for every token.

        Args:
            ids: token ids.
            key: numbers that determine every draw, with the token's place; see `chance.bits`.
            positions: of the tokens, where it is not 0, 1, 2 ...; a token of equal place and key is
                drawn for alike in any batch.

        Returns:
            The ids to feed (T,), and the indices whose original ids are to be predicted, int64.
        """
        drawn = random_bits(key, np.arange(len(ids)) if positions is None else positions)
        chance = drawn >> _HALF
        of_rate = [np.uint64(round(share * self.rate * 2**32)) for share in (0.8, 0.9, 1.0)]
        hidden = self._ordinary[ids] & (chance < of_rate[2])
        where = np.flatnonzero(hidden)
        chance, low = chance[where], drawn[where] & np.uint64(2**32 - 1)
        random_ids = self._choices[(low * np.uint64(len(self._choices))) >> _HALF]
        instead = np.where(chance < of_rate[1], random_ids, ids[where])
        fed = ids.copy()
        fed[where] = np.where(chance < of_rate[0], self.mask_id, instead)
        return fed, where
