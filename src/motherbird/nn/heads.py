"""What stands on the encoder: masked-LM, sequence and token heads (transformers' names)."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear

from ..core.config import EncoderConfig, Pooling
from ..core.hf_config import read_labels
from ..core.tokenizer import Tokenizer
from ..errors import InputError
from . import checkpoint, init
from .cross_entropy import cross_entropy
from .dropout import dropout
from .encoder import ACTIVATIONS, Encoder, Norm
from .packed import Packed, pack

K = TypeVar("K", bound="_Classifier")


def pool(x: Float[Tensor, "T D"], packed: Packed, how: Pooling) -> Float[Tensor, "S D"]:
    """One vector per document: that of its first token ("cls"), or the mean over its tokens.

    Sums are float32 whatever the dtype of ``x``, and the result has that of ``x``.
    """
    starts = packed.cu_seqlens.to(x.device, torch.int64)
    if how == "cls":
        return x[starts[:-1]]
    lengths = starts.diff()
    wide = torch.promote_types(x.dtype, torch.float32)
    sums = torch.zeros(len(lengths), x.shape[1], dtype=wide, device=x.device)
    sums = sums.index_add(0, packed.documents.to(x.device), x.to(wide))
    return (sums / lengths[:, None]).to(x.dtype)


class PredictionHead(nn.Module):
    """dense, activation, norm: shared by all heads of the family."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.dense = nn.Linear(width, width, bias=config.classifier_bias)
        self.activation = ACTIVATIONS[config.classifier_activation]
        self.norm = Norm(config)

    def forward(self, x: Float[Tensor, "rows D"]) -> Float[Tensor, "rows D"]:
        """Row by row."""
        return self.norm(self.activation(self.dense(x)))


