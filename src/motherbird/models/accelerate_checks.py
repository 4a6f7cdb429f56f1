"""Which batches of an accelerated model motherbird's encoder computes."""

from typing import Any

import torch
from torch import Tensor

from ..arrays import Bool, Int
from ..errors import InputError

# Arguments of a ModernBertModel that do not change its output. The classifiers of transformers 5.0
# pass the last two, which only matter together with sequence boundaries.
_HARMLESS = ("return_dict", "num_items_in_batch", "token_type_ids", "batch_size", "seq_len")
_FLAGS = ("output_hidden_states", "output_attentions", "is_causal")


def why_not(
    config: Any, ids: Any, attention_mask: Any, more: tuple[Any, ...], named: dict[str, Any]
) -> str | None:
    """Return the reason why the arguments need the model's own forward, or None."""
    if not isinstance(ids, Tensor) or ids.ndim != 2 or not ids.numel():
        return "the input is not a batch of token ids"
    if attention_mask is not None and (
        not isinstance(attention_mask, Tensor) or attention_mask.shape != ids.shape
    ):
        return "the attention mask does not have the shape of the ids"
    asked = [name for name, x in named.items() if x is not None and x is not False]
    if any(x is not None for x in more) or any(name not in _HARMLESS for name in asked):
        return f"it was called with other arguments: {', '.join(asked) or 'positional ones'}"
    if any(getattr(config, flag, False) for flag in _FLAGS):
        return f"the configuration sets one of {', '.join(_FLAGS)}"
    if ids.shape[1] > config.max_position_embeddings:
        return "a row is longer than max_position_embeddings"
    return None


def as_mask(
    ids: Int[Tensor, "S longest"], attention_mask: Tensor | None
) -> Bool[Tensor, "S longest"]:
    """Return the mask of a batch as booleans; without one, every position has a token."""
    if attention_mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    return attention_mask.to(ids.device, torch.bool)


def why_not_batch(
    ids: Int[Tensor, "S longest"],
    mask: Bool[Tensor, "S longest"],
    vocab_size: int,
    pad_token_id: int | None,
) -> str | None:
    """Return the reason why a batch needs the model's own forward, or None.

    Raises:
        InputError: an id is outside the vocabulary, which would make a GPU's context unusable.
    """
    outside = mask & ((ids < 0) | (ids >= vocab_size))
    resumed = mask[:, 1:] & ~mask[:, :-1]
    # Late interaction (ColBERT) reads the vectors of [MASK] tokens that the mask excludes.
    foreign = ~mask & (ids != (-1 if pad_token_id is None else pad_token_id))
    # One transfer from a GPU instead of four.
    invalid, some, holes, read = torch.stack(
        [outside.any(), mask.any(), resumed.any(), foreign.any()]
    ).tolist()
    if invalid:
        row, column = outside.nonzero()[0].tolist()
        raise InputError(
            f"token id {int(ids[row, column])} is outside the vocabulary",
            f"row {row}, column {column} of the batch",
            f"ids go from 0 to {vocab_size - 1}; is this the model's own tokenizer?",
        )
    if not some:
        return "the batch has no token"
    if holes:
        return "rows are padded on the left or have gaps"
    if read:
        return "excluded positions have other tokens than pad_token_id, so their output may be read"
    return None
