"""The models whose vectors an index has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from ..core import hub, weights
from ..files import sha256
from ..models.static_embedder import StaticEmbedder


@runtime_checkable
class Vectors(Protocol):
    """A model of vectors."""

    name: str  # what the vectors depend on; those of other names are not compared with them

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        """Return a vector of length 1 for each text; 0 for one without tokens."""


class StaticVectors:
    """Static vectors: fast enough for all files of a directory that was never seen before.

    Args:
        name_or_dir: see `StaticEmbedder.load`.
    """

    def __init__(self, name_or_dir: str | Path) -> None:
        directory = hub.find(name_or_dir)
        self.model = StaticEmbedder.load(directory)
        digests = [sha256(path)[:16] for path in weights.weight_files(directory)]
        self.name = " ".join(["static", *digests])

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        """Return a vector of length 1 for each text; 0 for one without tokens."""
        return self.model.embed(texts, normalize=True)


def load(name_or_dir: str | Path | None) -> StaticVectors | None:
    """Load static vectors, or return None where no model is given."""
    return None if name_or_dir is None else StaticVectors(name_or_dir)
