"""motherbird: a ModernBERT encoder without padding.

Public names are imported when they are first used, so that ``import motherbird`` and the help of
the command line take milliseconds and do not import torch. `motherbird.nn` has the torch modules.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import nn as nn
    from .core import presets as presets
    from .core.config import EncoderConfig as EncoderConfig
    from .core.tokenizer import Tokenizer as Tokenizer
    from .core.tokenizer import tokenizer as tokenizer
    from .engine.maxsim import maxsim as maxsim
    from .engine.maxsim import maxsim_many as maxsim_many
    from .errors import DamagedError as DamagedError
    from .errors import InputError as InputError
    from .errors import MotherbirdError as MotherbirdError
    from .models.accelerate import accelerate as accelerate
    from .models.accelerate import restore as restore
    from .models.classifier import Classifier as Classifier
    from .models.dense import Dense as Dense
    from .models.embedder import Embedder as Embedder
    from .models.guard import Guard as Guard
    from .models.late_embedder import LateEmbedder as LateEmbedder
    from .models.masked_lm import MaskedLM as MaskedLM
    from .models.reranker import Reranker as Reranker
    from .models.router import Router as Router
    from .models.scorer import Scorer as Scorer
    from .models.static_embedder import StaticEmbedder as StaticEmbedder
    from .models.tagger import Tagger as Tagger
    from .search.documents import DocumentIndex as DocumentIndex
    from .search.index import Index as Index

_HOMES = {
    "Classifier": "models.classifier",
    "DamagedError": "errors",
    "Dense": "models.dense",
    "DocumentIndex": "search.documents",
    "Embedder": "models.embedder",
    "EncoderConfig": "core.config",
    "Guard": "models.guard",
    "Index": "search.index",
    "InputError": "errors",
    "LateEmbedder": "models.late_embedder",
    "MaskedLM": "models.masked_lm",
    "MotherbirdError": "errors",
    "Reranker": "models.reranker",
    "Router": "models.router",
    "Scorer": "models.scorer",
    "StaticEmbedder": "models.static_embedder",
    "Tagger": "models.tagger",
    "Tokenizer": "core.tokenizer",
    "accelerate": "models.accelerate",
    "maxsim": "engine.maxsim",
    "maxsim_many": "engine.maxsim",
    "nn": "",
    "presets": "core",
    "restore": "models.accelerate",
    "tokenizer": "core.tokenizer",
}
__all__ = ["__version__", *sorted(_HOMES)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'motherbird' has no attribute {name!r}")
    from importlib import import_module

    home = ".".join(part for part in ("motherbird", _HOMES[name]) if part)
    if name in ("nn", "presets"):  # modules themselves
        return import_module(f"{home}.{name}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
