"""Vectors of queries and documents by any model, for each text or each token, and rerankers."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..arrays import Float32
from ..core import hub
from ..core.arguments import check_integer
from ..errors import InputError, require_extra
from ..files import read_json_object
from ..models.embedder import Embedder
from ..models.late_embedder import LateEmbedder
from ..models.late_files import projects
from ..models.modules import is_late, prompt_name
from ..models.reranker import Reranker
from ..models.static_embedder import StaticEmbedder, is_static

Kind = Literal["query", "document"]
Embed = Callable[[Sequence[str], Kind], Float32[np.ndarray, "n D"]]
EmbedTokens = Callable[[Sequence[str], Kind], list[Float32[np.ndarray, "tokens d"]]]
Score = Callable[[str, Sequence[str]], Float32[np.ndarray, " n"]]  # of documents, for a query


def open_embedder(
    name_or_dir: str, *, revision: str | None = None, windows: bool = False, **options: Any
) -> Embed:
    """Return what computes vectors of length 1 with a model.

    A prompt of this kind ("query"; "document", "passage" or "corpus") is put before texts.

    Args:
        name_or_dir: a directory or name of motherbird, of static vectors, or of any model of
            sentence-transformers, which is needed for it.
        revision: branch, tag or commit on the Hub.
        windows: compute texts above the limit of a model of motherbird in windows, see
            `Embedder.embed`; otherwise, and by other models, they are truncated. Static vectors
            have no limit.
        options: of `Embedder.load`.

    Raises:
        InputError: there is no such model, or it is not one that gives a vector for each text.
    """
    directory = hub.find(name_or_dir, revision)
    if is_static(directory):
        static = StaticEmbedder.load(directory)
        return lambda texts, kind: static.embed(texts, normalize=True)
    if is_late(directory):
        what = "the model has a vector for each token, not for each text"
        raise InputError(what, str(directory), "use the mode late")
    if is_ours(directory):
        embedder = Embedder.load(directory, **options)
        return lambda texts, kind: embedder.embed(
            texts, normalize=True, truncate=not windows, windows=windows,
            prompt_name=prompt_name(embedder.prompts, kind),
        )  # fmt: skip
    return _foreign(directory, options)


def open_late(
    name_or_dir: str,
    *,
    revision: str | None = None,
    truncate_dim: int | None = None,
    **options: Any,
) -> EmbedTokens:
    """Return what computes the vectors of tokens with a late-interaction model.

    Queries are truncated to the model's limit; longer documents have windows.

    Args:
        name_or_dir: a directory or name of a model of `LateEmbedder`, or of any MultiVectorEncoder
            of sentence-transformers 6, which is needed for it and truncates documents.
        revision: branch, tag or commit on the Hub.
        truncate_dim: keep only the first dimensions of a vector.
        options: of `LateEmbedder.load`.

    Raises:
        InputError: there is no such model, it is of another kind or has fewer dimensions than
            ``truncate_dim``, or it is of sentence-transformers and ``truncate_dim`` is given, which
            that library does not have.
    """
    directory = hub.find(name_or_dir, revision)
    if not is_late(directory) and not (is_ours(directory) and projects(directory)):
        what = "this is not a late-interaction model"
        raise InputError(what, str(directory), "use the mode dense")
    if is_ours(directory):
        late = LateEmbedder.load(directory, **options)
        if truncate_dim is not None:
            check_integer(truncate_dim, "truncate_dim", 1, late.size)
        limits = {"query": late.lengths["query"], "document": None}
        return lambda texts, kind: late.embed_tokens(
            texts, kind, max_length=limits[kind], truncate_dim=truncate_dim
        )
    if truncate_dim is not None:
        what = "sentence-transformers cannot keep the first dimensions of vectors of tokens"
        raise InputError(what, str(directory), "leave out truncate_dim, or use another model")
    model = _load(directory, options, "MultiVectorEncoder")

    def embed(texts: Sequence[str], kind: Kind) -> list[Float32[np.ndarray, "tokens d"]]:
        encode = model.encode_query if kind == "query" else model.encode_document
        found = encode(list(texts), show_progress_bar=False)
        return [vectors.float().cpu().numpy() for vectors in found]

    return embed


def open_reranker(name_or_dir: str, *, revision: str | None = None, **options: Any) -> Score:
    """Return what scores documents for a query with a cross-encoder.

    Longer pairs are truncated to the model's limit.

    Args:
        name_or_dir: a directory or name of a model of `Reranker`, or of any CrossEncoder of
            sentence-transformers with one label, which is needed for it.
        revision: branch, tag or commit on the Hub.
        options: of `Reranker.load`.

    Raises:
        InputError: there is no such model, or it does not compute one number.
    """
    directory = hub.find(name_or_dir, revision)
    if is_ours(directory):
        reranker = Reranker.load(directory, **options)
        return lambda query, documents: reranker.score(query, documents, truncate=True)
    model = _load(directory, options, "CrossEncoder")
    if model.num_labels != 1:
        what = f"this model cannot rerank: it predicts {model.num_labels} labels, no number"
        raise InputError(what, str(directory), "use a cross-encoder with one label")

    def score(query: str, documents: Sequence[str]) -> Float32[np.ndarray, " n"]:
        pairs = [(query, document) for document in documents]
        return np.asarray(model.predict(pairs, show_progress_bar=False), np.float32)

    return score


def is_ours(directory: Path) -> bool:
    """Return whether motherbird computes a model itself."""
    config = directory / "config.json"
    return config.is_file() and read_json_object(config).get("model_type") == "modernbert"


def truncates(name_or_dir: str, *, revision: str | None = None) -> bool:
    """Return whether a model of `open_embedder` or `open_late` truncates long documents."""
    directory = hub.find(name_or_dir, revision)
    return not (is_ours(directory) or is_static(directory))


def load_foreign(
    directory: Path, device: Any = None, dtype: Any = "auto", kind: str = "SentenceTransformer"
) -> Any:
    """Load a model of sentence-transformers from a local directory; "auto" is the fastest dtype.

    Args:
        directory: of the model.
        device: a torch device or its name; None is the CPU.
        dtype: "auto", a torch dtype or its name.
        kind: the class in sentence-transformers.

    Raises:
        InputError: sentence-transformers is not installed, too old, or cannot load it.
    """
    library = require_extra("sentence_transformers", "distill")
    logs = require_extra("transformers", "distill").utils.logging
    from ..nn.devices import fastest_dtype, resolve_device, resolve_dtype

    if not hasattr(library, kind):
        what = f"sentence-transformers {library.__version__} has no {kind}"
        raise InputError(what, str(directory), "install version 6 or later")
    where = resolve_device(device)
    wanted = fastest_dtype(where) if dtype == "auto" else resolve_dtype(dtype, where)
    verbosity, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity_error()  # a report of weights that are not used
    logs.disable_progress_bar()
    try:
        return getattr(library, kind)(
            str(directory), device=str(where), local_files_only=True, model_kwargs={"dtype": wanted}
        )
    except (OSError, ValueError, KeyError) as error:
        what = f"sentence-transformers cannot load the model: {error}".splitlines()[0]
        raise InputError(what, str(directory)) from error
    finally:
        logs.set_verbosity(verbosity)
        if bars:
            logs.enable_progress_bar()


def _load(directory: Path, options: dict[str, Any], kind: str) -> Any:
    return load_foreign(directory, options.get("device"), options.get("dtype", "auto"), kind)


def _foreign(directory: Path, options: dict[str, Any]) -> Embed:
    model = _load(directory, options, "SentenceTransformer")

    def embed(texts: Sequence[str], kind: Kind) -> Float32[np.ndarray, "n D"]:
        encode = model.encode_query if kind == "query" else model.encode_document
        found = encode(list(texts), normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, np.float32)

    return embed
