"""Vectors of queries and documents, by any model that gives one vector for a text."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from ..core import hub
from ..errors import InputError, require_extra
from ..files import read_json_object
from ..models.embedder import Embedder
from ..models.static_embedder import StaticEmbedder, is_static

Kind = Literal["query", "document"]
Embed = Callable[[Sequence[str], Kind], Float32[np.ndarray, "n D"]]


def open_embedder(name_or_dir: str, *, revision: str | None = None, **options: Any) -> Embed:
    """Return what computes vectors of length 1 with a model.

    Longer texts are truncated to the model's limit. A prompt called "query" or "document" is put
    before texts of this kind.

    Args:
        name_or_dir: a directory or name of motherbird, of static vectors, or of any model of
            sentence-transformers, which is needed for it.
        revision: branch, tag or commit on the Hub.
        options: of `Embedder.load`.

    Raises:
        InputError: there is no such model, or it is not one that gives a vector for each text.
    """
    directory = hub.find(name_or_dir, revision)
    if is_static(directory):
        static = StaticEmbedder.load(directory)
        return lambda texts, kind: static.embed(texts, normalize=True)
    if _is_ours(directory):
        embedder = Embedder.load(directory, **options)
        return lambda texts, kind: embedder.embed(
            texts, normalize=True, truncate=True,
            prompt_name=kind if kind in embedder.prompts else None,
        )  # fmt: skip
    return _foreign(directory, options)


def _is_ours(directory: Path) -> bool:
    config = directory / "config.json"
    return config.is_file() and read_json_object(config).get("model_type") == "modernbert"


def load_foreign(directory: Path, device: Any = None, dtype: Any = "auto") -> Any:
    """Load a SentenceTransformer from a local directory; "auto" is the fastest dtype.

    Raises:
        InputError: sentence-transformers is not installed, or cannot load it.
    """
    library = require_extra("sentence_transformers", "distill")
    logs = require_extra("transformers", "distill").utils.logging
    from ..nn.devices import fastest_dtype, resolve_device, resolve_dtype

    where = resolve_device(device)
    wanted = fastest_dtype(where) if dtype == "auto" else resolve_dtype(dtype, where)
    verbosity, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()  # a report of weights that are not used
    logs.disable_progress_bar()
    try:
        return library.SentenceTransformer(
            str(directory), device=str(where), local_files_only=True, model_kwargs={"dtype": wanted}
        )
    except (OSError, ValueError, KeyError) as error:
        what = f"sentence-transformers cannot load the model: {error}".splitlines()[0]
        raise InputError(what, str(directory)) from error
    finally:
        logs.set_verbosity(verbosity)
        if bars:
            logs.enable_progress_bar()


def _foreign(directory: Path, options: dict[str, Any]) -> Embed:
    model = load_foreign(directory, options.get("device"), options.get("dtype", "auto"))

    def embed(texts: Sequence[str], kind: Kind) -> Float32[np.ndarray, "n D"]:
        encode = model.encode_query if kind == "query" else model.encode_document
        found = encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, np.float32)

    return embed
