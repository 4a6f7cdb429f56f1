"""Models with a head, one file each: the encoder and what is computed from its token vectors."""

from .base import IGNORED, HeadModel, pool
from .masked_lm import MaskedLM
from .sequence_classifier import SequenceClassifier
from .token_classifier import TokenClassifier

__all__ = [
    "HEADS",
    "IGNORED",
    "HeadModel",
    "MaskedLM",
    "SequenceClassifier",
    "TokenClassifier",
    "pool",
]

HEADS = (MaskedLM, SequenceClassifier, TokenClassifier)
