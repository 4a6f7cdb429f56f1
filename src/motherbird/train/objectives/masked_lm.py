"""Masked language modeling: predict the masked tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...arrays import Float
from ...core.masking import Masking
from ...data.micro_batch import MicroBatch
from ...nn.heads import MaskedLM
from ...nn.packed import Packed


@dataclass(frozen=True)
class MaskedLMObjective:
    """Cross entropy in nats over the masked tokens; the head runs on those alone."""

    model: MaskedLM  # the encoder with its masked-LM head

    def weight(self, batch: MicroBatch) -> int:
        """Return the number of masked tokens."""
        return len(batch.positions)

    def loss(self, batch: MicroBatch) -> Float[Tensor, ""]:
        """Return the sum of the cross entropy over the masked tokens."""
        return self.model.loss(batch.packed, batch.positions, batch.targets)


def mask(packed: Packed, masking: Masking, key: Sequence[int]) -> MicroBatch:
    """Mask a packed batch; ``key`` determines which tokens, see `Masking.mask`."""
    ids, positions = map(torch.from_numpy, masking.mask(packed.ids.numpy(), key))
    return MicroBatch(replace(packed, ids=ids), positions, packed.ids[positions])
