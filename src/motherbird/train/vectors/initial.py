"""What a run of vectors starts from: an encoder with its tokenizer, or static vectors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...arrays import Float32, Float64
from ...core import hub, weights
from ...core import tokenizer as tokenizers
from ...core.config import EncoderConfig
from ...core.tokenizer import Tokenizer
from ...errors import InputError
from ...files import sha256
from ...models import late_files
from ...models.modules import is_late, read_modules
from ...models.static_embedder import StaticEmbedder, is_static, padding_direction
from ...nn.encoder import Encoder
from ..recipe import Geometry

# Factor of the matrices that write to the residual stream, so that layers add little at first.
QUIET = 0.05
# Fraction of the tokens of a table whose vectors keep their length; longer ones are shortened.
KEPT = 0.9


@dataclass(frozen=True, eq=False)
class Start:
    """An encoder before the first step; it is built by `encoder`."""

    directory: Path
    config: EncoderConfig
    tokenizer: Tokenizer
    static: StaticEmbedder | None = None  # a new encoder begins as these static vectors
    modules: Mapping[str, Any] = field(default_factory=dict)  # arguments of its class
    late: bool = False  # whether the class is `LateEmbedder`, and not `Embedder`

    def digest(self) -> list[str]:
        """Return the SHA-256 of the files that have the weights."""
        files = weights.weight_files(self.directory)
        files += [self.directory / "tokenizer.json"] if self.static is not None else []
        return [sha256(file) for file in files]

    def encoder(self, seed: int) -> Encoder:
        """Build the encoder in float32, with its tokenizer."""
        if self.static is None:
            encoder = Encoder.load(self.directory, dtype="float32", split_special_tokens=True)
            encoder.config = self.config
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                encoder = Encoder(self.config)
            begin_as(encoder, self.static.table, seed)
        encoder.tokenizer = self.tokenizer
        return encoder


def find_start(name_or_dir: str, preset: str | None) -> Start:
    """Return what a run starts from.

    Args:
        name_or_dir: a checkpoint of the family, or static vectors.
        preset: the configuration of the encoder that begins as static vectors; None is nano.

    Raises:
        InputError: there is no such model, or it has no tokenizer.
    """
    directory = hub.find(name_or_dir)
    if is_static(directory):
        static = StaticEmbedder.load(directory)
        tokenizer = tokenizers.load(directory, True)
        shape = Geometry(preset=preset or "nano", dropout=0.0)  # type: ignore[arg-type]
        return Start(directory, shape.config(tokenizer), tokenizer, static)
    if preset is not None:
        how = "leave it out, or start from static vectors"
        raise InputError("a preset is for an encoder that begins as static vectors", preset, how)
    late = is_late(directory)
    place, modules = (late_files.read if late else read_modules)(directory)
    config = weights.encoder_config(place)
    found = weights.load_tokenizer(place, config, True)
    if found is None:
        raise InputError("the model has no tokenizer", str(place), "add its tokenizer.json")
    if late:
        modules = late_files.with_prefixes(modules, found)
    return Start(place, config, found, None, modules, late)


@torch.no_grad()
def begin_as(encoder: Encoder, table: Float32[np.ndarray, "V d"], seed: int) -> None:
    """Make a new encoder compute static vectors: its mean vector is a linear map of theirs.

    The `padding_direction` gives all embeddings the same length: the norms divide by
    the same number, and the length of a static vector, its weight in the mean, is kept. The other
    dimensions are a random rotation of the first dimensions of the table. The layers add little.

    Args:
        encoder: a new encoder.
        table: the vector of each token, dimensions in the order of how much they vary.
        seed: decides the rotation.
    """
    width = encoder.config.hidden_size
    basis = to_static(width, table.shape[1], seed)
    own = np.asarray(table[:, : len(basis)], np.float64)
    lengths = np.linalg.norm(own, axis=1, keepdims=True)
    longest = np.quantile(lengths, KEPT)
    own = own * np.minimum(1, longest / np.maximum(lengths, 1e-9))
    rest = np.sqrt(np.maximum(0, longest**2 - np.square(own).sum(axis=1, keepdims=True)))
    padding = padding_direction(width)
    rows = own @ basis + rest * padding
    # Tokens that the table does not have are like those whose vector is 0.
    whole = np.tile(padding * longest, (encoder.config.vocab_size, 1))
    whole[: len(rows)] = rows
    whole *= width**0.5 / longest  # the length after the norm
    encoder.embeddings.tok_embeddings.weight.copy_(torch.from_numpy(whole.astype(np.float32)))
    for name, parameter in encoder.named_parameters():
        if name.endswith("Wo.weight"):
            parameter.mul_(QUIET)


def to_static(width: int, dimensions: int, seed: int) -> Float64[np.ndarray, "d D"]:
    """Return the matrix that maps the mean vector of an encoder after `begin_as` to static vectors.

    Args:
        width: D, the hidden size of the encoder.
        dimensions: those of the table, of which the first width - 3 are kept.
        seed: that of `begin_as`.

    Returns:
        Orthogonal rows of length 1, with a mean of 0, which the norms would subtract.
    """
    size = min(dimensions, width - 3)
    random = np.random.default_rng(seed).normal(size=(size, width))
    found, _ = np.linalg.qr(
        np.concatenate([np.ones((1, width)), padding_direction(width)[None], random]).T
    )
    return found[:, 2:].T
