"""The models whose vectors an index has."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from ..arrays import Float32
from ..core import hub, weights
from ..files import MANIFEST, read_manifest, sha256
from ..models.modules import read_modules
from ..models.static_embedder import StaticEmbedder, is_static, place_of


@runtime_checkable
class Vectors(Protocol):
    """A model of vectors."""

    name: str  # what the vectors depend on; those of other names are not compared with them

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        """Return a vector of length 1 for each text; 0 for one without tokens."""


class StaticVectors:
    """Static vectors: fast enough for all files of a directory that was never seen before.

    Args:
        name_or_dir: static vectors, or an encoder initialized from them; see `StaticEmbedder`.
    """

    def __init__(self, name_or_dir: str | Path) -> None:
        directory = hub.find(name_or_dir)
        if is_static(directory):
            self.model = StaticEmbedder.load(directory)
            place = place_of(directory)
        else:
            self.model = StaticEmbedder.from_encoder(directory)
            place, _ = read_modules(directory)
        files = weights.weight_files(place)  # loading verified them by the manifest
        digests = [_recorded_digest(file) or sha256(file) for file in files]
        self.name = " ".join(["static", *(digest[:16] for digest in digests)])

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        """Return a vector of length 1 for each text; 0 for one without tokens."""
        return self.model.embed(texts, normalize=True)


def load(model: str | Path | Vectors | None) -> Vectors | None:
    """Load static vectors by name or directory; return other vectors, and None, as they are."""
    return StaticVectors(model) if isinstance(model, str | Path) else model


def _recorded_digest(path: Path) -> str | None:
    """Return the SHA-256 of a file by the manifest of its directory or the parent, if it has it."""
    for home in (path.parent, path.parent.parent):
        if (home / MANIFEST).is_file():
            found = read_manifest(home)["sha256"].get(path.relative_to(home).as_posix())
            if found is not None:
                return str(found)
    return None