class Decoder(nn.Module):
    """D to V; the weight is the embedding's unless the configuration unties them."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        shape = (config.vocab_size, config.hidden_size)
        tied, bias = config.tie_word_embeddings, config.decoder_bias
        self.register_parameter("weight", None if tied else nn.Parameter(torch.empty(shape)))
        self.register_parameter(
            "bias", nn.Parameter(torch.zeros(config.vocab_size)) if bias else None
        )

    def forward(
        self, x: Float[Tensor, "rows D"], embedding: Float[Tensor, "V D"]
    ) -> Float[Tensor, "rows V"]:
        """Row by row, with the embedding's weight where the two are tied."""
        return linear(x, embedding if self.weight is None else self.weight, self.bias)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer for a mask: the text without its leading space, its probability, its id."""

    text: str
    probability: float
    token_id: int


class MaskedLM(nn.Module):
    """The encoder with the head that it is pretrained by."""

    architecture = "ModernBertForMaskedLM"

    def __init__(self, config: EncoderConfig, attention: str = "auto") -> None:
        super().__init__()
        self.model = Encoder(config, attention)
        self.head = PredictionHead(config)
        self.decoder = Decoder(config)
        init.init_weights(self, config)

    @classmethod
    def load(
        cls,
        name_or_dir: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        attention: str = "auto",
        device: torch.device | str | None = None,
        revision: str | None = None,
    ) -> "MaskedLM":
        """As `Encoder.load`; a checkpoint without this head is refused."""
        return checkpoint.load(
            lambda config, _: cls(config, attention), name_or_dir, dtype, device, revision
        )

    def save(self, directory: str | Path, *, tokenizer: Tokenizer | None = None) -> None:
        """Write a Hugging Face directory (``ModernBertForMaskedLM``); see `checkpoint.save`."""
        checkpoint.save(self, directory, tokenizer=tokenizer)

    def forward(
        self, packed: Packed, positions: Int[Tensor, " rows"] | None = None
    ) -> Float[Tensor, "rows V"]:
        """Logits for every token, or only for the tokens (rows of the pack) in ``positions``."""
        x = self.model(packed)
        if positions is not None:
            x = x[positions.to(x.device)]
        return self.decoder(self.head(x), self.model.embeddings.tok_embeddings.weight)

    def loss(
        self, packed: Packed, positions: Int[Tensor, " rows"], targets: Int[Tensor, " rows"]
    ) -> Float[Tensor, ""]:
        """Sum of the cross entropy in nats over ``positions``, whose ids should be ``targets``."""
        x = self.head(self.model(packed)[positions.to(self.model.device)])
        own, tied = self.decoder.weight, self.model.embeddings.tok_embeddings.weight
        weight = tied if own is None else own
        return cross_entropy(x, weight, self.decoder.bias, targets.to(x.device))

    @torch.inference_mode()
    def fill(self, text: str, top_k: int = 5) -> list[list[Candidate]]:
        """Guess what stands behind each [MASK] of a text.

        Returns:
            For each mask, in order, its ``top_k`` candidates, likeliest first.

        Raises:
            InputError: the text has no mask, is too long, or the model has no tokenizer.
        """
        tokenizer = checkpoint.own_tokenizer(self.model)
        if not 1 <= top_k <= self.model.config.vocab_size:
            raise InputError(
                f"top_k = {top_k} is impossible", how=f"give 1 to {self.model.config.vocab_size}"
            )
        packed = pack([tokenizer.encode_masked(text)])
        masks = (packed.ids == tokenizer.mask_id).nonzero()[:, 0]
        self.eval()
        best = self(packed, masks).float().softmax(dim=-1).topk(top_k)
        return [
            [
                Candidate(tokenizer.decode([token]).strip(), probability, token)
                for probability, token in zip(*row, strict=True)
            ]
            for row in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


class _Classifier(nn.Module):
    """Encoder, head and C logits; what the two classifiers share.

    Args:
        config: geometry and arithmetic.
        labels: the C names, in the order of the logits.
        attention: see `Encoder`.
    """

    def __init__(
        self, config: EncoderConfig, labels: tuple[str, ...], attention: str = "auto"
    ) -> None:
        super().__init__()
        self.labels = labels
        self.model = Encoder(config, attention)
        self.head = PredictionHead(config)
        self.classifier = nn.Linear(config.hidden_size, len(labels))
        init.init_weights(self, config)

    @classmethod
    def load(
        cls: type[K],
        name_or_dir: str | Path,
        *,
        dtype: torch.dtype | str | None = None,
        attention: str = "auto",
        device: torch.device | str | None = None,
        revision: str | None = None,
    ) -> K:
        """As `Encoder.load`; a checkpoint without this head is refused."""
        return checkpoint.load(
            lambda config, raw: cls(config, read_labels(raw), attention),
            name_or_dir,
            dtype,
            device,
            revision,
        )

    def save(self, directory: str | Path, *, tokenizer: Tokenizer | None = None) -> None:
        """Write a Hugging Face directory; see `checkpoint.save`."""
        checkpoint.save(self, directory, tokenizer=tokenizer, labels=self.labels)

    def classify(self, x: Float[Tensor, "rows D"]) -> Float[Tensor, "rows C"]:
        """Head, dropout, logits."""
        x = dropout(self.head(x), self.model.config.classifier_dropout, self.training)
        return self.classifier(x)


class SequenceClassifier(_Classifier):
    """A document to C logits, pooled ("cls" or "mean", as the configuration says)."""

    architecture = "ModernBertForSequenceClassification"

    def forward(self, packed: Packed) -> Float[Tensor, "S C"]:
        """Logits of each document."""
        pooling = self.model.config.classifier_pooling
        return self.classify(pool(self.model(packed), packed, pooling))


class TokenClassifier(_Classifier):
    """Every token to C logits."""

    architecture = "ModernBertForTokenClassification"

    def forward(self, packed: Packed) -> Float[Tensor, "T C"]:
        """Logits of each token."""
        return self.classify(self.model(packed))
