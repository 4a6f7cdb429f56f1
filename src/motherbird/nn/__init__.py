"""The encoder and its heads in PyTorch."""

from .encoder import Encoder
from .heads import MaskedLM, SequenceClassifier, TokenClassifier
from .packed import Packed, pack, repad, unpack

__all__ = [
    "Encoder", "MaskedLM", "Packed", "SequenceClassifier", "TokenClassifier", "pack", "repad",
    "unpack",
]  # fmt: skip
