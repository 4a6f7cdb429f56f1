"""The vectors of a teacher, which are computed once and kept."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from ... import files
from ...arrays import Float32
from ...core import hub
from ...retrieval.embedders import load_foreign

SHARD = 4096  # texts whose vectors are in a file


class Teacher:
    """A model of sentence-transformers, of which only the vectors of texts are used.

    Args:
        name_or_dir: its directory, or its name on the Hub.
        device: a torch device; None is the CPU.

    Attributes:
        size: dimensions of its vectors.

    Raises:
        InputError: there is no such model, or sentence-transformers cannot load it.
    """

    def __init__(self, name_or_dir: str, device: str | None = None) -> None:
        self.directory = hub.find(name_or_dir)
        self.model = load_foreign(self.directory, device)
        self.size = self.embed(["size"]).shape[1]

    @cached_property
    def digest(self) -> dict[str, str]:
        """The SHA-256 of the weights and of every file of settings, by name."""
        found = sorted(
            path
            for pattern in ("*.json", "*.safetensors", "*.bin")
            for path in self.directory.rglob(pattern)
        )
        return {path.relative_to(self.directory).as_posix(): files.sha256(path) for path in found}

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "n D"]:
        """Return a vector of length 1 for each text."""
        found = self.model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False, batch_size=64
        )
        return np.asarray(found, np.float32)

    def vectors(
        self, texts: Sequence[str], folder: Path, on_texts: Callable[[int], None]
    ) -> Float32[np.ndarray, "n D"]:
        """Return the vectors of many texts, rounded to float16; those that are in files are read.

        Args:
            texts: texts.
            folder: directory of the files; a file is named by its texts and the teacher.
            on_texts: called with the number of texts of each file that is there.
        """
        parts = []
        settings = json.dumps(self.digest, sort_keys=True)
        for first in range(0, len(texts), SHARD):
            own = texts[first : first + SHARD]
            key = hashlib.sha256("\0".join([settings, *own]).encode()).hexdigest()
            path = folder / f"vectors-{key[:32]}.npy"
            if not path.is_file():
                files.write_array(path, self.embed(own).astype(np.float16))
            parts.append(np.load(path))
            on_texts(len(own))
        return np.concatenate(parts).astype(np.float32)
