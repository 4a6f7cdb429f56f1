"""Models whose output is vectors: one for each text, for each token (late interaction), or both.

They are trained in torch. The classes that users run are `motherbird.Embedder` and
`motherbird.LateEmbedder`.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from ..arrays import Float, Int
from ..core.config import Pooling
from .encoder import Encoder
from .heads import MaskedLM, pool
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


class MultitaskModel(nn.Module):
    """An encoder with a linear layer for vectors, a masked-LM head, and perhaps a score for pairs.

    The vector of a text is the mean of those of its tokens. The score of a pair of texts is that of
    a `SequenceClassifier` with one label and no dropout, whose head is the masked-LM head.

    Args:
        masked_lm: the encoder with its masked-LM head, which may have been trained or not.
        projection: from the hidden size to that of the vectors.
        classifier: from the hidden size to the score; None for none.
    """

    def __init__(
        self, masked_lm: MaskedLM, projection: nn.Linear, classifier: nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.model, self.projection = masked_lm.encoder, projection
        self.head, self.decoder = masked_lm.head, masked_lm.decoder
        self.classifier = classifier
        self._masked_lm = [masked_lm]  # in a list, so that the encoder is not in here twice

    @property
    def encoder(self) -> Encoder:
        """The encoder."""
        return self.model

    @property
    def masked_lm(self) -> MaskedLM:
        """The encoder with its masked-LM head."""
        return self._masked_lm[0]

    def forward(self, packed: Packed) -> Float[Tensor, "T size"]:
        """Return the vectors of the tokens, in float32 or wider, of any length."""
        x = self.projection(self.model(packed))
        return x.to(torch.promote_types(x.dtype, torch.float32))

    def scores(self, packed: Packed) -> Float[Tensor, "S 1"]:
        """Return the score of each pair of texts, in float32 or wider."""
        assert self.classifier is not None
        states = self.model(packed)
        x = pool(states, packed, self.model.config.classifier_pooling).to(states.dtype)
        found = self.classifier(self.head(x))
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def masked_loss(
        self, packed: Packed, positions: Int[Tensor, " M"], targets: Int[Tensor, " M"]
    ) -> Float[Tensor, ""]:
        """Return the sum of the cross entropy of masked tokens; see `MaskedLM.loss`."""
        return self.masked_lm.loss(packed, positions, targets)
