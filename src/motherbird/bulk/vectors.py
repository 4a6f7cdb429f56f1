"""The vectors of a shard: one for each text, or with late interaction one for each token."""

import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..arrays import Float32
from ..core import hub
from ..core.arguments import check_texts
from ..engine.model import MAX_TOKENS, NativeModel
from ..errors import DamagedError, InputError
from ..files import sha256
from ..models import text_model
from ..models.embedder import Embedder
from ..models.late_embedder import LateEmbedder

Kind = Literal["query", "document"]


@dataclass(frozen=True)
class Encoded:
    """What a model computes for the n texts of a shard.

    Attributes:
        vectors: an array (n, D), or with late interaction an array (tokens, D) for each text.
        tokens: the number of tokens of all texts, also of those that have no vector.
        truncated: how many texts were truncated.
    """

    vectors: "Float32[np.ndarray, 'n D'] | list[Float32[np.ndarray, '_tokens D']]"
    tokens: int
    truncated: int


# Maps texts, and the names that errors call them by, to vectors; calls a function with the number
# of texts of each batch that is done.
Encode = Callable[[Sequence[str], Sequence[str], Callable[[int], None]], Encoded]


@dataclass(frozen=True)
class Settings:
    """What vectors depend on; None is what the model says until `load` has replaced it.

    Attributes:
        model, revision, dtype, attention, device, split_special_tokens: of `Embedder.load`.
        prompt: the text before each text.
        max_length, truncate, normalize, truncate_dim, batch_tokens: of `Embedder.embed`.
        kind: None, or with late interaction what the texts are.
        dimensions: the size of a vector.
        pooling: of the embedder.
        model_sha256: see `digest`.
    """

    model: str
    revision: str | None = None
    dtype: str = "auto"
    attention: str = "auto"
    device: str = "cpu"
    split_special_tokens: bool = False
    prompt: str | None = None
    max_length: int | None = None
    truncate: bool = False
    normalize: bool | None = None
    truncate_dim: int | None = None
    batch_tokens: int | None = None
    kind: Kind | None = None
    dimensions: int = 0
    pooling: str | None = None
    model_sha256: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the settings by name."""
        return asdict(self)


def digest(directory: Path) -> str:
    """Return the SHA-256 of the names and the SHA-256 of a model's files (JSON and weights)."""
    import hashlib

    files = {path for pattern in hub.PATTERNS for path in directory.rglob(pattern)}
    lines = [f"{path.relative_to(directory).as_posix()} {sha256(path)}\n" for path in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def load(settings: Settings, prompt_name: str | None = None) -> tuple[Settings, Encode]:
    """Load a model, and check the settings with a short text.

    Returns:
        The settings with what the model says in place of None and "auto", and the function.

    Raises:
        InputError: there is no such model, or a setting is not possible.
        DamagedError: the model is damaged, or its SHA-256 is not that of the settings.
    """
    directory = hub.find(settings.model, settings.revision)
    found = digest(directory)
    if settings.model_sha256 not in ("", found):
        what = "the model is not the one that the work began with (its SHA-256 differs)"
        raise DamagedError(what, str(directory), "use the same model everywhere")
    settings = replace(settings, model_sha256=found)
    settings, encode = (_dense if settings.kind is None else _late)(settings, prompt_name)
    with quiet():
        probe = encode(["a"], ["a text"], lambda texts: None).vectors[0]
    return replace(settings, dimensions=probe.shape[-1]), encode


def _loading(settings: Settings) -> dict[str, Any]:
    names = ("revision", "dtype", "attention", "device", "split_special_tokens")
    return {name: getattr(settings, name) for name in names}


def _dense(settings: Settings, prompt_name: str | None) -> tuple[Settings, Encode]:
    embedder = Embedder.load(settings.model, **_loading(settings))
    normalize, length = settings.normalize, settings.max_length
    settings = replace(
        settings, dtype=embedder.model.dtype, batch_tokens=_batch_tokens(embedder.model, settings),
        pooling=embedder.pooling,
        prompt=embedder.find_prompt(prompt_name, settings.prompt),
        normalize=embedder.normalize if normalize is None else normalize,
        max_length=embedder.max_length if length is None else length,
    )  # fmt: skip

    def encode(
        texts: Sequence[str], names: Sequence[str], on_batch: Callable[[int], None]
    ) -> Encoded:
        ids, truncated = embedder.tokenize(
            texts, prompt=settings.prompt, max_length=settings.max_length,
            truncate=settings.truncate, names=names,
        )  # fmt: skip
        vectors = embedder.embed_ids(
            ids, normalize=settings.normalize, truncate_dim=settings.truncate_dim,
            batch_tokens=settings.batch_tokens, on_batch=on_batch,
            left_out=embedder.left_out(None, settings.prompt),
        )  # fmt: skip
        return Encoded(vectors, sum(map(len, ids)), truncated)

    return settings, encode


def _late(settings: Settings, prompt_name: str | None) -> tuple[Settings, Encode]:
    """Load a model with `embed_tokens`, whose prompts and lengths depend on the kind of text."""
    given = [name for name in ("prompt", "normalize") if getattr(settings, name) is not None]
    given += ["prompt_name"] * (prompt_name is not None) + ["truncate"] * settings.truncate
    if given:
        option = f"--{given[0].replace('_', '-')}"
        raise InputError(f"{option} is not for late interaction", how=f"leave out {option}")
    embedder = LateEmbedder.load(settings.model, **_loading(settings))
    settings = replace(
        settings, dtype=embedder.model.dtype, batch_tokens=_batch_tokens(embedder.model, settings)
    )
    kind = settings.kind or "document"

    def encode(
        texts: Sequence[str], names: Sequence[str], on_batch: Callable[[int], None]
    ) -> Encoded:
        texts = check_texts(texts, names)
        try:
            pieces, truncated = embedder.divide(texts, kind, settings.max_length)
        except InputError as error:  # it calls texts by their numbers
            raise InputError(error.what, _named(error.where, names), error.how) from error
        vectors = embedder.embed_pieces(pieces, kind, settings.truncate_dim, settings.batch_tokens)
        on_batch(len(vectors))
        return Encoded(vectors, sum(piece.last - piece.first for piece in pieces), truncated)

    return settings, encode


def _batch_tokens(model: object, settings: Settings) -> int | None:
    """Return the tokens of a batch, which may not depend on the number of threads.

    The engine computes a text alike in any batch, but products of NumPy after it do not.
    """
    if settings.batch_tokens is None and isinstance(model, NativeModel):
        return MAX_TOKENS
    return settings.batch_tokens


def _named(where: str, names: Sequence[str]) -> str:
    """Return "text 3" with the name of the text."""
    return re.sub(r"\btext (\d+)", lambda found: names[int(found[1])], where, count=1)


@contextmanager
def quiet() -> Iterator[None]:
    """Do not log how many texts of a shard were truncated; the sum is logged at the end."""
    before = text_model.log.level
    text_model.log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        text_model.log.setLevel(before)


def absolute(settings: Settings) -> Settings:
    """Return settings whose model is found from any directory."""
    if hub.is_included(settings.model) or not os.path.isdir(settings.model):
        return settings
    return replace(settings, model=os.path.abspath(settings.model))
