"""Which tokens are masked, and with what (paper 2.2.1; 30% in training, 15% in evaluation)."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..errors import InputError


def mask_tokens(
    ids: Int[Tensor, " T"],
    *,
    rate: float,
    mask_id: int,
    special_ids: Sequence[int],
    vocab_size: int,
    key: Sequence[int],
) -> tuple[Int[Tensor, " T"], Int[Tensor, " masked"]]:
    """Hide a share of the tokens: 80% become the mask, 10% a random token, 10% stay as they are.

    Special tokens are never hidden and never drawn as random ones (unlike in the reference, whose
    packer exempts neither).

    Args:
        ids: packed token ids, on the CPU.
        rate: the chance of each ordinary token to be hidden, 0 to 1.
        mask_id: what hides it.
        special_ids: ids that are left alone.
        vocab_size: random tokens are drawn from the ordinary ids below it.
        key: non-negative numbers that determine every draw, such as (seed, step).

    Returns:
        The ids to feed (T,), and the positions whose original ids are to be predicted, int64.

    Raises:
        InputError: the rate is not within 0 (left out) to 1.
    """
    if not 0 < rate <= 1:
        raise InputError(f"a masking rate of {rate} is impossible", how="give more than 0, up to 1")
    generator = np.random.default_rng(list(key))
    draw = torch.from_numpy(generator.random(len(ids)))
    ordinary = torch.ones(vocab_size, dtype=torch.bool)
    ordinary[list(special_ids)] = False
    choices = ordinary.nonzero()[:, 0]
    random_ids = choices[torch.from_numpy(generator.integers(len(choices), size=len(ids)))]
    hidden = ordinary[ids] & (draw < rate)
    fed = torch.where(hidden & (draw < 0.8 * rate), mask_id, ids)
    fed = torch.where(hidden & (draw >= 0.8 * rate) & (draw < 0.9 * rate), random_ids, fed)
    return fed, hidden.nonzero()[:, 0]
