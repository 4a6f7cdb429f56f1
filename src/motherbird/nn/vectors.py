"""Models whose output is vectors: one for each text, or one for each token (late interaction).

They are trained in torch. The classes that users run are `motherbird.Embedder` and
`motherbird.LateEmbedder`.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..arrays import Float
from ..core.config import Pooling
from .encoder import Encoder
from .heads import pool
from .packed import Packed

Of = Pooling | Literal["tokens"]


class VectorModel(nn.Module):
    """An encoder, and a linear layer for vectors of another size; vectors have length 1.

    Args:
        encoder: the encoder.
        of: "mean" or "cls" for one vector for each text, see `pool`; "tokens" for one for each
            token.
        projection: from the hidden size to that of the vectors; None for none.
    """

    def __init__(self, encoder: Encoder, of: Of, projection: nn.Linear | None = None) -> None:
        super().__init__()
        self.model, self.of, self.projection = encoder, of, projection

    @property
    def encoder(self) -> Encoder:
        """The encoder."""
        return self.model

    @property
    def size(self) -> int:
        """The number of dimensions of a vector."""
        if self.projection is None:
            return self.model.config.hidden_size
        return self.projection.out_features

    def forward(self, packed: Packed) -> Float[Tensor, "rows size"]:
        """Return the vectors of a batch, in float32 or wider: rows are its texts, or its tokens."""
        x = self.model(packed)
        if self.of != "tokens":
            x = pool(x, packed, self.of)
        if self.projection is not None:
            x = self.projection(x)
        return normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
